"""Throughput of `regvpr describe` on a folder of JPEGs against the bare network.

The photos are smooth noise of 1280 x 720 pixels, and RegVPR has random weights. The bare network
gets batches of the same number of images at its input size; it reads, decodes and writes nothing.
"""

import os
from pathlib import Path
import statistics
import sys
import tempfile
import time

import cv2
import numpy as np
import torch

from benchmarks.encoder import random_model
from benchmarks.report import Metric, write
from regvpr_core.models.checkpoints import LoadedModel
from regvpr_core.models.encoder import torch_encoder
from regvpr_core.recordings.describing import describe_files

PHOTOS = 512 if os.environ.get('FULL') else 96
BATCH = 16
TURNS = 5 if os.environ.get('FULL') else 3


def write_photos(folder: Path) -> None:
    """Write JPEGs of smooth noise, 1280 x 720, quality 90."""
    for i in range(PHOTOS):
        small = np.random.default_rng(i).integers(0, 256, (45, 80, 3), dtype=np.uint8)
        photo = cv2.resize(small, (1280, 720), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f'{i:05}.jpg'), photo, [cv2.IMWRITE_JPEG_QUALITY, 90])


def main() -> None:
    """Measure both in alternation and write the result file."""
    model = random_model('vitb14', 224)
    encoder = torch_encoder(LoadedModel(model, 'random', 'random', ''), torch.device('cpu'))
    inputs = [torch.randn(1, 3, 224, 224) for _ in range(BATCH)]
    folder_s, bare_s = [], []
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / 'photos'
        photos.mkdir()
        write_photos(photos)
        encoder.describe_prepared(inputs)
        for turn in range(TURNS):
            start = time.perf_counter()
            describe_files([photos], encoder, Path(name) / f'{turn}.npz', BATCH)
            middle = time.perf_counter()
            for _ in range(PHOTOS // BATCH):
                encoder.describe_prepared(inputs)
            folder_s.append(middle - start)
            bare_s.append(time.perf_counter() - middle)
    ratios = [bare / folder for bare, folder in zip(bare_s, folder_s, strict=True)]
    scope = f'RegVPR vitb14 at 224, batch {BATCH}, {PHOTOS} JPEGs of 1280x720, {encoder.precision}'
    path = write('describe', [
        Metric(metric='throughput_ratio', value=statistics.median(ratios), unit='x', target=0.9,
               scope=scope),
        Metric(metric='folder_images_per_s', value=PHOTOS / statistics.median(folder_s),
               unit='1/s', scope=scope),
        Metric(metric='bare_images_per_s', value=PHOTOS / statistics.median(bare_s), unit='1/s',
               scope='the network alone'),
    ])
    sys.stdout.write(path.read_text(encoding='utf-8'))


if __name__ == '__main__':
    main()
