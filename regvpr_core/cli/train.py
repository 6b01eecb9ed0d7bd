"""`regvpr train`: a model is trained from a config; a run that was cut off goes on."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TYPE_CHECKING

from rich.console import Console

from regvpr_core.cli.console import print_facts, say

if TYPE_CHECKING:
    from regvpr_core.training.config import TrainConfig
    from regvpr_core.training.trainer import Watch


def add_parser(commands: Any) -> None:
    """Add `train` to the command line."""
    parser = commands.add_parser('train', help='train a model as a config says; torchrun for more '
                                               'than one GPU')
    parser.add_argument('--config', type=Path, required=True, metavar='FILE',
                        help='settings of the run, such as config/train/table1_regvpr.yaml')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='one setting, e.g. data_root=/data or optimiser.lr=1e-4')
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='RUN',
                        help='folder of the run')
    parser.add_argument('--resume', action='store_true', help='go on with the run in RUN')
    parser.add_argument('--tensorboard', action='store_true', help='event files in RUN')
    parser.add_argument('--json', action='store_true', help='print the result as JSON')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train, and say where the checkpoints are."""
    from regvpr_core.training.interrupts import Stopped
    from regvpr_core.training.processes import is_first_process
    from regvpr_core.training.settings import read_train_config
    from regvpr_core.training.trainer import train

    config = read_train_config(options.config, options.set)
    console = Console(stderr=True)
    watches: list[Watch] = [BarWatch(console)]
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
        print_facts(result(config, options.out, progress.step, progress.best, progress.best_step,
                           progress.seconds), options.json)


def result(
    config: 'TrainConfig', folder: Path, step: int, best: float, best_step: int, seconds: float
) -> dict[str, Any]:
    """What a finished run gives."""
    facts: dict[str, Any] = {'name': config.name, 'steps': step,
                             'step_seconds': round(seconds, 1),
                             'last': str(folder / 'last.safetensors'),
                             'record': str(folder / 'record.json')}
    if best >= 0:
        facts |= {'best': str(folder / 'best.safetensors'), 'best_step': best_step,
                  'best_mean_recall_at_1': round(best, 4)}
    return facts


class BarWatch:
    """A bar on standard error, and a line for each validation."""

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
                             console=console, transient=True)
        self._tasks: dict[str, Any] = {}

    def begin(self, facts: dict[str, Any]) -> None:
        """One line on what is trained."""
        trained = ', '.join(f'{name} {count:,}' for name, count in facts['trained'].items())
        say(self._console,
            f'{facts["places"]} places of {facts["pictures"]} pictures ({facts["dropped"]} places '
            f'dropped: too few), {facts["steps"]} steps of {facts["epoch_steps"]} an epoch; '
            f'training {trained}; on {facts["device"]} in {facts["precision"]}', 'dim')
        self._show('steps', facts['from_step'], facts['steps'])

    def reading(self, what: str, done: int, total: int) -> None:
        """Tokens or validation."""
        self._show(what, done, total)

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        """Move the bar."""
        self._show('steps', step, steps, f'loss {loss:.3f}')

    def recall(self, step: int, recalls: dict[str, dict[int, float]]) -> None:
        """Print recall."""
        for name, of_set in recalls.items():
            shares = ', '.join(f'R@{k} {100 * share:.1f}' for k, share in of_set.items())
            say(self._console, f'step {step}: {name}: {shares}')

    def close(self) -> None:
        """Take the bar away."""
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
    """Several as one."""

    def __init__(self, watches: 'Iterable[Watch]') -> None:
        self._watches = tuple(watches)

    def begin(self, facts: dict[str, Any]) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.begin(facts)

    def reading(self, what: str, done: int, total: int) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.reading(what, done, total)

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.step(step, steps, loss, rate)

    def recall(self, step: int, recalls: dict[str, dict[int, float]]) -> None:
        """Tell each."""
        for watch in self._watches:
            watch.recall(step, recalls)

    def close(self) -> None:
        """Close those that need it."""
        for watch in self._watches:
            if isinstance(watch, BarWatch):
                watch.close()
