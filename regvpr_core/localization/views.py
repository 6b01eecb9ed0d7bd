"""Combines the evidence of images of several cameras with one stamp.

The belief is about the place of one camera, the reference camera: that of the session's first
image. Evidence of other cameras is moved to it by their extrinsics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regvpr_core.arrays import Float32, Float64, Ids, Mask
from regvpr_core.geometry import Array, inverse
from regvpr_core.localization.belief import are_among, Belief
from regvpr_core.localization.calibration import SAMPLE
from regvpr_core.verification.verification import Verification

SAME_MOUNT = 1e-6
MISSED = 0.5
"""Limit of the evidence against a place, as a share of the limit for it: an image may fail to show
its place because of people, blur or a closed door."""

PLACES = 1.7
"""Gain of the evidence between two places of the map without odometry, as a multiple of that for
being on the map. The likelihood of the true keyframe on the fit part is largest at 3 and more,
but the errors of successive images are correlated: 2.5 gives wrong fixes on campus_track. Set by
hand."""

PLACES_ODOMETRY, PLACES_UNMEASURED = 0.9, 0.6
"""The same with odometry, for models whose evidence was measured and for others. An image that
resembles another place is often followed by more of its kind, and the motion is known. So the
motion counts more and the single image less. Set on pepper_office (0.6 loses 3 to 6 % of recall
with the shipped model) and on nordland_64 (pixels, precision 0.977 at 0.6 and 0.927 at 0.9)."""

BETWEEN = 2.0
"""Limit of the evidence of one image between two places, as a share of the limit for one. One
image must not move the belief to a place that the motion does not lead to. Set by hand."""

COVERED = 0.5
"""Least share of places that a camera must be able to see, so that not finding one is evidence."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Keyframes (P,) at the places of candidates, and the index (P,) of each one's candidate.

    They are in the order of the candidates; a candidate may have several keyframes, or none.
    """

    keyframes: Ids
    owners: Ids

    def first(self, candidate: int) -> int:
        """The first keyframe of a candidate; -1 if it has none."""
        at = int(self.owners.searchsorted(candidate))
        return int(self.keyframes[at]) if at < len(self.owners) \
            and self.owners[at] == candidate else -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Keyframes found in the map for one image.

    novelty: how much of the image is new, 0 to 1.
    ids, similarities, scores, log_odds: (K,) of the keyframes found, most similar first.
    places: keyframes at the corresponding poses of the reference camera.
    """

    novelty: float
    T_base_cam: Array
    ids: Ids
    similarities: Float32
    scores: Float64
    log_odds: Float64
    places: Places
    verifications: tuple[Verification, ...] = ()

    def at(self, there: Ids) -> Mask:
        """(K,) mask of candidates whose reference camera pose is at one of these keyframes.

        there: sorted.
        """
        found = np.zeros(len(self.ids), dtype=bool)
        found[self.places.owners[are_among(self.places.keyframes, there)]] = True
        return found

    def masses(self, belief: Belief) -> Float64:
        """(K,) probability that the reference camera is at the place of each candidate."""
        masses = belief.masses(self.places.keyframes)
        return np.bincount(self.places.owners, masses, len(self.ids)).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageEvidence:
    """Log likelihood ratios of the images of one stamp.

    ids: (M,) keyframes. log_odds: (M,) of each, to compare places. others: of all other keyframes.
    limited, others_limited: the same, limited, to compare with being off the map.
    """

    ids: Ids
    log_odds: Float64
    others: float
    limited: Float64
    others_limited: float


class Mounts:
    """Maps keyframes found by any camera to places of the reference camera."""

    def __init__(self, belief: Belief, T_map_cam: Array, measured: bool = True) -> None:
        """Start without a reference camera.

        Args:
            belief: over the keyframes.
            T_map_cam: (N, 4, 4) their poses.
            measured: whether the evidence of the model was measured (`model_evidence`).
        """
        self._belief = belief
        self._places_odometry = PLACES_ODOMETRY if measured else PLACES_UNMEASURED
        self._T = T_map_cam
        self.reset()

    def reset(self) -> None:
        """Forget the reference camera; the next one becomes it."""
        self.T_base_reference: Array | None = None
        self._covered: dict[bytes, bool] = {}

    def refer_to(self, T_base_cam: Array) -> None:
        """Make this camera the reference, unless there is one."""
        if self.T_base_reference is None:
            self.T_base_reference = T_base_cam

    def places(self, ids: Ids, T_base_cam: Array) -> Places:
        """For each keyframe (K,) of this camera, those at the reference camera's pose."""
        if self.T_base_reference is None or self._is_reference(T_base_cam):
            return Places(ids, np.arange(len(ids)))
        poses = self._T[ids] @ inverse(T_base_cam) @ self.T_base_reference
        near = [self._belief.near_pose(pose) for pose in poses]
        return Places(np.concatenate([np.zeros(0, np.int64), *near]),
                      np.repeat(np.arange(len(ids)), [len(place) for place in near]))

    def evidence(self, seen: Sequence[Candidates], limit: float, odometry: bool
                 ) -> ImageEvidence:
        """Combined evidence of the images of one stamp.

        Args:
            seen: images of one stamp.
            limit: largest log odds of one image for being at a place of the map; against the map,
                `MISSED` times that. Between two places, `BETWEEN` times that.
            odometry: whether odometry is known at this stamp.
        """
        ids = np.unique(np.concatenate([one.places.keyframes for one in seen]))
        gain = self._places_odometry if odometry else PLACES
        total, others, limited, others_limited = np.zeros(len(ids)), 0.0, np.zeros(len(ids)), 0.0
        for one in seen:
            if not len(one.ids):
                continue
            # Other keyframes are at most as similar as the last candidate. A camera looking in a
            # direction which the map does not contain cannot find its place.
            least = min(float(one.log_odds.min()), 0.0) if self._covers(one.T_base_cam) else 0.0
            best = np.full(len(ids), -np.inf)
            np.maximum.at(best, ids.searchsorted(one.places.keyframes),
                          one.log_odds[one.places.owners])
            best = np.where(np.isfinite(best), np.maximum(best, least), least)
            lowest = gain * float(best.max()) - BETWEEN * limit
            total += one.novelty * np.maximum(gain * best, lowest)
            others += one.novelty * max(gain * least, lowest)
            limited += one.novelty * np.clip(best, -MISSED * limit, limit)
            others_limited += one.novelty * max(least, -MISSED * limit)
        return ImageEvidence(ids=ids, log_odds=total, others=others, limited=limited,
                             others_limited=others_limited)

    def _is_reference(self, T_base_cam: Array) -> bool:
        return self.T_base_reference is not None and bool(
            np.abs(T_base_cam - self.T_base_reference).max() < SAME_MOUNT)

    def _covers(self, T_base_cam: Array) -> bool:
        """Whether the map has keyframes in this camera's direction at most places."""
        if self._is_reference(T_base_cam):
            return True
        key = T_base_cam.tobytes()
        if key not in self._covered:
            ids = np.unique(np.linspace(0, len(self._T) - 1, SAMPLE // 4).astype(np.int64))
            poses = (self._T[ids] @ inverse(self.T_base_reference) @ T_base_cam
                     if self.T_base_reference is not None else self._T[ids])
            found = [len(self._belief.near_pose(pose)) > 0 for pose in poses]
            self._covered[key] = bool(np.mean(found) >= COVERED)
        return self._covered[key]
