"""Latency of the node without the network: real DDS and processes, an encoder of known duration.

    python -m benchmarks.node_latency          30 seconds each; FULL=1: ten minutes each

A camera process publishes 1280x720 images at 30 Hz, raw and compressed. The node runs in a process
of its own with an encoder that sleeps for 25 or 100 ms. Fast DDS is configured for images as in
docs/dds.md. The latency is the time from just before an image is published to the arrival of its
matches in the camera's process. It is divided into transport (DDS, both ways), waiting for the
worker, and the steps of the worker.
"""

import argparse
import array
from collections.abc import Callable
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.report import Metric, ROOT, write
from regvpr_core.models.preprocessing import Preprocessing

SIZE = (720, 1280)
RATE_HZ = 30.0
WARM_S = 5.0
ENCODERS_MS = (25.0, 100.0)
MARGIN_MS = {'raw': 10.0, 'compressed': 12.0}
DIMENSION = 256
KEYFRAMES = 500


def main() -> None:
    seconds = 600.0 if os.environ.get('FULL') else 30.0
    metrics = []
    with tempfile.TemporaryDirectory() as folder:
        place_map = Path(folder) / 'map'
        make_map(place_map)
        for kind in ('raw', 'compressed'):
            for encoder_ms in ENCODERS_MS:
                metrics += measure(place_map, kind, encoder_ms, seconds)
    for metric in metrics:
        print(f'{metric.metric}: {metric.value:.3g} {metric.unit} (target {metric.target})')
    print(write('node_latency', metrics))


def measure(place_map: Path, kind: str, encoder_ms: float, seconds: float) -> list[Metric]:
    """Run the node and the camera; return the metrics that the camera measured."""
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(os.getpid() % 90 + 5),
                   'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
                   # For both processes, as in docs/dds.md and scripts/localize.
                   'FASTRTPS_DEFAULT_PROFILES_FILE': str(ROOT / 'config/fastdds_images.xml'),
                   'OPENBLAS_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'benchmarks.node_latency']
    node = subprocess.Popen([*command, '--node', str(place_map), '--kind', kind, '--encoder-ms',
                             str(encoder_ms)], cwd=ROOT, env=environment)
    try:
        run = subprocess.run([*command, '--camera', '--kind', kind, '--seconds', str(seconds),
                              '--pid', str(node.pid)], cwd=ROOT, env=environment, check=True,
                             stdout=subprocess.PIPE, text=True)
    finally:
        node.terminate()
        node.wait(20)
    seen = json.loads(run.stdout.splitlines()[-1])
    p95 = float(np.percentile(seen['latencies_ms'], 95))
    # With the slow encoder an image may also wait for the one before it.
    allowed = MARGIN_MS[kind] + (1e3 / RATE_HZ if encoder_ms > 1e3 / RATE_HZ else 0.0)
    name = kind if encoder_ms == ENCODERS_MS[0] else f'{kind}_{encoder_ms:.0f}'
    scope = (f'{kind} 1280x720 at {RATE_HZ:.0f} Hz, encoder {encoder_ms:.0f} ms, '
             f'{len(seen["latencies_ms"])} of {seen["sent"]} images over {seconds:.0f} s')
    return [
        Metric(metric=f'{name}_p95_over_encoder_ms', value=p95 - encoder_ms, unit='ms',
               target=allowed, higher_is_better=False, scope=scope),
        Metric(metric=f'{name}_p50_over_encoder_ms', unit='ms', scope=scope,
               value=float(np.percentile(seen['latencies_ms'], 50)) - encoder_ms),
        Metric(metric='rss_growth_mb' if name == 'raw' else f'{name}_rss_growth_mb',
               value=seen['rss_growth_mb'], unit='MB', target=20.0, higher_is_better=False,
               scope=f'resident memory of the node, last third (at most a minute) less the first '
                     f'of {seconds:.0f} s; {scope}'),
        *shares(name, seen, scope),
    ]


def shares(name: str, seen: dict[str, Any], scope: str) -> list[Metric]:
    """Share of each part in the mean time from capture to match."""
    total_ms = float(np.mean(seen['latencies_ms']))
    inside_ms = float(np.mean(seen['inside_ms']))
    steps_ms = {step: float(share) * float(seen['busy_ms'])
                for step, share in seen['shares'].items()}
    parts = {'on the way': total_ms - inside_ms,
             'waiting for the worker': max(0.0, inside_ms - sum(steps_ms.values())), **steps_ms}
    return [Metric(metric=f'{name}_share_{step.replace(" ", "_")}', value=ms / total_ms,
                   unit='of the mean', scope=f'{ms:.2f} of {total_ms:.1f} ms; {scope}')
            for step, ms in parts.items()]


