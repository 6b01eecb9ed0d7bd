"""Write the tables of docs/node.md that come from the code. `--check` only compares.

From the root: python -m tools.make_docs"""

from pathlib import Path
import sys

from regvpr_ros.parameters import declared, NodeConfig

PAGE = Path(__file__).resolve().parent.parent / 'docs' / 'node.md'
BEGIN, END = '<!-- parameters: written by tools/make_docs.py -->', '<!-- end -->'


def table() -> str:
    """The parameters of the localize node as a Markdown table."""
    rows = ['| parameter | default | what |', '|---|---|---|']
    for parameter in declared(NodeConfig):
        default = parameter.default
        shown = str(default).lower() if isinstance(default, bool) else repr(default)
        rows.append(f'| `{parameter.name}` | `{shown}` | {parameter.description} |')
    return '\n'.join(rows)


def page(text: str) -> str:
    """The page with its table made new."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f'{before}{BEGIN}\n{table()}\n{END}{after}'


def main() -> int:
    text = PAGE.read_text()
    new = page(text)
    if '--check' in sys.argv:
        return 0 if new == text else 1
    PAGE.write_text(new)
    return 0


if __name__ == '__main__':
    sys.exit(main())
