"""`regvpr train`: train a model from a config, or resume an interrupted run."""

import argparse
from collections.abc import Iterable
import itertools
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

from rich.console import Console

from regvpr_core.cli.console import cell, print_facts, say, say_next
from regvpr_core.cli.parsing import add_command
from regvpr_core.config import DEFAULT_MODEL, find_settings, preset_names, PRESETS
from regvpr_core.errors import ConfigError

if TYPE_CHECKING:
    from regvpr_core.training.config import TrainConfig
    from regvpr_core.training.trainer import Watch

LINES = 10
"""Number of progress lines printed if standard error is not a terminal."""


def add_parser(commands: Any) -> None:
    """Add `train` to the command line."""
    parser = add_command(
        commands, 'train', 'train a model by a preset or a file of settings',
        'regvpr train --list',
        'regvpr train --config places --set data_root=PLACES --set steps=5 -o RUN',
        'regvpr train --config table1_regvpr --set data_root=DATA -o RUN',
        'regvpr train --config own.yaml -o RUN --resume',
        'regvpr train --map monday tuesday --bag monday.mcap tuesday.mcap -o RUN',
        'regvpr train distil --teacher megaloc --map site --bag DRIVE.mcap -o RUN',
        'torchrun --nproc-per-node 4 -m regvpr_core.cli train --config table1_regvpr -o RUN',
        description='Train a model. Preset `places` takes a folder with a subfolder of images '
                    'for each place; --map takes the maps of your own site. A run that was '
                    'interrupted goes on with --resume.')
    parser.add_argument('verb', nargs='?', choices=('distil',), metavar='distil',
                        help='learn the similarities of --teacher on images without places')
    parser.add_argument('--map', type=Path, nargs='+', default=[], metavar='MAP',
                        help='train on the images of maps of your own site, in one frame (preset '
                             'site); a stretch of the first is held out')
    parser.add_argument('--bag', type=Path, nargs='+', default=[], metavar='SOURCE',
                        help='recordings with the original images; else the stored thumbnails')
    parser.add_argument('--other', type=Path, nargs='+', default=[], metavar='MAP',
                        help='maps of another site, to report how recall changes there')
    parser.add_argument('--teacher', default='', metavar='MODEL', help='of distil')
    parser.add_argument('--config', metavar='NAME|FILE',
                        help='settings of the run: a preset such as table1_regvpr, or a YAML file')
    parser.add_argument('--list', action='store_true', help='list the presets and stop')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='one setting, e.g. data_root=/data or optimiser.lr=1e-4')
    parser.add_argument('-o', '--out', type=Path, metavar='RUN',
                        help='folder of the run')
    parser.add_argument('--resume', action='store_true', help='go on with the run in RUN')
    parser.add_argument('--tensorboard', action='store_true', help='event files in RUN')
    parser.add_argument('--json', action='store_true', help='print the result as JSON')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train, and print the paths of the checkpoints."""
    if options.list:
        print_presets(options.json)
        return
    if (options.verb == 'distil') != bool(options.teacher):
        raise ConfigError('distil and --teacher MODEL go together: regvpr train distil --teacher '
                          'MODEL --map MAP -o RUN')
    if options.teacher and not options.map:
        raise ConfigError('--map MAP is missing: distil learns on the images of maps')
    if options.map and options.config is None:
        options.config = 'site'
    find_settings('train', _given(options.config, '--config NAME|FILE'))
    _given(options.out, '-o RUN')
    if options.map:
        from regvpr_core.cli.train_site import run_site

        run_site(options)
        return
    from regvpr_core.training.interrupts import Stopped
    from regvpr_core.training.processes import is_first_process
    from regvpr_core.training.settings import read_train_config
    from regvpr_core.training.trainer import train

    config = read_train_config(options.config, options.set)
    console = Console(stderr=True)
    shown = BarWatch(console)
    watches: list[Watch] = [shown]
    if options.tensorboard and is_first_process():
        from regvpr_core.training.tensorboard import TensorBoardWatch
        watches.append(TensorBoardWatch(options.out / 'tensorboard'))
    with_all = Watches(watches)
    try:
        progress = train(config, options.out, with_all, resume=options.resume)
    except Stopped as stop:
        with_all.close()
        again = '--resume' if (options.out / 'state.safetensors').exists() else 'the same command'
        say(console, f'{stop}; go on with {again}')
        raise KeyboardInterrupt from stop
    finally:
        with_all.close()
    if is_first_process():
        best = options.out / ('best' if progress.best >= 0 else 'last')
        print_facts(result(config, options.out, progress.step, progress.best, progress.best_step,
                           progress.seconds, shown.losses), options.json,
                    f'regvpr evaluate --model {best}.safetensors --model {DEFAULT_MODEL} '
                    f'--references FOLDER --queries FOLDER -o report')


def _given(value: Any, option: str) -> Any:
    if value is None:
        raise ConfigError(f'{option} is missing; regvpr train --list shows the presets')
    return value


def print_presets(as_json: bool) -> None:
    """Print the presets of training with the first line of their comments."""
    from rich.table import Table

    about = {}
    for name in preset_names('train'):
        lines = (PRESETS / 'train' / f'{name}.yaml').read_text(encoding='utf-8').splitlines()
        comment = itertools.takewhile(lambda line: line.startswith('#'), lines)
        text = ' '.join(line.lstrip('# ') for line in comment)
        about[name] = text.partition(': ')[0].rstrip('.')
    if as_json:
        print(json.dumps(about, indent=1))  # noqa: T201
        return
    table = Table(box=None, pad_edge=False)
    table.add_column('preset', no_wrap=True)
    table.add_column('what it trains')
    for name, text in about.items():
        table.add_row(cell(name), cell(text))
    Console().print(table)
    say_next(Console(stderr=True),
             'regvpr train --config places --set data_root=PLACES --set steps=5 -o RUN')


def result(
    config: 'TrainConfig', folder: Path, step: int, best: float, best_step: int, seconds: float,
    losses: list[float],
) -> dict[str, Any]:
    """Print the result of a finished run."""
    facts: dict[str, Any] = {'name': config.name, 'steps': step,
                             'step_seconds': round(seconds, 1)}
    if losses:
        facts |= {'loss_at_first': round(losses[0], 4), 'loss_at_last': round(losses[-1], 4)}
    facts |= {'last': str(folder / 'last.safetensors'), 'record': str(folder / 'record.json')}
    if best >= 0:
        facts |= {'best': str(folder / 'best.safetensors'), 'best_step': best_step,
                  'best_mean_recall_at_1': round(best, 4)}
    return facts


class BarWatch:
    """Draws a bar on standard error, and prints a line after each validation."""

    def __init__(self, console: Console) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = console
        self._bar = Progress(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
                             TimeRemainingColumn(), TextColumn('{task.fields[note]}'),
                             console=console, transient=True, disable=not console.is_terminal)
        self.losses: list[float] = []
        self._tasks: dict[str, Any] = {}

    def begin(self, facts: dict[str, Any]) -> None:
        """One line on what is trained."""
        trained = ', '.join(f'{name} {count:,}' for name, count in facts['trained'].items())
        say(self._console,
            f'{facts["places"]} places of {facts["pictures"]} images ({facts["dropped"]} places '
            f'dropped: too few), {facts["steps"]} steps of {facts["epoch_steps"]} an epoch; '
            f'training {trained}; on {facts["device"]} in {facts["precision"]}', 'dim')
        self._show('steps', facts['from_step'], facts['steps'])

    def reading(self, what: str, done: int, total: int) -> None:
        """Show the progress of token computation or validation."""
        self._show(what, done, total)

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        """Move the bar; without a terminal, print a line after each tenth of the run."""
        self.losses.append(loss)
        if not self._console.is_terminal and step % max(1, steps // LINES) == 0:
            say(self._console, f'step {step} of {steps}: loss {loss:.4f}'
                               f'{"" if loss else " (no pair violates the margin)"}')
        self._show('steps', step, steps, f'loss {loss:.3f}')

    def recall(self, step: int, recalls: dict[str, dict[int, float]]) -> None:
        """Print recall."""
        for name, of_set in recalls.items():
            shares = ', '.join(f'R@{k} {100 * share:.1f}' for k, share in of_set.items())
            say(self._console, f'step {step}: {name}: {shares}')

    def close(self) -> None:
        """Remove the bar."""
        if self._tasks:
            self._bar.stop()
            self._tasks.clear()

    def _show(self, name: str, done: int, total: int, note: str = '') -> None:
        if name not in self._tasks:
            self._bar.start()
            self._tasks[name] = self._bar.add_task(name, total=total, note='')
        self._bar.update(self._tasks[name], completed=done, total=total, note=note,
                         visible=name == 'steps' or done < total)


class Watches:
    """Forwards each event to several watchers."""

    def __init__(self, watches: 'Iterable[Watch]') -> None:
        self._watches = tuple(watches)

    def begin(self, facts: dict[str, Any]) -> None:
        """Call `begin` of each watcher."""
        for watch in self._watches:
            watch.begin(facts)

    def reading(self, what: str, done: int, total: int) -> None:
        """Call `reading` of each watcher."""
        for watch in self._watches:
            watch.reading(what, done, total)

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        """Call `step` of each watcher."""
        for watch in self._watches:
            watch.step(step, steps, loss, rate)

    def recall(self, step: int, recalls: dict[str, dict[int, float]]) -> None:
        """Call `recall` of each watcher."""
        for watch in self._watches:
            watch.recall(step, recalls)

    def close(self) -> None:
        """Close the watchers that have a `close`."""
        for watch in self._watches:
            if isinstance(watch, BarWatch):
                watch.close()