def make_map(path: Path) -> None:
    """Build a map of random descriptors along a straight road."""
    from regvpr_core.localization.stored_calibration import calibrate_and_store
    from regvpr_core.maps.files import Manifest, new_map_id
    from regvpr_core.maps.writer import Keyframe, MapWriter

    rows = np.random.default_rng(0).normal(size=(KEYFRAMES, DIMENSION)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    manifest = Manifest(map_id=new_map_id(), model='sleeper', fingerprint='0' * 64,
                        dimension=DIMENSION,
                        extrinsics={'camera': [0.0, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5]})
    with MapWriter.create(path, manifest) as writer:
        writer.append([Keyframe(stamp_ns=i, camera='camera', T_map_cam=at(i), descriptor=row)
                       for i, row in enumerate(rows)])
    calibrate_and_store(path)


def at(i: int) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = float(i)
    return T


class Sleeper:
    """An encoder that takes a given time and sleeps meanwhile, as when it waits for a GPU."""

    name, fingerprint, notice, dimension = 'sleeper', '0' * 64, 'sleeps', DIMENSION
    device, precision, preprocessing = 'none', 'none', Preprocessing()

    def __init__(self, milliseconds: float) -> None:
        self._seconds = milliseconds / 1e3
        self._random = np.random.default_rng(1)

    def describe(self, rgb: Any) -> np.ndarray:
        end = time.perf_counter() + self._seconds
        row = self._random.normal(size=DIMENSION).astype(np.float32)
        time.sleep(max(0.0, end - time.perf_counter()))
        return row / np.linalg.norm(row)


def run_node(place_map: str, kind: str, encoder_ms: float) -> None:
    """Run the real node with `Sleeper` in place of the network."""
    from regvpr_ros import localize_node

    def sleeper(config: Any, log: Any) -> Any:
        return Sleeper(encoder_ms)

    localize_node.open_encoder = sleeper
    localize_node.main(['localize', '--ros-args', '-p', f'map:={place_map}', '-p',
                        f'compressed:={str(kind == "compressed").lower()}',
                        '-p', 'use_odometry:=false'])


def run_camera(kind: str, seconds: float, pid: int) -> None:
    """Publish images, receive matches, print the latencies as JSON."""
    import threading

    import cv2
    from diagnostic_msgs.msg import DiagnosticArray
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from regvpr_ros.msg import PlaceMatches
    from sensor_msgs.msg import CompressedImage, Image

    rclpy.init()
    node = rclpy.create_node('camera')
    sent: dict[int, float] = {}
    latencies: list[tuple[int, float, float]] = []
    diagnostics: dict[str, str] = {}

    def on_matches(message: PlaceMatches) -> None:
        number = message.header.stamp.sec
        latencies.append((number, 1e3 * (time.perf_counter() - sent[number]),
                          1e3 * message.latency_s))

    def on_diagnostics(message: DiagnosticArray) -> None:
        diagnostics.update({pair.key: pair.value for pair in message.status[0].values})

    node.create_subscription(PlaceMatches, '/regvpr/matches', on_matches, 10)
    node.create_subscription(DiagnosticArray, '/diagnostics', on_diagnostics, 10)
    rgb = cv2.resize(np.random.default_rng(0).integers(0, 255, (45, 80, 3), np.uint8),
                     SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    if kind == 'compressed':
        message = CompressedImage(format='jpeg')
        message.data = array.array('B', cv2.imencode('.jpg', rgb)[1].tobytes())
        publisher = node.create_publisher(CompressedImage, '/image/compressed', 1)
    else:
        message = Image(height=SIZE[0], width=SIZE[1], encoding='rgb8', step=3 * SIZE[1],
                        data=array.array('B', rgb.tobytes()))
        publisher = node.create_publisher(Image, '/image', 1)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    wait(lambda: publisher.get_subscription_count() > 0, 120.0)
    start, number, memory = time.perf_counter(), 0, []
    while (elapsed := time.perf_counter() - start) < WARM_S + seconds:
        number += 1
        message.header.stamp.sec = number
        sent[number] = time.perf_counter()
        publisher.publish(message)
        if number % int(RATE_HZ) == 0 and elapsed > WARM_S:
            memory.append(resident_mb(pid))
        time.sleep(max(0.0, start + number / RATE_HZ - time.perf_counter()))
    time.sleep(0.5)
    first = int(WARM_S * RATE_HZ)
    minute = max(1, min(60, len(memory) // 3))
    print(json.dumps({
        'latencies_ms': [ms for n, ms, _ in latencies if n > first],
        'inside_ms': [ms for n, _, ms in latencies if n > first],
        'busy_ms': float(diagnostics['busy (ms an image)']),
        'shares': {key.partition(': ')[2]: value for key, value in diagnostics.items()
                   if key.startswith('share of time: ')},
        'sent': number - first,
        'rss_growth_mb': float(np.median(memory[-minute:]) - np.median(memory[:minute]))}))
    executor.shutdown()
    spinning.join()
    node.destroy_node()
    rclpy.try_shutdown()


def wait(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError('the node does not listen')
        time.sleep(0.05)


def resident_mb(pid: int) -> float:
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--node', metavar='MAP')
    parser.add_argument('--camera', action='store_true')
    parser.add_argument('--kind', default='raw')
    parser.add_argument('--encoder-ms', type=float, default=25.0)
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--pid', type=int, default=0)
    options = parser.parse_args()
    if options.node:
        run_node(options.node, options.kind, options.encoder_ms)
    elif options.camera:
        run_camera(options.kind, options.seconds, options.pid)
    else:
        main()
