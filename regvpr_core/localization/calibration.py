"""Calibration of scores: likelihood ratio of a place, and probability of a match.

A score combines how far a keyframe stands out among those of the map with its similarity
(`model_evidence`). Two functions are learnt:

* the log likelihood ratio of a place given its score, which the belief uses. It starts from the
  scores of the model at look-alike places of other sites. The map's own best wrong *paths* can
  raise its threshold but not lower it. A wrong path is another path of keyframes that resembles a
  drive along the map's own keyframes;
* the probability that an image's best match is true, given its score and its margin over the best
  keyframe of another place, if half of the images were taken off the map.
"""

from dataclasses import dataclass, field, replace
import math

import numpy as np
from scipy.spatial import cKDTree

from regvpr_core.arrays import Float32, Float64, Ids, Mask
from regvpr_core.geometry import Array
from regvpr_core.localization.appearance import Appearance, AppearanceConfig
from regvpr_core.localization.model_evidence import model_evidence, POOLED
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.search.rows import unit

SAMPLE = 512
"""Number of keyframes, spread over the map, that represent it."""

RUN = 8
LEAST_SPREAD = 0.01
LEAST_EXAMPLES = 10

WRONG_PATHS = 0.75
"""The log likelihood ratio is positive only above this quantile of the best wrong paths."""

MOST_RAISED = 1.0
"""Largest increase of the threshold by wrong paths: the belief itself decides between two places
of the map that look the same."""

PATH = 4
"""Number of successive keyframes of a path; at most half of `RUN`."""

SURROUNDINGS = 8.0
"""Distance in radii of a place within which keyframes resemble it and are not on a wrong path."""

MAX_QUERIES = 2048

CHANGED = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Factors of the score of a true pair that simulate other sessions when the probability of a match
is learnt: the map's own pairs were taken seconds apart. A second traverse needs no factors."""

ALIKE_LAGS = (*range(1, 13), 16, 24, 32)
"""Steps between the two keyframes of a pair whose similarity is measured; up to twelve cameras may
alternate."""

ALIKE_PAIRS = 64
"""Largest number of pairs for each of `ALIKE_LAGS`."""

LOGISTIC_PRIOR = 0.002
NEWTON_STEPS = 30
BINS = 10

