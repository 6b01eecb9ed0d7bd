"""Write the commands of README.md with their output, on real images of ../shared/data.

From the root: python -m tools.make_readme
"""

import csv
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / 'shared' / 'data'
README = ROOT / 'README.md'
CAMPUS = DATA / 'rwrc_campus'
ELSEWHERE = DATA / 'opensfm_lund' / 'images'
MARK = re.compile(r'(<!-- readme: .*?-->\n).*?(<!-- end -->)', re.DOTALL)

SHOWN = 2
"""Number of commands that are shown; further ones are collapsed."""

COMMANDS = (
    ('Build a map from a folder of images with positions, or from a bag. A part of the images is '
     'held out to estimate recall:', 'regvpr quickstart references --out site'),
    ('Localize images. The last one is of another town:',
     'regvpr localize site/map ask --csv places.csv'),
    ('What is in a map?', 'regvpr map info site/map --places'),
    ('Which model is better on your images, and is the difference real?',
     'regvpr evaluate --references references --queries queries --radius-m 5 '
     '--model regvpr_offline --model efficientnet_lite0_gem -o report'),
    ('Train on images with one folder per place (<code>regvpr train --list</code> shows the '
     'recipes of the paper)',
     'regvpr train --config places --set data_root=places --set steps=5 -o run'))


def main() -> int:
    if not CAMPUS.is_dir():
        print(f'{CAMPUS} is not there: the commands have no images to run on', file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        parts = []
        for text, command in COMMANDS:
            print(command, file=sys.stderr)
            shown = f'```text\n$ {command}\n{output(command, Path(folder))}\n```\n'
            parts.append(f'{text}\n\n{shown}' if len(parts) < SHOWN else
                         f'<details><summary>{text}</summary>\n\n{shown}\n</details>\n')
    found = MARK.sub(lambda m: m[1] + '\n'.join(parts) + m[2], README.read_text())
    README.write_text(found)
    return 0


def prepare(folder: Path) -> None:
    """Link every second image as a reference, the others as queries, and some queries in `ask`."""
    with (CAMPUS / 'data.csv').open() as file:
        rows = list(csv.reader(file))
    files = {path.name: path for path in CAMPUS.rglob('*.png')}
    for name, chosen in (('references', rows[::2]), ('queries', rows[1::2])):
        side = folder / name
        side.mkdir()
        lines = ['image,x,y,yaw']
        for row in chosen:
            (side / row[0]).symlink_to(files[row[0]])
            lines.append(','.join(row))
        (side / 'positions.csv').write_text('\n'.join(lines) + '\n')
    ask = folder / 'ask'
    ask.mkdir()
    for row in rows[5:66:20]:
        (ask / row[0]).symlink_to(files[row[0]])
    other = min(ELSEWHERE.iterdir())
    (ask / f'lund_{other.name}').symlink_to(other)
    for place in range(6):
        (folder / 'places' / str(place)).mkdir(parents=True)
        for row in rows[10 * place:10 * place + 2]:
            (folder / 'places' / str(place) / row[0]).symlink_to(files[row[0]])


def output(command: str, folder: Path) -> str:
    """Standard output of a command, 80 columns wide."""
    program = [sys.executable, '-m', 'regvpr_core.cli', *shlex.split(command)[1:]]
    environment = os.environ | {'COLUMNS': '80', 'PYTHONPATH': str(ROOT)}
    run = subprocess.run(program, cwd=folder, env=environment, text=True, check=False,
                         stdout=subprocess.PIPE)
    if run.returncode:
        sys.exit(f'{command} ended with {run.returncode}')
    # The time per image depends on the load of this machine; docs/benchmarks.md has it.
    said = re.sub(r'; \d+ ms an image', '', run.stdout.rstrip())
    return '\n'.join(line.rstrip() for line in said.splitlines())


if __name__ == '__main__':
    sys.exit(main())
