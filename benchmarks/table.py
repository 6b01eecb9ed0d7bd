"""Write docs/benchmarks.md from the records in build/bench: `make bench-table`.

No figure of the page is typed by hand. A benchmark without a record on this machine keeps its
previous section, which names its machine and date. The last line is a digest of the page, so that
an edited figure is detected. `--check` only compares the digest and needs no records.
"""

import ast
import hashlib
import json
import math
from pathlib import Path
import sys
from typing import Any

from benchmarks.chart import chart
from benchmarks.report import ROOT

PAGE = ROOT / 'docs' / 'benchmarks.md'
CHART = ROOT / 'docs' / 'images' / 'benchmarks.svg'
RECORDS = ROOT / 'build' / 'bench'
PROGRAMS = ROOT / 'benchmarks'
SEAL = '<!-- sha256 of the above: '

HEAD = """# Benchmarks

Written by `make bench-table` from the records of `make bench`; do not edit. `x` is a ratio within
one run. A target that was missed says by how much, as a share of the target. Figures are of the
machine named with them; other work on it slows them down (*load*: processes that ran when the
benchmark began), unless the benchmark had real-time priority
(`chrt -f 5 make bench NAME=node_latency`).

    make bench                 # all, each under five minutes on two cores
    make bench NAME=encoder    # one
    FULL=1 make bench          # the long form
    make bench-table           # this page

![How many times better than its target each figure is](images/benchmarks.svg)

*A mark for each target, right of the line: met. Marks at the ends of the axis stand for more.
Targets of zero have no ratio and no mark.*
"""


def main() -> int:
    """Write the page, or with `--check` say whether it was edited."""
    if '--check' in sys.argv[1:]:
        if PAGE.is_file() and is_sealed(PAGE.read_text(encoding='utf-8')):
            return 0
        print(f'{PAGE} was edited by hand; run make bench-table', file=sys.stderr)
        return 1
    before = PAGE.read_text(encoding='utf-8') if PAGE.is_file() else ''
    text = page(PROGRAMS, RECORDS, before)
    PAGE.write_text(text, encoding='utf-8')
    CHART.write_text(chart(sections_of(text)), encoding='utf-8')
    print(PAGE)
    return 0


def page(programs: Path, records: Path, before: str = '') -> str:
    """The whole page: a section for each program and record, in the order of their names.

    before: the page as it was, for benchmarks without a record; ignored if somebody edited it.
    """
    kept = sections_of(before) if is_sealed(before) else {}
    about = {path.stem: text for path in sorted(programs.glob('*.py'))
             if (text := description(path))}
    names = sorted(about.keys() | {path.stem for path in records.glob('*.json')})
    sections = []
    for name in names:
        file = records / f'{name}.json'
        record = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else None
        made = section(name, about.get(name, ''), record)
        sections.append(kept.get(name, made) if record is None and name in about else made)
    return seal('\n'.join([HEAD, *sections]))


def sections_of(text: str) -> dict[str, str]:
    """A page's sections by name, each as `section` made it."""
    body = text.rpartition(f'\n{SEAL}')[0]
    return {part.partition('\n')[0]: f'## {part}'.rstrip('\n') + '\n'
            for part in body.split('\n## ')[1:]}


def description(program: Path) -> str:
    """First paragraph of a benchmark's docstring; '' for other modules."""
    text = program.read_text(encoding='utf-8')
    if program.stem == 'table' or "if __name__ == '__main__':" not in text:
        return ''
    paragraph = (ast.get_docstring(ast.parse(text)) or program.stem).split('\n\n')[0]
    return ' '.join(paragraph.split())


def section(name: str, about: str, record: dict[str, Any] | None) -> str:
    """Section of one benchmark: description, figures, and where and when it ran."""
    lines = [f'## {name}', '', *([about, ''] if about else [])]
    if record is None:
        return '\n'.join([*lines, f'Not run on this machine: `make bench NAME={name}`.', ''])
    with_target = [m for m in record['metrics'] if m.get('target') is not None]
    if with_target:
        met = sum(bool(m['met']) for m in with_target)
        lines += [f'{met} of {len(with_target)} targets met.', '']
    lines += ['| metric | value | target | met | scope |', '|---|---:|---:|---|---|']
    lines += [row(metric) for metric in record['metrics']]
    return '\n'.join([*lines, '', ran_on(record), ''])


def row(metric: dict[str, Any]) -> str:
    """One figure as a row."""
    unit = metric.get('unit', '')
    unit = '' if unit in ('', '1') else f' {unit}'
    target = metric.get('target')
    sign = '≥' if metric.get('higher_is_better', True) else '≤'
    aim = '' if target is None else f'{sign} {number(target)}{unit}'
    cells = [f'`{metric["metric"]}`', f'{number(metric["value"])}{unit}', aim, verdict(metric),
             metric.get('scope', '')]
    return '| ' + ' | '.join(' '.join(cell.replace('|', '\\|').split()) for cell in cells) + ' |'


def verdict(metric: dict[str, Any]) -> str:
    """Whether a target is met, or by how much it is missed."""
    target, value = metric.get('target'), metric['value']
    if target is None:
        return ''
    if metric['met']:
        return 'yes'
    if not target:
        return f'**missed by {number(abs(value - target))}**'
    # A target that is missed by little must not read as missed by 0 %.
    share = abs(value - target) / abs(target)
    return f'**missed by {100 * share:.1f} %**' if share >= 0.0005 else '**missed by < 0.1 %**'


def number(value: float) -> str:
    """Three significant digits; whole numbers in full; shares near 1 with more digits."""
    if not math.isfinite(value):
        return 'none'
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    if abs(value) >= 100:
        return f'{value:.0f}'
    if 0.99 <= value < 1.0:
        lacking = f'{1.0 - value:.2g}'
        return f'{1.0 - float(lacking):.8f}'.rstrip('0')
    text = f'{value:.3g}'
    return f'{value:.1e}' if 'e' in text else text


def ran_on(record: dict[str, Any]) -> str:
    """Machine, versions, commit and date, small."""
    machine = record['machine']
    versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
    ahead = ' with real-time priority over it' if machine.get('real_time') else ''
    return (f'<sub>{machine["processor"]}, {machine["cores"]} cores, {machine["memory_gb"]} GB, '
            f'device {machine["device"]}, load {machine["load_before"]}{ahead}; {versions}; '
            f'commit {record["commit"]}; {record.get("date", "date not recorded")}</sub>')


def seal(text: str) -> str:
    """The page with the digest of its text as the last line."""
    return f'{text}\n{SEAL}{hashlib.sha256(text.encode()).hexdigest()} -->\n'


def is_sealed(text: str) -> bool:
    """Whether the page is as it was written."""
    body, found, _ = text.rpartition(f'\n{SEAL}')
    return bool(found) and seal(body) == text


if __name__ == '__main__':
    sys.exit(main())
