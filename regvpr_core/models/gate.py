"""Engines are compared with float32 before their first use on a machine; results are kept.

Sixteen images are described by the engine and by float32; a cosine is taken of each pair once the
mean of the float32 descriptors is off both, since what tells places apart is what differs between
images. The images lie in an .onnx file that was exported with images, else they are drawn: discs
of random size that cover each other ("dead leaves", whose edges and contrasts over scales are
those of photographs; Lee, Mumford and Huang, IJCV 2001).
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
"""Radii in pixels: the smallest of an image is drawn from a range. The density of radii falls with
their cube."""

BOUND = {'fp32': 0.9999, 'bf16': 0.99, 'fp16': 0.99, 'int8': 0.95}
"""Least centred cosine of any of the images, by precision. Seen with the shipped model: bf16
0.9995, int8 0.972."""

SIDE = 320
QUALITY = 92
"""Of images that are kept in a file: longest side in pixels, and of their JPEG."""

MAX_IMAGE_BYTES = 300_000

ALIKE = 0.999
"""Where float32 descriptors of different images are closer than this, as with random weights, the
centred cosine is that of rounding errors; then the plain cosine counts."""

KEPT_LAYERS = 'Softmax, LayerNormalization, Exp, ReduceLogSumExp, ReduceSum and Pow'
"""Kinds of layers that lose most in half precision; those of Sinkhorn's transport among them."""


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
    """What an .onnx file keeps to be compared with, as JSON: images as JPEG (none: the drawn ones)
    and their float32 descriptors (16, D).
    """
    rows = base64.b64encode(descriptors.astype(np.float16).tobytes()).decode()
    return {'descriptors': rows,
            'images': [base64.b64encode(photo).decode() for photo in photos]}


def unpack(packed: Any, dimension: int) -> tuple[list[RGB], Rows]:
    """Images and descriptors of a file.

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
    """Least cosine of descriptors (N, D) of one precision with those of another, centred."""
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
    """The agreement of an engine on this machine, measured once and kept.

    Args:
        fingerprint: of the model.
        engine: all that tells engines apart: library and its version, device, form.
        precision: fp32, bf16, fp16 or int8.
        measure: gives the agreement; called where none is kept.

    Raises:
        ConfigError: it is below `BOUND`; says by how much and what to do.
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
    """Name of the processor; '' where the system does not say."""
    try:
        with Path('/proc/cpuinfo').open(encoding='utf-8', errors='replace') as file:
            return next((line for line in file if line.startswith('model name')), '').strip()
    except OSError:
        return platform.processor()


def keep(path: Path, found: float) -> None:
    """Write a result; where the cache cannot be written it is measured again the next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'{path.name}.{os.getpid()}')
        part.write_text(f'{found:.6f}\n')
        part.replace(path)
    except OSError:
        return


def described(describe: Callable[[RGB], Rows], images: Sequence[RGB]) -> Rows:
    """Descriptors (N, D), one image a pass."""
    return np.stack([describe(rgb) for rgb in images])
