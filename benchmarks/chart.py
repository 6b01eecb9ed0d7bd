"""The chart of docs/benchmarks.md: how far each target is met. `benchmarks.table` writes it."""

from html import escape
import math
import re

ROW = re.compile(r'^\| `(?P<name>[^`]+)` \| (?P<value>\S+)[^|]*\| (?P<sign>[≥≤]) (?P<target>\S+)'
                 r'[^|]*\| (?P<met>[^|]*)\|', re.MULTILINE)

WIDTH, LEFT, RIGHT, TOP, STEP = 800, 170, 60, 62, 24
LEAST, MOST = 0.1, 10.0
"""Range of the axis; further values are drawn at its ends."""

STYLE = ('text{font:13px system-ui,sans-serif;fill:#1f2328}.faint{fill:#59636e}'
         'line{stroke:#d0d7de}.aim{stroke:#59636e;stroke-width:2}.met{fill:#0b6e4f}'
         '.missed{fill:#b3261e}@media(prefers-color-scheme:dark){text{fill:#e6edf3}'
         '.faint{fill:#9198a1}line{stroke:#3d444d}.aim{stroke:#9198a1}.met{fill:#4cc38a}'
         '.missed{fill:#ff9592}}')


def targets(section: str) -> list[tuple[str, float, bool]]:
    """Targets of a section of the page: name, value as a multiple of the target, whether met."""
    found = []
    for row in ROW.finditer(section):
        value, target = float(row['value']), float(row['target'])
        if value > 0.0 and target > 0.0:
            times = value / target if row['sign'] == '≥' else target / value
            found.append((row['name'], times, row['met'].strip() == 'yes'))
    return found


def chart(sections: dict[str, str]) -> str:
    """The chart as SVG: a line for each benchmark with targets, a mark for each target."""
    lines = {name: found for name, text in sections.items() if (found := targets(text))}
    height = TOP + STEP * len(lines) + 40
    met = sum(good for found in lines.values() for _, _, good in found)
    of = sum(map(len, lines.values()))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
           f'aria-label="{met} of {of} targets met"><style>{STYLE}</style>',
           f'<text x="{LEFT}" y="20" font-weight="600">{met} of {of} targets met: how many times '
           f'better than its target each figure is</text>',
           f'<text x="{_x(1.0) - 8:.0f}" y="44" text-anchor="end" class="faint">missed</text>'
           f'<text x="{_x(1.0) + 8:.0f}" y="44" class="faint">met</text>']
    bottom = TOP + STEP * len(lines)
    for times in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0):
        kind = ' class="aim"' if times == 1.0 else ''
        out.append(f'<line x1="{_x(times):.0f}" x2="{_x(times):.0f}" y1="{TOP - 10}" '
                   f'y2="{bottom}"{kind}/><text x="{_x(times):.0f}" y="{bottom + 18}" '
                   f'text-anchor="middle" class="faint">{times:g}</text>')
    for number, (name, found) in enumerate(lines.items()):
        y = TOP + STEP * number + STEP // 2
        out.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for metric, times, good in found:
            title = f'<title>{escape(metric)}: {times:.3g}</title>'
            shape = (f'<circle cx="{_x(times):.1f}" cy="{y}" r="5" class="met">{title}</circle>'
                     if good else
                     f'<rect x="{_x(times) - 5:.1f}" y="{y - 5}" width="10" height="10" '
                     f'class="missed">{title}</rect>')
            out.append(shape)
    return '\n'.join([*out, '</svg>', ''])


def _x(times: float) -> float:
    share = math.log(min(max(times, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LEFT + share * (WIDTH - LEFT - RIGHT)
