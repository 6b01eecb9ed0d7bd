"""Throughput of `regvpr map build` on a bag of 1080p JPEGs against the bare network.

The synthetic bag has odometry, and JPEG images (quality 90) of 1920 x 1080 pixels with structure
at every scale. Each frame becomes a keyframe, so each is read, decoded in full, tested for
quality, scaled down, described and committed. The bare network gets as many batches at its input
size. The two are measured in alternating order. A build includes the network's work, so a ratio
above 1 is measurement noise.
"""

import os
from pathlib import Path
import shutil
import statistics
import sys
import tempfile
import time

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
import torch

from benchmarks.encoder import random_model
from benchmarks.report import Metric, write
from regvpr_core.mapping.builder import build_map, BuildConfig, BuildOptions
from regvpr_core.models.checkpoints import LoadedModel
from regvpr_core.models.encoder import Encoder, torch_encoder

FRAMES = 384 if os.environ.get('FULL') else 128
BATCH = 16
TURNS = 6 if os.environ.get('FULL') else 4
START_NS = 1_700_000_000_000_000_000


def picture(number: int) -> np.ndarray:
    """A frame (1080, 1920, 3) with the amount of detail that a camera's JPEG has."""
    rng = np.random.default_rng(number)
    frame = np.zeros((1080, 1920, 3), np.float32)
    for cell, strength in ((120, 60.0), (40, 40.0), (12, 20.0), (4, 8.0)):
        noise = rng.normal(0, strength, (1080 // cell, 1920 // cell, 3)).astype(np.float32)
        frame += cv2.resize(noise, (1920, 1080), interpolation=cv2.INTER_CUBIC)
    return np.clip(frame + 128, 0, 255).astype(np.uint8)


def write_bag(path: Path) -> int:
    """Write a rosbag2 (mcap) with images and odometry, 2 m apart; return its size in bytes."""
    store = get_typestore(Stores.ROS2_JAZZY)
    make = store.types
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        images = writer.add_connection('/camera/image_raw/compressed',
                                       'sensor_msgs/msg/CompressedImage', typestore=store)
        odometry = writer.add_connection('/odom', 'nav_msgs/msg/Odometry', typestore=store)
        zero = make['geometry_msgs/msg/Vector3'](0.0, 0.0, 0.0)
        for i in range(FRAMES):
            time_ns = START_NS + i * 100_000_000
            stamp = make['builtin_interfaces/msg/Time'](*divmod(time_ns, 10**9))
            pose = make['geometry_msgs/msg/Pose'](
                make['geometry_msgs/msg/Point'](2.0 * i, 0.0, 0.0),
                make['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0))
            message = make['nav_msgs/msg/Odometry'](
                make['std_msgs/msg/Header'](stamp, 'map'), 'base_link',
                make['geometry_msgs/msg/PoseWithCovariance'](pose, np.zeros(36)),
                make['geometry_msgs/msg/TwistWithCovariance'](
                    make['geometry_msgs/msg/Twist'](zero, zero), np.zeros(36)))
            writer.write(odometry, time_ns,
                         store.serialize_cdr(message, 'nav_msgs/msg/Odometry'))
            jpeg = cv2.imencode('.jpg', picture(i), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            image = make['sensor_msgs/msg/CompressedImage'](
                make['std_msgs/msg/Header'](stamp, 'camera'), 'jpeg', jpeg.reshape(-1))
            writer.write(images, time_ns,
                         store.serialize_cdr(image, 'sensor_msgs/msg/CompressedImage'))
    return sum(file.stat().st_size for file in path.iterdir())


def build(bag_path: Path, out: Path, encoder: Encoder) -> None:
    """Build the map as the command does, with the network already loaded."""
    options = BuildOptions(out=out, config=BuildConfig(batch=BATCH))
    with build_map([bag_path], options, encoder) as place_map:
        if len(place_map) != FRAMES:
            raise RuntimeError(f'{len(place_map)} of {FRAMES} frames kept')
    shutil.rmtree(out)


def main() -> None:
    """Measure both in alternation and write the result file."""
    model = random_model('vitb14', 224)
    encoder = torch_encoder(LoadedModel(model, 'random', 'random', ''), torch.device('cpu'))
    inputs = [torch.randn(1, 3, 224, 224) for _ in range(BATCH)]
    build_s, bare_s = [], []
    with tempfile.TemporaryDirectory() as name:
        size = write_bag(Path(name) / 'bag')
        encoder.describe_prepared(inputs)
        for turn in range(TURNS):
            for what in ('build', 'bare') if turn % 2 else ('bare', 'build'):
                start = time.perf_counter()
                if what == 'build':
                    build(Path(name) / 'bag', Path(name) / f'map{turn}', encoder)
                else:
                    for _ in range(FRAMES // BATCH):
                        encoder.describe_prepared(inputs)
                (build_s if what == 'build' else bare_s).append(time.perf_counter() - start)
    ratios = [bare / built for bare, built in zip(bare_s, build_s, strict=True)]
    scope = (f'RegVPR vitb14 at 224, batch {BATCH}, mcap of {FRAMES} JPEGs of 1920x1080 '
             f'({size / FRAMES / 1e3:.0f} kB each), decoded in full, {encoder.precision}')
    path = write('map_build', [
        Metric(metric='throughput_ratio', value=statistics.median(ratios), unit='x', target=0.9,
               scope=scope),
        Metric(metric='places_per_s', value=FRAMES / statistics.median(build_s), unit='1/s',
               scope=scope),
        Metric(metric='bare_images_per_s', value=FRAMES / statistics.median(bare_s), unit='1/s',
               scope='the network alone'),
    ])
    sys.stdout.write(path.read_text(encoding='utf-8'))


if __name__ == '__main__':
    main()
