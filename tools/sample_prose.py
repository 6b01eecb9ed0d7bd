"""Draw random docstrings and comments, to judge the English of the code.

    python tools/sample_prose.py --seed 7 --count 100 regvpr_core regvpr_ros

The same seed draws the same places as long as the code is the same. A reader who has not seen the
code marks each one that must be read twice; at most 3 of 100 may be marked.
"""

import argparse
import ast
from collections.abc import Iterator
import inspect
import io
from pathlib import Path
import random
import tokenize

ROOT = Path(__file__).resolve().parent.parent
MARKS = ('noqa', 'type:', 'pragma', '!')
"""First words of comments that are meant for tools."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folders', nargs='*', default=['regvpr_core', 'regvpr_ros'])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--count', type=int, default=100)
    options = parser.parse_args()
    found = [(file.relative_to(ROOT), line, text)
             for folder in options.folders
             for file in (sorted((ROOT / folder).rglob('*.py')) if (ROOT / folder).is_dir()
                          else [ROOT / folder])
             for line, text in prose(file.read_text(encoding='utf-8'))]
    chosen = random.Random(options.seed).sample(found, min(options.count, len(found)))
    print(f'{len(chosen)} of {len(found)} docstrings and comments, seed {options.seed}')
    for number, (file, line, text) in enumerate(sorted(chosen), 1):
        print(f'\n{number}. {file}:{line}\n{text}')


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, of each string below a constant, and of each comment."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, 'body', None)  # of a lambda it is one expression
        for child in body if isinstance(body, list) else ():
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) \
                    and isinstance(child.value.value, str):
                yield child.lineno, inspect.cleandoc(child.value.value)
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.string.lstrip('# ').startswith(MARKS):
            continue
        alone = token.line.lstrip().startswith('#')
        if block and not (alone and token.start[0] == last + 1):
            yield first, '\n'.join(block)
            block = []
        first, last = first if block else token.start[0], token.start[0]
        block.append(token.line.strip())
    if block:
        yield first, '\n'.join(block)


if __name__ == '__main__':
    main()
