"""What commands print: lines as they are, tables of facts, a bar for downloads."""

from collections.abc import Callable, Iterator
import contextlib
from contextvars import ContextVar
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

LONGEST = 4096

_STEP = ContextVar('step', default=False)
"""Whether a command runs as a step of another one."""


def plain(text: object) -> str:
    """Untrusted text as one line without control characters.

    Errors quote names from maps, bags and checkpoints of unknown origin.
    """
    from regvpr_core.map_report.html import label

    return label(text, LONGEST)


def cell(text: object) -> Text:
    """`plain` text for a table; brackets are printed, not read as markup."""
    return Text(plain(text), overflow='fold')


def say(console: Console, line: str, style: str = '') -> None:
    """Print one unwrapped line of `plain` text; brackets are printed, not read as markup."""
    console.print(Text(plain(line), style=style), soft_wrap=True)


def print_facts(facts: dict[str, Any], as_json: bool, following: str = '') -> None:
    """Print names and values as a table, or as JSON for machines.

    Args:
        following: a command to try next, followed by its purpose in brackets.
    """
    if as_json:
        print(json.dumps(facts, indent=1))  # noqa: T201
        return
    table = Table(show_header=False)
    for name, value in facts.items():
        text = ', '.join(map(plain, value)) if isinstance(value, list) else plain(value)
        table.add_row(Text(name.replace('_', ' ')), Text(text, overflow='fold'))
    Console().print(table)
    if following:
        say_next(Console(stderr=True), following)


@contextlib.contextmanager
def download_bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Give a callback (bytes done, bytes in all) that draws a bar on `console`."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    with Progress('fetching', BarColumn(), DownloadColumn(), TransferSpeedColumn(),
                  console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task('fetch', total=None, start=False, visible=False)

        def told(done: int, total: int) -> None:
            progress.start_task(task)
            progress.update(task, completed=done, total=total or None, visible=True)

        yield told


def say_next(console: Console, command: str) -> None:
    """Print a command to try next, as the last line."""
    if not _STEP.get():
        say(console, f'next: {command}', 'green')


def say_model(console: Console, encoder: Any) -> None:
    """Print the name of the model, its precision and its device in one line."""
    say(console, f'model {encoder.name}: {encoder.dimension} numbers an image, on '
                 f'{encoder.device} in {encoder.precision}', 'dim')


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a callback (done, in all) that draws a bar on standard error of a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
                  transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def as_step() -> Iterator[None]:
    """Run a command as a step of another: its table goes to standard error, without advice."""
    token = _STEP.set(True)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _STEP.reset(token)
