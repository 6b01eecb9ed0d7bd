"""How much a score speaks for a place, learnt from the map's own keyframes.

A score is a similarity in robust standard deviations above what the image has with keyframes all
over the map. Pairs of keyframes of one place and of different places give two distributions of
scores; their log likelihood ratio is taken as linear.
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

LOGISTIC_PRIOR = 0.002
NEWTON_STEPS = 30

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
    if not background.shape[-1]:  # an empty map: nothing stands out
        return np.zeros(similarities.shape)
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
    offset, gain = fit_logistic(CHANGED * same, other)
    return Calibration(offset, TEMPER * gain) if gain > 0.0 else Calibration(*FALLBACK)


def fit_logistic(true: Float, false: Float) -> tuple[float, float]:
    """Offset and gain of the log likelihood ratio gain * (score - offset) of two samples.

    Logistic regression with both classes of the same weight, by Newton's method; a weak prior
    keeps the gain finite where the samples do not overlap.
    """
    z = np.concatenate([true, false])
    is_true = np.concatenate([np.ones(len(true)), np.zeros(len(false))])
    share = np.concatenate([np.full(len(true), 0.5 / len(true)),
                            np.full(len(false), 0.5 / len(false))])
    X = np.stack([z, np.ones_like(z)], axis=1)
    prior = np.diag([LOGISTIC_PRIOR, 1e-9])
    w = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(X @ w, -30.0, 30.0)))
        gradient = X.T @ (share * (is_true - p)) - prior @ w
        hessian = X.T @ (X * (share * p * (1.0 - p))[:, None]) + prior
        step = np.linalg.solve(hessian, gradient)
        w += step / max(1.0, float(np.abs(step).max()))
    return (float(-w[1] / w[0]) if w[0] else 0.0), float(w[0])
