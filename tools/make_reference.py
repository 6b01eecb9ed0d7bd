"""Write the pages of docs/reference that are generated from the code: command line and settings.

`make docs` writes them into docs/reference/generated, which is not in the repository.
"""

import dataclasses
import os
from pathlib import Path
import typing
from typing import Any

from regvpr_core.cli import COMMANDS, make_parser
from regvpr_core.config import SETTING, Setting


def write(folder: Path) -> None:
    """Write all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'cli.md').write_text(command_line(), encoding='utf-8')
    (folder / 'settings.md').write_text(settings(), encoding='utf-8')


def command_line() -> str:
    """The help of each command and verb."""
    os.environ['COLUMNS'] = '80'
    parts = ['# Command line\n\nWithout ROS sourced: `regvpr COMMAND`. In a ROS workspace: '
             '`ros2 run regvpr_ros regvpr COMMAND`. Each command prints results on standard '
             'output and progress on standard error; `--json` prints results for machines. Exit '
             'codes: 0 done, 1 input refused, 2 wrong usage.\n']
    for name in COMMANDS:
        parser = make_parser(name)
        [table] = [a for a in parser._actions if a.choices]
        command = table.choices[name]
        verbs = [a for a in command._actions if isinstance(a, type(table))]
        parts.append(f'## {name}\n')
        if not verbs:
            parts.append(f'```text\n{command.format_help()}```\n')
        for verb, inner in (verbs[0].choices.items() if verbs else ()):
            parts.append(f'### {name} {verb}\n\n```text\n{inner.format_help()}```\n')
    return '\n'.join(parts)


def settings() -> str:
    """Tables of the settings of training, map building and localization."""
    from regvpr_core.localization.settings import LocalizerConfig
    from regvpr_core.mapping.options import BuildConfig
    from regvpr_core.training.config import TrainConfig

    parts = ['# Settings\n\nA setting is given in a YAML file (`--config FILE`) or as '
             '`--set section.key=value`; the parameters of the node that begin with `localizer.` '
             'are those of localization.\n']
    for title, config in (('Map building', BuildConfig), ('Localization', LocalizerConfig),
                          ('Training', TrainConfig)):
        parts.append(f'## {title}\n\n| setting | default | range | what |\n|---|---|---|---|')
        parts += _rows(config, '')
        parts.append('')
    return '\n'.join(parts)


def _rows(config: type, prefix: str) -> list[str]:
    rows = []
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            rows += _rows(kind, f'{prefix}{field.name}.')
            continue
        known = field.metadata.get(SETTING, Setting())
        # In Markdown a bar ends a table cell, even inside code.
        rows.append(' | '.join((f'| `{prefix}{field.name}`', _default(field).replace('|', '/'),
                                known.range_text, known.text.replace('|', '/') + ' |')))
    return rows


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f'`{field.default!r}`'
    if field.default_factory is not dataclasses.MISSING:
        return f'`{field.default_factory()!r}`'
    return 'needed'
