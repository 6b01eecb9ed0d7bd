"""Compares engines with float32 before their first use on a machine, and stores the result.

Sixteen images are described by the engine and in float32, and the cosine of each pair is computed
after subtracting the mean of the float32 descriptors, because only differences between images
discriminate places. The images are stored in an .onnx file if it was exported with images.
Otherwise they are synthetic: discs of random size that cover each other ("dead leaves", with the
edge and contrast statistics of photographs; Lee, Mumford and Huang, IJCV 2001).
"""

import base64
import binascii
from collections.abc import Callable, Sequence
import hashlib
import os
from pathlib import Path
import platform
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from regvpr_core.errors import CheckpointError, ConfigError, ImageError
from regvpr_core.images import decode, encode_jpeg, RGB, thumbnail
from regvpr_core.models.downloads import cache_folder

Rows = npt.NDArray[np.float32]

IMAGES = 16
HEIGHT, WIDTH = 240, 320
DISCS = 400
SMALLEST, LARGEST = (3.0, 30.0), 120.0
"""Range of the smallest radius of an image, and largest radius, pixels. The density of radii falls
with their cube."""

BOUND = {'fp32': 0.9999, 'bf16': 0.99, 'fp16': 0.99, 'int8': 0.95}
"""Least centred cosine over all images, by precision. The shipped model has 0.9995 in bf16 and
0.972 in int8."""

SIDE = 320
QUALITY = 92
"""Stored images: longest side in pixels, and JPEG quality."""

MAX_IMAGE_BYTES = 300_000

ALIKE = 0.999
"""If the float32 descriptors of different images are closer than this, as with random weights, the
plain cosine is used, because the centred one would compare rounding errors."""

KEPT_LAYERS = 'Softmax, LayerNormalization, Exp, ReduceLogSumExp, ReduceSum and Pow'
"""ONNX operators that lose most accuracy in half precision, including those of the transport."""


def drawn_images() -> list[RGB]:
    """Sixteen different images (240, 320, 3), the same on every machine."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(IMAGES):
        tint, smallest = rng.integers(40, 216, 3), rng.uniform(*SMALLEST)
        image = np.full((HEIGHT, WIDTH, 3), tint, np.uint8)
        shares = rng.random(DISCS)
        radii = (smallest ** -2 + shares * (LARGEST ** -2 - smallest ** -2)) ** -0.5
        for radius in radii:
            x, y = rng.integers(0, (WIDTH, HEIGHT))
            colour = np.clip(tint + rng.normal(0.0, 60.0) + rng.normal(0.0, 20.0, 3), 0, 255)
            cv2.circle(image, (int(x), int(y)), round(radius), colour.tolist(), -1)
        images.append(image)
    return images


def kept_images(images: Sequence[RGB]) -> list[bytes]:
    """JPEG of sixteen of the images, small, evenly spaced.

    Raises:
        ImageError: there are fewer.
    """
    if len(images) < IMAGES:
        raise ImageError(f'{len(images)} images; at least {IMAGES} different ones are needed')
    chosen = np.linspace(0, len(images) - 1, IMAGES).round().astype(int)
    return [encode_jpeg(thumbnail(images[i], SIDE), QUALITY) for i in chosen]


def pack(photos: Sequence[bytes], descriptors: Rows) -> dict[str, Any]:
    """Serialise test data for an .onnx file as JSON: JPEG images (none: the synthetic ones) and
    their float32 descriptors (16, D).
    """
    rows = base64.b64encode(descriptors.astype(np.float16).tobytes()).decode()
    return {'descriptors': rows,
            'images': [base64.b64encode(photo).decode() for photo in photos]}


def unpack(packed: Any, dimension: int) -> tuple[list[RGB], Rows]:
    """Parse the images and descriptors of a file.

    Raises:
        CheckpointError: they are damaged.
    """
    try:
        rows = np.frombuffer(base64.b64decode(packed['descriptors'], validate=True), np.float16)
        photos = packed['images']
        if len(rows) != IMAGES * dimension or len(photos) not in (0, IMAGES) \
                or any(len(text) > MAX_IMAGE_BYTES for text in photos):
            raise ValueError(f'{len(photos)} images, {len(rows)} numbers')
        images = [decode(base64.b64decode(text, validate=True)) for text in photos]
    except (KeyError, TypeError, ValueError, binascii.Error, ImageError) as error:
        raise CheckpointError(f'the images that an exported file is checked by are damaged '
                              f'({error}); export it again') from error
    return images or drawn_images(), rows.reshape(IMAGES, dimension).astype(np.float32)


def agreement(wanted: Rows, given: Rows) -> float:
    """Least centred cosine between descriptors (N, D) of two precisions."""
    if not (np.isfinite(wanted).all() and np.isfinite(given).all()):
        return -1.0
    others = wanted @ wanted.T
    centre = wanted.mean(axis=0) if others.mean() < ALIKE else np.zeros_like(wanted[0])
    a, b = wanted - centre, given - centre
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-12)).min())


def passed(
    fingerprint: str, engine: str, precision: str,
    measure: Callable[[], float],
) -> float:
    """Agreement of an engine on this machine, measured once and stored.

    Args:
        fingerprint: of the model.
        engine: identifies the engine: library and version, device, form.
        precision: fp32, bf16, fp16 or int8.
        measure: computes the agreement; called if none is stored.

    Raises:
        ConfigError: it is below `BOUND`; the message has the value and what to do.
    """
    key = '\n'.join((fingerprint, engine, precision, platform.machine(), processor()))
    path = cache_folder() / 'gate' / hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        found = float(path.read_text())
    except (OSError, ValueError):
        found = measure()
        keep(path, found)
    if not found >= BOUND[precision]:
        raise ConfigError(
            f'{engine} in {precision} gives other descriptors than float32: least cosine of '
            f'{IMAGES} images {found:.4f}, at least {BOUND[precision]} is needed; use precision '
            f'fp32, or build the engine with these layers in fp32: {KEPT_LAYERS} (docs/export.md)')
    return found


def processor() -> str:
    """Name of the processor; '' if unknown."""
    try:
        with Path('/proc/cpuinfo').open(encoding='utf-8', errors='replace') as file:
            return next((line for line in file if line.startswith('model name')), '').strip()
    except OSError:
        return platform.processor()


def keep(path: Path, found: float) -> None:
    """Store a result; if the cache is not writable, it is measured again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'{path.name}.{os.getpid()}')
        part.write_text(f'{found:.6f}\n')
        part.replace(path)
    except OSError:
        return


def described(describe: Callable[[RGB], Rows], images: Sequence[RGB]) -> Rows:
    """Descriptors (N, D), one image per pass."""
    return np.stack([describe(rgb) for rgb in images])
