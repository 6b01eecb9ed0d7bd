"""A contact sheet: the same places under every condition."""

from pathlib import Path

import cv2
import numpy as np

from examples.town.conditions import LOOKS
from examples.town.config import LapConfig
from examples.town.errors import TownError
from examples.town.town import Town


def write_preview(town: Town, path: Path, *, places: int = 6, route: str = 'mapped') -> None:
    """Write a PNG with a row of places for each condition, evenly along a route.

    Args:
        town: The town.
        path: The image file.
        places: Number of places, >= 1.
        route: The route they are on.

    Raises:
        TownError: The file cannot be written.
    """
    rows = []
    for number, condition in enumerate(LOOKS):
        row = []
        for place in range(places):
            start_m = town.route(route).length_m * place / places
            lap = LapConfig(condition=condition, seed=number, route=route, start_m=start_m,
                            frames=1)  # fmt: skip
            row.append(next(town.drive(lap)).image)
        rows.append(np.hstack(row))
    sheet = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    _, png = cv2.imencode('.png', sheet)
    try:
        path.write_bytes(png.tobytes())
    except OSError as error:
        raise TownError(f'cannot write the preview {path}: {error.strerror}') from None