FALLBACK_MATCH = (-9.0, 1.5, 1.0)
"""Intercept, weight of the score and weight of the margin of a match's probability, for maps too
small to learn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Matches of similar probability. predicted: mean; true: share that was; count: how many."""

    predicted: float
    true: float
    count: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of the scores of one map.

    offset, gain: the log likelihood ratio of a place is gain * (score - offset).
    weight: of the similarity in the score.
    match: the log odds of a match are match[0] + match[1] * score + match[2] * margin.
    source: data it was learnt from. queries: number of images.
    bins: held-out images of the same kind, for a reliability diagram.
    """

    offset: float
    gain: float
    match: tuple[float, float, float] = FALLBACK_MATCH
    source: str = 'nothing'
    queries: int = 0
    bins: tuple[Bin, ...] = field(default=())
    weight: float = POOLED[0]

    def scores(self, similarities: Float32, background: Float32) -> Float64:
        """Scores of similarities (..., K), from those with keyframes all over the map (..., B)."""
        return stand_out(similarities, background, self.weight)

    def log_odds(self, scores: Float64) -> Float64:
        """(K,) scores to log likelihood ratios of a place."""
        return self.gain * (scores - self.offset)

    def probability(self, scores: Float64, margins: Float64) -> Float64:
        """(K,) probability that a match of this score and margin is true, from one image alone.

        Limited by the log likelihood ratio of its place.
        """
        bias, score, margin = self.match
        odds = np.minimum(bias + score * scores + margin * margins, self.log_odds(scores))
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(odds, -30.0, 30.0))))


@dataclass(frozen=True, slots=True, eq=False)
class _Examples:
    """Scores of images of known pose.

    true, other: (A,), (B,) scores of the true places, and of other ones.
    matches: (C, 2) score and margin of best matches. is_true: (C,). on_map: (C,) whether the
        image's place is in the map: each image also counts with its place removed. image: (C,)
        index of the image. times: repetitions of the same images among the examples.
    wrong_paths: (P,) mean score of the best wrong path at each keyframe of the map.
    """

    true: Float64
    other: Float64
    matches: Float64
    is_true: Mask
    on_map: Mask
    image: Ids
    times: int = 1
    wrong_paths: Float64 = field(default_factory=lambda: np.zeros(0))


def alike_m(place_map: PlaceMap) -> float:
    """Distance on the drives of a map at which keyframes are half as similar as at one spot, m.

    The median cosine of centred descriptors. If it stays above half, the largest distance
    measured; 0 if no two keyframes are of one drive and camera.
    """
    sources, cameras, T = place_map.sources, place_map.cameras, place_map.T_map_cam
    before_m, before = 0.0, 1.0
    for lag in ALIKE_LAGS:
        starts = np.unique(np.linspace(0, len(T) - 1 - lag, ALIKE_PAIRS).astype(np.int64)) \
            if lag < len(T) else np.zeros(0, np.int64)
        first = np.array([k for k in starts.tolist() if sources[k] == sources[k + lag]
                          and cameras[k] == cameras[k + lag]], np.int64)
        if not len(first):
            continue
        similarity = float(np.median(np.einsum(
            'ij,ij->i', place_map.centred(first), place_map.centred(first + lag))))
        metres = float(np.median(np.linalg.norm(
            T[first, :3, 3] - T[first + lag, :3, 3], axis=1)))
        if similarity < 0.5:
            return before_m + (metres - before_m) * (before - 0.5) / (before - similarity)
        before_m, before = metres, similarity
    return before_m


def scores(similarities: Float32, background: Float32) -> Float64:
    """Standardise similarities (..., K) by the median and spread of `background` (..., B).

    background: similarities to keyframes sampled from all of the map.
    """
    if not background.shape[-1]:  # an empty map: nothing stands out
        return np.zeros(similarities.shape)
    middle = np.median(background, axis=-1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(background - middle), axis=-1, keepdims=True)
    return np.asarray((similarities - middle) / np.maximum(spread, LEAST_SPREAD), dtype=np.float64)


def stand_out(similarities: Float32, background: Float32, weight: float) -> Float64:
    """Scores of similarities (..., K): standardised by (..., B), plus the weighted similarity."""
    if not background.shape[-1]:  # an empty map: nothing stands out
        return np.zeros(similarities.shape)
    spread = np.sqrt(np.mean(np.square(background, dtype=np.float64), axis=-1, keepdims=True))
    return np.asarray(similarities * (1.0 / np.maximum(spread, LEAST_SPREAD) + weight),
                      dtype=np.float64)


def sample(place_map: PlaceMap) -> Ids:
    """Ids of keyframes all over the map, at most `SAMPLE`."""
    count = len(place_map)
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, SAMPLE)).astype(np.int64))


def calibrate(
    place_map: PlaceMap, radius_m: float, angle_rad: float, traverse: PlaceMap | None = None
) -> Calibration:
    """Learn the calibration of a map.

    Args:
        place_map: the map.
        radius_m, angle_rad: keyframes within both show one place; beyond twice the radius or the
            angle they show different places.
        traverse: map of a second drive through the same streets, in the same frame and by the
            same model; None: pairs of the map's own keyframes are used.
    """
    evidence = model_evidence(place_map.manifest.fingerprint, neighbours(place_map))
    own = _own_pairs(place_map, radius_m, angle_rad, evidence.weight)
    if traverse is None:
        examples = own
        source = "paths of the map's own keyframes"
        count = len(examples.true) // len(CHANGED)
    else:
        examples = _second_traverse(place_map, traverse, radius_m, angle_rad, evidence.weight)
        source, count = f'traverse {traverse.manifest.map_id[:8]}', len(examples.true)
    if min(len(examples.true), len(examples.other)) < LEAST_EXAMPLES * examples.times:
        return Calibration(evidence.offset, evidence.gain, weight=evidence.weight)
    raised = float(np.quantile(own.wrong_paths, WRONG_PATHS)) if len(own.wrong_paths) else 0.0
    offset = float(np.clip(raised, evidence.offset, evidence.offset + MOST_RAISED))
    if traverse is not None:
        offset = max(offset, fit_logistic(examples.true, examples.other)[0])
    match, bins = _fit_matches(examples)
    return Calibration(offset, evidence.gain, match, source, count, bins, evidence.weight)


def neighbours(place_map: PlaceMap) -> float:
    """Median similarity of keyframes to the more similar of their two nearest keyframes.

    NaN for a map of fewer than three keyframes.
    """
    ids = sample(place_map)
    if len(place_map) < 3:
        return float('nan')
    positions = place_map.T_map_cam[:, :3, 3]
    _, nearest = cKDTree(positions).query(positions[ids], k=3)
    rows = place_map.centred(ids)
    found = np.stack([np.einsum('ij,ij->i', rows, place_map.centred(nearest[:, k]))
                      for k in range(3)], axis=1)
    found[nearest == ids[:, None]] = -1.0  # the keyframe itself
    return float(np.median(found.max(axis=1)))


def reliability(
    place_map: PlaceMap, calibration: Calibration, radius_m: float = 5.0, angle_rad: float = 0.9
) -> tuple[Bin, ...]:
    """Predicted and true shares, for the diagram in `map show`.

    Returns the stored bins, which come from held-out images. If there are none, the bins are
    computed from pairs of the map's own keyframes.
    """
    if calibration.bins:
        return calibration.bins
    examples = _own_pairs(place_map, radius_m, angle_rad, calibration.weight)
    if not len(examples.matches):
        return ()
    predicted = calibration.probability(examples.matches[:, 0], examples.matches[:, 1])
    return make_bins(predicted, examples.is_true)


def make_bins(predicted: Float64, is_true: Mask) -> tuple[Bin, ...]:
    """Matches (C,) in `BINS` equal bins of probability; empty bins are omitted."""
    numbers = np.minimum((np.asarray(predicted) * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(predicted=float(predicted[numbers == n].mean()),
            true=float(is_true[numbers == n].mean()), count=int((numbers == n).sum()))
        for n in range(BINS) if (numbers == n).any())


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """Expected calibration error: mean distance of predicted and true share, by count."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.predicted - b.true) for b in bins) / total if total else 0.0


