"""Time from the start of the node's process to its first match, and its parts.

    python -m benchmarks.node_start

The shipped model runs on calibrated maps of 10 k places (FULL=1: 50 k too) with a stored index. A
camera publishes at 10 Hz from the start. Figures are medians of five starts, with the files in the
page cache. The memory of the node is measured after 30 images.
"""

import array
import os
from pathlib import Path
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.node_latency import resident_mb
from benchmarks.report import Metric, ROOT, write
from benchmarks.search import World, write_map
from regvpr_core.config import DEFAULT_MODEL
from regvpr_core.localization.stored_calibration import calibrate_and_store
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import load_encoder

STARTS = 5
TARGET_S = 6.0
IMAGES = 30
CONFIGURED = re.compile(r'configured: model ([\d.]+) s, map ([\d.]+) s, rest ([\d.]+) s')


def main() -> None:
    metrics: list[Metric] = []
    folder = Path(tempfile.mkdtemp(prefix='regvpr-start-'))
    encoder = load_encoder(DEFAULT_MODEL)
    try:
        for name, count in {'10k': 10_000, '50k': 50_000}.items():
            if count > 10_000 and not os.environ.get('FULL'):
                continue
            write_map(folder / name, World(count, 41, encoder.dimension), DEFAULT_MODEL,
                      encoder.fingerprint)
            calibrate_and_store(folder / name)
            PlaceMap.open(folder / name).close()  # writes the index
            runs = [start(folder / name) for _ in range(STARTS)]
            shutil.rmtree(folder / name)
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            metrics += figures(name, middle)
            print(name, middle, file=sys.stderr)
            write('node_start', metrics)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(write('node_start', metrics))


def figures(name: str, middle: dict[str, float]) -> list[Metric]:
    """The metrics of one map."""
    scope = f'{DEFAULT_MODEL}, a map of {name} places, median of {STARTS} starts'
    return [
        Metric(metric=f'first_match_s_{name}', value=middle['first'], unit='s', scope=scope,
               target=TARGET_S if name == '10k' else None, higher_is_better=False),
        *(Metric(metric=f'{part}_s_{name}', value=middle[part], unit='s', scope=scope)
          for part in ('imports', 'model', 'map', 'rest', 'to_first_image')),
        Metric(metric=f'cpu_s_{name}', value=middle['cpu'], unit='s',
               scope=f'processor time until the first match; {scope}'),
        Metric(metric=f'memory_mb_{name}', value=middle['memory_mb'], unit='MB',
               scope=f'resident after {IMAGES} images; {scope}')]


def start(path: Path) -> dict[str, float]:
    """Start the node once; return the time of each part, s."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from regvpr_ros.msg import PlaceMatches
    from sensor_msgs.msg import Image

    os.environ |= {'ROS_DOMAIN_ID': str(os.getpid() % 90 + 5),
                   'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    rclpy.init()
    camera = rclpy.create_node('camera')
    heard: list[float] = []
    camera.create_subscription(PlaceMatches, '/regvpr/matches',
                               lambda _: heard.append(time.perf_counter()), 10)
    publisher = camera.create_publisher(Image, '/image', 1)
    rgb = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    message = Image(height=480, width=640, encoding='rgb8', step=1920,
                    data=array.array('B', rgb.tobytes()))
    executor = SingleThreadedExecutor()
    executor.add_node(camera)
    begun = time.perf_counter()
    node = subprocess.Popen(
        [sys.executable, str(ROOT / 'scripts/localize'), '--ros-args', '-p', f'map:={path}',
         '-p', 'use_odometry:=false'], stderr=subprocess.PIPE, text=True)
    cpu_s = 0.0
    try:
        while len(heard) < IMAGES:
            message.header.stamp.sec += 1
            publisher.publish(message)
            due = time.perf_counter() + 0.1
            while (left := due - time.perf_counter()) > 0:
                executor.spin_once(timeout_sec=left)
            if heard and not cpu_s:
                cpu_s = processor_s(node.pid)
            if node.poll() is not None or time.perf_counter() - begun > 120.0:
                raise RuntimeError(f'the node does not answer; it ended with {node.poll()}')
        memory = resident_mb(node.pid)
    finally:
        node.terminate()
        _, log = node.communicate(timeout=30)
        executor.shutdown()
        camera.destroy_node()
        rclpy.try_shutdown()
    found: Any = CONFIGURED.search(log)
    model, place_map, rest = map(float, found.groups())
    first = heard[0] - begun
    imports = stamp(log, found.start()) - model - place_map - rest - wall(begun)
    return {'first': first, 'imports': imports, 'model': model, 'map': place_map, 'rest': rest,
            'to_first_image': first - imports - model - place_map - rest, 'cpu': cpu_s,
            'memory_mb': memory}


def wall(counter: float) -> float:
    """Convert a time of perf_counter to seconds since the epoch."""
    return time.time() - time.perf_counter() + counter


def stamp(log: str, at: int) -> float:
    """Time of the line of a ROS log that contains character `at`, s since the epoch."""
    line = log[log.rfind('\n', 0, at) + 1:at]
    return float(re.findall(r'\[(\d+\.\d+)\]', line)[-1])


def processor_s(pid: int) -> float:
    """Processor time of a process so far, s."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


if __name__ == '__main__':
    main()
