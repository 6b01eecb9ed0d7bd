"""Screenshot for the docs of the page that `regvpr map show` writes, of a map of two laps.

Uses the laps that `make demo` rendered, or renders them. The screenshot needs Chromium.
"""

import argparse
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

from examples.town import LapConfig, Town, TownConfig, write_lap

OUT = Path('build/map_page')
TOWN = Path('build/demo/town-1')
LAPS = (
    LapConfig(condition='day', seed=1),
    LapConfig(condition='dusk', seed=2, lateral_m=0.3, start_m=20.4, speed_mps=4.7),
)
WIDTH, HEIGHT = 1400, 900
PINNED = 46
"""Id of a keyframe at a corner that is more similar to another corner than to its neighbours."""

FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync')


def main() -> int:
    """Build the map, its page and the screenshot."""
    parser = argparse.ArgumentParser(prog='python -m examples.map_page', description=__doc__)
    parser.add_argument('-o', '--out', type=Path, default=Path('docs/images/map_show.png'),
                        help='picture to write (default: docs/images/map_show.png)')
    options = parser.parse_args()
    # 1. two laps  2. a map of both  3. its page  4. a screenshot of the page
    bags = [lap_bag(lap) for lap in LAPS]
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    regvpr('map', 'build', *bags, '--pose-topic', '/ground_truth', '--out', OUT / 'town')
    page = OUT / 'town.html'
    regvpr('map', 'show', OUT / 'town', '-o', page)
    take_picture(page, options.out)
    print(f'{page}\n{options.out}')
    return 0


def lap_bag(lap: LapConfig) -> Path:
    """The bag of a lap; rendered if it does not exist yet."""
    name = f'{lap.condition}-{lap.seed}'
    mark = TOWN / f'{name}.lap'
    if not (mark.is_file() and mark.read_text() == repr(lap)):
        print(f'rendering the town by {lap.condition}', file=sys.stderr)
        shutil.rmtree(TOWN / name, ignore_errors=True)
        write_lap(Town(TownConfig(seed=1)), lap, TOWN, name=name)
        mark.write_text(repr(lap))
    return TOWN / name


def regvpr(*words: object) -> None:
    """Run a command of `regvpr`. If it fails, exit; it has printed the error."""
    done = subprocess.run(['regvpr', *map(str, words)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def take_picture(page: Path, out: Path) -> None:
    """Write a screenshot of the page, with one place pinned and the pointer on another.

    The number of colours is reduced, so that the file is small.
    """
    import cv2
    import numpy as np
    from playwright.sync_api import sync_playwright

    browser = next((found for name in ('chromium', 'chromium-browser', 'google-chrome')
                    if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit('no Chromium here: the page is written, its picture is not')
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile, executable_path=browser, args=list(FLAGS),
            viewport={'width': WIDTH, 'height': HEIGHT}, color_scheme='light')
        tab = context.pages[0]
        tab.goto(page.resolve().as_uri())
        tab.evaluate(f'mapPage.view.pin({PINNED}); mapPage.view.hover(290)')
        tab.wait_for_function('Array.from(document.images).every((i) => i.complete)')
        shot = tab.screenshot(animations='disabled')
        context.close()
    pixels = cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR)
    pixels = pixels // 8 * 8 + (pixels // 32).astype(np.uint8)  # 32 steps of each colour
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == '__main__':
    sys.exit(main())