def fit_logistic(true: Float64, false: Float64) -> tuple[float, float]:
    """Offset and gain of the log likelihood ratio gain * (score - offset) of two samples.

    Both classes have the same weight, so that the ratio is that of likelihoods.
    """
    z = np.concatenate([true, false])
    is_true = np.concatenate([np.ones(len(true)), np.zeros(len(false))])
    share = np.concatenate([np.full(len(true), 0.5 / len(true)),
                            np.full(len(false), 0.5 / len(false))])
    bias, gain = logistic_regression(z[:, None], is_true, share)
    return (float(-bias / gain) if gain else 0.0), float(gain)


def logistic_regression(features: Float64, is_true: Float64, share: Float64) -> Float64:
    """Intercept and weights (1 + F,) by Newton's method.

    A weak prior keeps the weights finite if the classes do not overlap.

    Args:
        features: (C, F). is_true: (C,) 0 or 1. share: (C,) weight of each, of sum 1.
    """
    X = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    prior = np.diag([1e-9, *[LOGISTIC_PRIOR] * features.shape[1]])
    w = np.zeros(X.shape[1])
    for _ in range(NEWTON_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(X @ w, -30.0, 30.0)))
        gradient = X.T @ (share * (is_true - p)) - prior @ w
        hessian = X.T @ (X * (share * p * (1.0 - p))[:, None]) + prior
        step = np.linalg.solve(hessian, gradient)
        w += step / max(1.0, float(np.abs(step).max()))
    return w


def margin(found: Float64, same: Mask) -> float:
    """Margin of the best score over the best score of another place.

    Args:
        found: (K,) scores of an image's candidates.
        same: (K,) True for candidates that show the place of the best one.
    """
    best = float(found.max())
    return best - float(found[~same].max(initial=-np.inf)) if not same.all() else \
        best - float(found.min())


