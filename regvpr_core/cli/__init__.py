"""The `regvpr` command. Only the module of the command that is called is imported."""

import argparse
from collections.abc import Sequence
from importlib import import_module
import os
import sys

from regvpr_core.cli.parsing import Parser, wrapped

REFUSED = 1
USAGE = 2
CLOSED_PIPE = 141
"""Exit code that a shell reports for a command ended by SIGPIPE."""

COMMANDS = {
    'quickstart': ('quickstart', 'a bag or a folder of images becomes a map'),
    'map': ('maps', 'place maps: build, look at, check, join, share'),
    'localize': ('localize', 'find where images were taken, by a map'),
    'describe': ('describe', 'image files and folders become descriptors.npz'),
    'heatmap': ('heatmap', 'draw heatmaps of what networks attend to'),
    'evaluate': ('evaluate', "compare models by the field's protocols, with a report"),
    'site-report': ('site_report', 'compare models on two drives of your own site'),
    'train': ('train', 'train a model by a preset or a file of settings'),
    'export': ('export', 'a model becomes an ONNX file, checked against torch'),
    'models': ('models', 'published models: list, fetch, benchmark'),
    'weights': ('weights', 'list and fetch backbone weights'),
    'doctor': ('doctor', 'check the installation, and say how to complete it'),
}
"""Name of a command, its module, and what it does in a line."""

EXAMPLES = """start here:
  regvpr quickstart DRIVE.mcap --out site     a bag becomes a map
  regvpr quickstart PHOTOS/ --out site        so does a folder of images
  regvpr localize site/map QUERY.jpg          where was it taken?
  regvpr doctor                               what is missing on this machine?"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exit codes 0, 1 (refused input, one line says why) and 2 (usage)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = make_parser(next((w for w in words if not w.startswith('-')), '')).parse_args(words)
    from regvpr_core.errors import ConfigError, RegvprError

    # Before torch is loaded, as in scripts/localize: short waits of threads for each other.
    os.environ.setdefault('GOMP_SPINCOUNT', '1000')
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe has closed it: output flushed at exit goes to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except (RegvprError, OSError) as error:
        return _refused(error)
    except ModuleNotFoundError as error:
        if error.name != 'torch':
            raise
        return _refused(ConfigError("this command needs torch: pip install 'regvpr_ros[torch]'"))
    except KeyboardInterrupt:
        print('regvpr: interrupted', file=sys.stderr)  # noqa: T201
        return 130
    return 0


def make_parser(called: str) -> argparse.ArgumentParser:
    """The parser of all commands; only the command `called` gets its arguments."""
    from regvpr_core import __version__

    parser = Parser(
        prog='regvpr', epilog=EXAMPLES,
        description=wrapped('Visual place recognition: recognise from camera images where a '
                            'robot has been before.'))
    parser.add_argument('--version', action='version', version=f'regvpr {__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True, title='commands')
    for name, (module, summary) in COMMANDS.items():
        if name == called:
            import_module(f'regvpr_core.cli.{module}').add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    return parser


def _refused(error: Exception) -> int:
    """Print the error in one line."""
    from regvpr_core.cli.console import plain

    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f'{os.fspath(error.filename)!s}: {error.strerror}'
    print(f'regvpr: {plain(" ".join(text.split()))}', file=sys.stderr)  # noqa: T201
    return REFUSED
