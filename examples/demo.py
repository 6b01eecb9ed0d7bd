"""`make demo`: build a map from a lap through a town by day, and localize a second lap at dusk.

Only the town is synthetic. The bags are on disk, `regvpr map build` builds the map, the node is a
process of its own, and the second lap is replayed through DDS. Writes build/demo/summary.json and
build/demo/report.html.
"""

import argparse
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import time

from rich.console import Console
from rich.live import Live
from rich.progress import Progress

from examples.demo_report import summarise, write_report
from examples.demo_watch import Watch
from examples.town import LapConfig, Town, TownConfig, write_lap
from regvpr_core.maps.place_map import PlaceMap

OUT = Path('build/demo')
IMAGE_TOPIC = '/camera/image_raw'
FIRST_LAP = LapConfig(condition='day', seed=1)
REPLAY_RATE = 2.0
"""Replay speed as a multiple of real time, if the machine is fast enough."""

SLOWEST_RATE = 0.2
LOAD = 0.7
"""Image rate of the replay as a share of the rate at which the map was built."""

NODE_START_S = 180.0
NODE_STOP_S = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m examples.demo', description=__doc__)
    parser.add_argument('--seed', type=int, default=1, help='seed of the town')
    parser.add_argument('--condition', default='dusk', choices=('day', 'dusk', 'rain', 'winter'),
                        help='of the second lap')
    parser.add_argument('--out', type=Path, default=OUT)
    options = parser.parse_args()
    # Other users of this machine may run nodes.
    os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))
    console = Console(stderr=True)
    options.out.mkdir(parents=True, exist_ok=True)

    # 1. Render two laps through the town, or take those of an earlier run.
    day = lap_files(options, FIRST_LAP, console)
    # Other cars, another part of the lane, another speed: no two images have the same pose.
    second = LapConfig(condition=options.condition, seed=2, lateral_m=0.3, start_m=20.4,
                       speed_mps=4.7)
    query = lap_files(options, second, console)

    # 2. Build a map from the first lap.
    place_map = options.out / 'map'
    shutil.rmtree(place_map, ignore_errors=True)
    seconds = run(['regvpr', 'map', 'build', day[0], '--out', place_map,
                   '--pose-topic', '/ground_truth'])
    with PlaceMap.open(place_map, index='none') as built:
        rate = replay_rate(len(built) / seconds, second.rate_hz)

    # 3. Start the node  4. replay the second lap through DDS  5. collect the results.
    node = start_node(place_map)
    try:
        watch = Watch(query[1], place_map, IMAGE_TOPIC)
        if not watch.wait_for_node(NODE_START_S, node):
            why = 'ended' if node.poll() is not None else f'did not start in {NODE_START_S:.0f} s'
            console.print(f'the node {why}; its log is above')
            return 1
        if rate < REPLAY_RATE:
            console.print(f'this machine is slow or busy: the lap is replayed at {rate} of its '
                          f'speed instead of {REPLAY_RATE}')
        replay = subprocess.Popen([executable('replay'), query[0], '--rate', str(rate)],
                                  stderr=subprocess.DEVNULL)
        with Live(watch.table(), console=Console(), refresh_per_second=4) as live:
            while replay.poll() is None or watch.recent(1.0):
                watch.spin(0.2)
                live.update(watch.table())
        watch.close()
    finally:
        stop(node)

    # 6. Write the figures and the page.
    summary = summarise(watch)
    (options.out / 'summary.json').write_text(json.dumps(summary, indent=1) + '\n')
    write_report(options.out / 'report.html', watch, summary, query[0])
    console.print_json(json.dumps(summary))
    console.print(f'figures: {options.out / "summary.json"}   page: {options.out / "report.html"}')
    return 0 if replay.returncode == 0 else 1


def lap_files(options: argparse.Namespace, lap: LapConfig, console: Console) -> tuple[Path, Path]:
    """Bag and truth of a lap; rendered if they do not exist yet."""
    folder = options.out / f'town-{options.seed}'
    name = f'{lap.condition}-{lap.seed}'
    bag, truth, mark = folder / name, folder / f'{name}.tum', folder / f'{name}.lap'
    if mark.is_file() and mark.read_text() == repr(lap):
        return bag, truth
    shutil.rmtree(bag, ignore_errors=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f'rendering the town by {lap.condition}')
        write_lap(Town(TownConfig(seed=options.seed)), lap, folder, name=name,
                  on_frame=lambda done, total: progress.update(task, completed=done, total=total))
    mark.write_text(repr(lap))
    return bag, truth


def start_node(place_map: Path) -> subprocess.Popen[bytes]:
    """Start the installed localize node, as `ros2 run` does."""
    return subprocess.Popen([
        executable('localize'), '--ros-args', '-p', f'map:={place_map}', '-p', 'compressed:=true',
        '-r', f'image/compressed:={IMAGE_TOPIC}/compressed', '-r', 'odom:=/odom'])


def stop(node: subprocess.Popen[bytes]) -> None:
    """Terminate the node; kill it if it does not end in time."""
    node.terminate()
    try:
        node.wait(timeout=NODE_STOP_S)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


def executable(name: str) -> str:
    """Path of one of the package's executables in the install space."""
    from ament_index_python.packages import get_package_prefix

    return f'{get_package_prefix("regvpr_ros")}/lib/regvpr_ros/{name}'


def replay_rate(images_per_s: float, rate_hz: float) -> float:
    """Replay speed at which the node can process most images, as a multiple of real time.

    Args:
        images_per_s: rate at which this machine built the map.
        rate_hz: image rate of the bag.
    """
    return max(SLOWEST_RATE, min(REPLAY_RATE, round(LOAD * images_per_s / rate_hz, 2)))


def run(command: list[object]) -> float:
    """Run a command and return its duration, s. If it fails, exit; it has printed the error."""
    start = time.monotonic()
    finished = subprocess.run([str(word) for word in command], check=False)
    if finished.returncode:
        sys.exit(finished.returncode)
    seconds = time.monotonic() - start
    print(f'{" ".join(map(str, command[:3]))}: {seconds:.1f} s', file=sys.stderr)
    return seconds


if __name__ == '__main__':
    sys.exit(main())