def same_place(T_a: Array, T_b: Array, radius_m: float | Array, angle_rad: float) -> Mask:
    """(A, B) mask: pairs of poses (A, 4, 4) and (B, 4, 4) that show one place.

    radius_m: one for all, or (A, 1).
    """
    steps = T_a[:, None, :3, 3] - T_b[None, :, :3, 3]
    traces = T_a[:, :3, :3].reshape(-1, 9) @ T_b[:, :3, :3].reshape(-1, 9).T
    return np.asarray((np.einsum('abi,abi->ab', steps, steps) < radius_m**2)
                      & (traces > 1.0 + 2.0 * math.cos(min(angle_rad, math.pi))))


def _own_pairs(place_map: PlaceMap, radius_m: float, angle_rad: float, weight: float
               ) -> _Examples:
    """Examples from the map itself: each sampled keyframe is a query to the others."""
    ids = _runs(place_map)
    if len(ids) < LEAST_EXAMPLES:
        return _examples([], np.zeros((0, 0)), np.zeros((0, 0), bool), np.zeros((0, 0), bool))
    rows = place_map.centred(ids)
    similarities = rows @ rows.T
    T = place_map.T_map_cam[ids]
    here = same_place(T, T, radius_m, angle_rad)
    away = ~same_place(T, T, 2.0 * radius_m, 2.0 * angle_rad)
    off_diagonal = ~np.eye(len(ids), dtype=bool)
    z = stand_out(similarities, similarities[off_diagonal].reshape(len(ids), -1), weight)
    np.fill_diagonal(z, -np.inf)
    true = [np.where(here[i], z[i], -np.inf).max() for i in range(len(ids))]
    times = len(CHANGED)
    return replace(
        _examples([share * score for share in CHANGED for score in true],
                  np.tile(z, (times, 1)), here, np.tile(away, (times, 1)), times),
        wrong_paths=_wrong_paths(
            z, ~same_place(T, T, SURROUNDINGS * radius_m, 2.0 * angle_rad), ids))


def _wrong_paths(z: Float64, away: Mask, ids: Ids) -> Float64:
    """Mean score (P,) of the best wrong path at each keyframe.

    A path is wrong if `away` (K, K) is True for each pair of its keyframes and those of the drive.
    """
    if len(ids) < PATH:
        return np.zeros(0)
    whole = np.flatnonzero(ids[PATH - 1:] - ids[:-PATH + 1] == PATH - 1) + PATH - 1
    best = np.full(len(ids), -np.inf)
    for way in (1, -1):  # the same way, and the opposite one
        ends = whole if way == 1 else whole - PATH + 1
        total, wrong = np.zeros((len(whole), len(ends))), np.ones((len(whole), len(ends)), bool)
        for back in range(PATH):
            at = np.ix_(whole - back, ends - way * back)
            total += z[at] / PATH
            wrong &= away[at]
        best[whole] = np.maximum(best[whole], np.where(wrong, total, -np.inf).max(axis=1))
    return np.asarray(best[np.isfinite(best)])


