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


class Mounts:
    """Maps keyframes found by any camera to places of the reference camera."""

    def __init__(self, belief: Belief, T_map_cam: Array) -> None:
        self._belief = belief
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

    def log_odds(self, seen: Sequence[Candidates], limit: float) -> tuple[Ids, Float64, float]:
        """Combined evidence: keyframes (M,), their log odds, and the log odds of all others.

        Args:
            seen: images of one stamp.
            limit: largest log odds of one image for a place; against a place, `MISSED` times that.
        """
        ids = np.unique(np.concatenate([one.places.keyframes for one in seen]))
        total, others = np.zeros(len(ids)), 0.0
        for one in seen:
            if not len(one.ids):
                continue
            odds = np.clip(one.log_odds, -MISSED * limit, limit) * one.novelty
            # Other keyframes are at most as similar as the last candidate. A camera looking in a
            # direction which the map does not contain cannot find its place.
            least = min(float(odds.min()), 0.0) if self._covers(one.T_base_cam) else 0.0
            best = np.full(len(ids), -np.inf)
            np.maximum.at(best, ids.searchsorted(one.places.keyframes), odds[one.places.owners])
            total += np.where(np.isfinite(best), np.maximum(best, least), least)
            others += least
        return ids, total, others

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
