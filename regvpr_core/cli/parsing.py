"""The parser of each command: a description, examples, and the nearest known word on a typo."""

import argparse
from collections.abc import Sequence
import difflib
from typing import Any, NoReturn

WIDTH = 80


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Prints each sub-command and its summary on one line.

    argparse does not count the indent of sub-commands when it sets the width of their column.
    """

    def add_argument(self, action: argparse.Action) -> None:
        """Note the width of an action."""
        super().add_argument(action)
        if action.nargs == argparse.PARSER:
            self._action_max_length += self._indent_increment


class Parser(argparse.ArgumentParser):
    """An argparse parser whose usage is one line and whose errors name the nearest known word."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings.setdefault('formatter_class', HelpFormatter)
        super().__init__(*arguments, **settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does; an unknown option is refused by the sub-command."""
        found, rest = super().parse_known_args(args, namespace)
        unknown = next((word for word in rest if word.startswith('-') and len(word) > 1), '')
        if unknown:
            name = unknown.partition('=')[0]
            self.error(f'unknown option {name}{near(name, self._option_string_actions)}')
        if rest:
            self.error(f'unexpected argument {rest[0]!r}')
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = action.choices
        if choices is not None and value not in choices:
            known = [str(choice) for choice in choices]
            hint = near(str(value), known) or f'; known: {", ".join(known)}'
            name = '/'.join(action.option_strings) or action.metavar or action.dest
            self.error(f'unknown {str(name).lower()} {str(value)!r}{hint}')

    def error(self, message: str) -> NoReturn:
        """Print the usage, the error and how to get help; exit with code 2."""
        words = [f'{action.option_strings[-1]} {action.metavar or action.dest.upper()}'
                 for action in self._actions if action.option_strings and action.required]
        words += [str(action.metavar or action.dest) for action in self._actions
                  if not action.option_strings]
        self.exit(2, f'usage: {self.prog} {" ".join(words)} [OPTIONS]\n{self.prog}: {message}\n'
                     f'help: {self.prog} --help\n')


def near(word: str, known: Any) -> str:
    """A hint such as '; did you mean --model?', empty if no known word is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean {close[0]!r}?' if close else ''


def add_command(
    commands: Any, name: str, summary: str, *examples: str, description: str = ''
) -> argparse.ArgumentParser:
    """Add a command with its help text.

    Args:
        commands: result of `add_subparsers`.
        summary: one line, for the list of commands.
        examples: complete command lines.
        description: a few sentences; replaces the summary in `--help`.
    """
    text = description or f'{summary[:1].upper()}{summary[1:]}.'
    ending = '\n  '.join(('examples:' if len(examples) > 1 else 'example:', *examples))
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=wrapped(text), epilog=ending if examples else None)
    return parser


def wrapped(text: str) -> str:
    """Paragraphs filled to the width of a plain terminal."""
    import textwrap

    return '\n'.join(textwrap.fill(part, WIDTH - 2) for part in text.split('\n'))
