"""Decoders of image messages: cv_bridge if it works, else the decoder of regvpr_core."""

from collections.abc import Callable
import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np

from regvpr_core.errors import ImageError
from regvpr_core.images import RGB
from regvpr_core.recordings.messages import image_rgb

Decoder = Callable[[Any], RGB]

# cv_bridge's extension, if built against NumPy 1, may abort the process under NumPy 2
# (vision_opencv issue 535), so it is tried in another process.
TRIAL = """
from types import SimpleNamespace
import cv_bridge
import numpy
for encoding, channels in (("rgb8", 3), ("bgr8", 3), ("mono8", 1)):
    data = numpy.frombuffer(bytes(range(2 * 2 * channels)), dtype=numpy.uint8)
    image = SimpleNamespace(height=2, width=2, encoding=encoding, step=2 * channels, data=data,
                            is_bigendian=0)
    rgb = cv_bridge.CvBridge().imgmsg_to_cv2(image, "rgb8")
    assert rgb.shape == (2, 2, 3) and rgb.dtype == "uint8", (encoding, rgb.shape)
    assert rgb[0, 1, 0] == {"rgb8": 3, "bgr8": 5, "mono8": 1}[encoding], encoding
"""
TRIAL_S = 20.0

BY_CV_BRIDGE = frozenset(('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'bayer_rggb8', 'bayer_bggr8',
                          'bayer_gbrg8', 'bayer_grbg8'))
"""Encodings decoded by cv_bridge; encodings that it interprets differently are not included."""


def choose_decoder() -> tuple[Decoder, str]:
    """Choose the decoder; return it with its name and the reason."""
    if importlib.util.find_spec('cv_bridge') is None:
        return image_rgb, 'own decoder (cv_bridge is not installed)'
    try:
        trial = subprocess.run([sys.executable, '-c', TRIAL], capture_output=True, text=True,
                               timeout=TRIAL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return image_rgb, f'own decoder (cv_bridge could not be tried: {error})'
    if trial.returncode:
        lines = trial.stderr.strip().splitlines() or [f'exit code {trial.returncode}']
        return image_rgb, f'own decoder (cv_bridge does not work here: {lines[-1][:200]})'
    return cv_bridge_decoder(), 'cv_bridge'


def at_half_size(decode: Decoder, height: int, width: int) -> Decoder:
    """A decoder that gives JPEGs at half their size where they are much larger than this."""
    def decode_one(message: Any) -> RGB:
        return image_rgb(message, least=(height, width)) if hasattr(message, 'format') else \
            decode(message)

    return decode_one


def cv_bridge_decoder() -> Decoder:
    """A decoder that uses cv_bridge for `BY_CV_BRIDGE`, and regvpr_core for other encodings."""
    bridge = importlib.import_module('cv_bridge').CvBridge()

    def decode(message: Any) -> RGB:
        if getattr(message, 'encoding', '') not in BY_CV_BRIDGE:
            return image_rgb(message)
        height, width = int(message.height), int(message.width)
        if not 0 < len(message.data) == int(message.step) * height:
            return image_rgb(message)  # raises an error with the reason
        try:
            rgb = np.asarray(bridge.imgmsg_to_cv2(message, 'rgb8'))
        except Exception as error:
            raise ImageError(f'{message.encoding} image of {width}x{height}: cv_bridge: '
                             f'{error}') from error
        return np.ascontiguousarray(rgb)

    return decode
