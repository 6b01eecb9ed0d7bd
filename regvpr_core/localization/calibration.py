"""How much a score speaks for a place, learnt from the map's own keyframes.

A score is a similarity in robust standard deviations above what the image has with keyframes all
over the map. Pairs of keyframes of one place and of different places give two distributions of
scores; their log likelihood ratio is taken as linear (two normals of one width).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regvpr_core.places.place_map import PlaceMap

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

SAMPLE = 512
LEAST_SPREAD = 0.01

CHANGED = 0.7
"""Share of a true pair's score that is left in another session: the map's own pairs were taken
seconds apart, a robot comes back at dusk."""

TEMPER = 0.5
"""Share of the log likelihood ratio that is used: the errors of images in a row are alike."""

FALLBACK = (2.5, 1.0)
"""Offset and gain for maps too small to learn from."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Log likelihood ratio of a true match at a score: gain * (score - offset)."""

    offset: float
    gain: float

    def log_odds(self, scores: Float) -> Float:
        """(K,) scores to log likelihood ratios."""
        return self.gain * (scores - self.offset)


def scores(similarities: Float32, background: Float32) -> Float:
    """Similarities (..., K) as scores, from those with places all over the map (..., B)."""
    middle = np.median(background, axis=-1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(background - middle), axis=-1, keepdims=True)
    return np.asarray((similarities - middle) / np.maximum(spread, LEAST_SPREAD), dtype=np.float64)


def sample(place_map: PlaceMap) -> npt.NDArray[np.int64]:
    """Ids of keyframes all over the map, at most `SAMPLE`."""
    count = len(place_map)
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, SAMPLE)).astype(np.int64))


def calibrate(place_map: PlaceMap, radius_m: float, angle_rad: float) -> Calibration:
    """Learn from the pairs of a map's keyframes.

    Args:
        place_map: the map.
        radius_m, angle_rad: keyframes nearer than both show one place; those beyond twice the
            radius or the angle do not.
    """
    # Neighbours must be among the sample, so it is taken in runs where the map is large.
    ids = sample(place_map)
    if len(ids) < len(place_map):
        starts = np.linspace(0, len(place_map) - 8, SAMPLE // 8).astype(np.int64)
        ids = np.unique(starts[:, None] + np.arange(8))
    if len(ids) < 10:
        return Calibration(*FALLBACK)
    rows = place_map.centred(ids)
    similarities = rows @ rows.T
    np.fill_diagonal(similarities, np.nan)
    off_diagonal = similarities[~np.isnan(similarities)].reshape(len(ids), -1)
    z = scores(similarities, off_diagonal)

    # The unit is the place, not the keyframe: its score is the best of the keyframes that show it.
    T = place_map.T_map_cam[ids]
    metres = np.linalg.norm(T[:, None, :3, 3] - T[None, :, :3, 3], axis=-1)
    cosines = np.einsum('iab,jab->ij', T[:, :3, :3], T[:, :3, :3])  # trace of R_i^T R_j
    radians = np.arccos(np.clip((cosines - 1.0) / 2.0, -1.0, 1.0))
    here = (metres < radius_m) & (radians < angle_rad)
    z = np.nan_to_num(z, nan=-np.inf)
    places = np.stack([np.where(here, row, -np.inf).max(axis=1) for row in z])
    same = np.diagonal(places)
    other = places[(metres > 2 * radius_m) | (radians > 2 * angle_rad)]
    same, other = same[np.isfinite(same)], other[np.isfinite(other)]
    if len(same) < 10 or len(other) < 10:
        return Calibration(*FALLBACK)
    true, false = CHANGED * float(same.mean()), float(other.mean())
    variance = 0.5 * float(same.var() + other.var())
    if true <= false:
        return Calibration(*FALLBACK)
    return Calibration(offset=0.5 * (true + false), gain=TEMPER * (true - false) / variance)