def _second_traverse(place_map: PlaceMap, traverse: PlaceMap, radius_m: float,
                     angle_rad: float, weight: float) -> _Examples:
    """Examples from another drive: its keyframes are queries, centred by their running mean."""
    ids = _runs(place_map)
    rows, background = place_map.centred(ids), place_map.centred(sample(place_map))
    T = place_map.T_map_cam
    here = same_place(T[ids], T[ids], radius_m, angle_rad)
    appearance = Appearance(place_map.centre, AppearanceConfig())
    step = max(1, -(-len(traverse) // MAX_QUERIES))
    z, true, away = [], [], []
    for number in range(0, len(traverse), step):
        descriptor = traverse.descriptors(number, number + 1)[0]
        appearance.update(descriptor)
        query = unit(descriptor - appearance.mean)
        around = background @ query
        pose = traverse.T_map_cam[number:number + 1]
        there = np.flatnonzero(same_place(pose, T, radius_m, angle_rad)[0])
        true.append(float(stand_out(place_map.centred(there) @ query, around, weight).max())
                    if len(there) else -np.inf)
        z.append(stand_out(rows @ query, around, weight))
        away.append(~same_place(pose, T[ids], 2.0 * radius_m, 2.0 * angle_rad)[0])
    return _examples(true, np.array(z).reshape(-1, len(ids)), here,
                     np.array(away, dtype=bool).reshape(-1, len(ids)))


def _examples(true: list[float], z: Float64, here: Mask, away: Mask, times: int = 1) -> _Examples:
    """Examples from scores.

    Args:
        true: (Q,) score of the true place of each image; -inf if the map does not contain it.
        z: (Q, K) scores with sampled keyframes. here: (K, K) pairs of these that show one place.
        away: (Q, K) True for keyframes that certainly show another place than the image.
        times: repetitions of the same images among the Q.
    """
    # Places are compared, not keyframes: the score of a place is that of its best keyframe.
    others, matches, is_true, on_map, images = [], [], [], [], []
    count = len(true) // times
    for number, (row, score, elsewhere) in enumerate(zip(z, true, away, strict=True)):
        if not elsewhere.any():
            continue
        others.append(np.where(here[elsewhere] & elsewhere, row, -np.inf).max(axis=1))
        apart = np.where(elsewhere, row, -np.inf)
        best = int(np.argmax(apart))
        third = float(apart[~here[best]].max(initial=-np.inf))
        if np.isfinite(apart[best]) and np.isfinite(third):
            matches.append((apart[best], apart[best] - third))
            is_true.append(False)
            on_map.append(False)
            images.append(number % count)
            if np.isfinite(score):
                wins = score > apart[best]
                matches.append((score, score - apart[best]) if wins else
                               (apart[best], apart[best] - max(score, third)))
                is_true.append(bool(wins))
                on_map.append(True)
                images.append(number % count)
    kept = np.array([score for score in true if np.isfinite(score)])
    other = np.concatenate(others) if others else np.zeros(0)
    return _Examples(
        kept, other[np.isfinite(other)], np.array(matches).reshape(-1, 2),
        np.array(is_true, dtype=bool), np.array(on_map, dtype=bool),
        np.array(images, dtype=np.int64), times)


def _fit_matches(examples: _Examples) -> tuple[tuple[float, float, float], tuple[Bin, ...]]:
    """Fit the probability of a match to all examples, and bin it on held-out halves.

    For the bins, each half of the images is predicted by weights fitted to the other half.
    """
    if min(examples.is_true.sum(),
           (~examples.is_true).sum()) < LEAST_EXAMPLES * examples.times:
        return FALLBACK_MATCH, ()

    def weights(chosen: Mask) -> tuple[float, float, float]:
        # Images on the map and off the map have equal total weight.
        on_map, is_true = examples.on_map[chosen], examples.is_true[chosen].astype(np.float64)
        share = np.where(on_map, 0.5 / max(on_map.sum(), 1), 0.5 / max((~on_map).sum(), 1))
        bias, score, gap = logistic_regression(examples.matches[chosen], is_true, share)
        return float(bias), float(score), float(gap)

    # Neighbours are similar, so each half consists of long runs of images. All examples of an
    # image are in the same half.
    halves = (examples.image * 8 // (int(examples.image.max()) + 1)) % 2
    predicted = np.zeros(len(examples.matches))
    for half in (0, 1):
        bias, score, gap = weights(halves != half)
        held_out = halves == half
        odds = bias + examples.matches[held_out] @ np.array([score, gap])
        predicted[held_out] = 1.0 / (1.0 + np.exp(-np.clip(odds, -30.0, 30.0)))
    return weights(np.ones(len(halves), dtype=bool)), make_bins(predicted, examples.is_true)


def _runs(place_map: PlaceMap) -> Ids:
    """Ids spread over the map; in a large map in runs, so that neighbours are included."""
    if len(place_map) <= SAMPLE:
        return np.arange(len(place_map))
    starts = np.linspace(0, len(place_map) - RUN, SAMPLE // RUN).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(RUN))
