"""The `regvpr` command. Each sub-command is a module with `add_parser`; heavy imports are late."""

import argparse
from collections.abc import Sequence
import sys

from regvpr_core import __version__
from regvpr_core.cli import (
    describe,
    doctor,
    evaluate,
    export,
    heatmap,
    localize,
    maps,
    train,
    weights,
)
from regvpr_core.cli.console import plain
from regvpr_core.errors import RegvprError

REFUSED = 1
USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exit codes 0, 1 (refused input, one line says why) and 2 (usage)."""
    parser = argparse.ArgumentParser(
        prog='regvpr', description='Visual place recognition: place maps, descriptors, weights.')
    parser.add_argument('--version', action='version', version=f'regvpr {__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for module in (maps, localize, describe, heatmap, evaluate, export, train, weights, doctor):
        module.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (RegvprError, OSError) as error:
        print(f'regvpr: {plain(" ".join(str(error).split()))}', file=sys.stderr)  # noqa: T201
        return REFUSED
    except KeyboardInterrupt:
        print('regvpr: interrupted', file=sys.stderr)  # noqa: T201
        return 130
    return 0
