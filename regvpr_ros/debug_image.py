"""Debug image: the query beside the matched keyframe."""

from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage

from regvpr_core.images import encode_jpeg, RGB, thumbnail

HEIGHT = 240
BAR = 28
WHITE, GREEN, BLACK = (255, 255, 255), (0, 200, 120), (0, 0, 0)


def debug_image(query: RGB, match: RGB | None, text: str, accepted: bool,
                header: Any) -> CompressedImage:
    """A JPEG: query on the left, the match's thumbnail on the right, a line of text above.

    Args:
        query, match: (H, W, 3) RGB of any size; no match leaves the right side black.
        text: line about the decision.
        accepted: draw a green frame.
        header: of the query.
    """
    left = _to_height(query)
    right = _to_height(match) if match is not None else np.zeros_like(left)
    picture = np.concatenate([left, right], axis=1)
    if accepted:
        cv2.rectangle(picture, (0, 0), (picture.shape[1] - 1, HEIGHT - 1), GREEN, 4)
    bar = np.zeros((BAR, picture.shape[1], 3), dtype=np.uint8)
    cv2.putText(bar, text, (6, BAR - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, WHITE, 1, cv2.LINE_AA)
    message = CompressedImage(header=header, format='jpeg')
    message.data = encode_jpeg(np.ascontiguousarray(np.concatenate([bar, picture])))
    return message


def _to_height(rgb: RGB) -> RGB:
    """Scale to `HEIGHT` rows; very wide images are cropped."""
    small = thumbnail(rgb, 640)
    width = min(640, max(1, round(small.shape[1] * HEIGHT / small.shape[0])))
    return np.asarray(cv2.resize(small, (width, HEIGHT), interpolation=cv2.INTER_AREA))
