"""Runs a session on a drive: keyframes with odometry, and loop closures."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from examples.pose_graph.graph import Closure
from examples.town.town import Frame
from regvpr_core.localization.frames import Description, Frame as CameraFrame
from regvpr_core.localization.loop_pose import loop_pose, place_apart
from regvpr_core.localization.session import LoopClosure, SessionLoops
from regvpr_core.verification.camera_rays import Intrinsics
from regvpr_core.verification.local_extractor import LocalExtractor
from regvpr_core.verification.local_features import LocalFeatures
from regvpr_core.verification.place_pose import View

VIEWS = 4
VIEWS_WITHIN_M = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """One keyframe of the session. T_true_base: true pose, for evaluation."""

    stamp_ns: int
    T_odom_base: np.ndarray
    T_true_base: np.ndarray
    features: LocalFeatures | None


@dataclass(frozen=True, slots=True, eq=False)
class Drive:
    """All keyframes of a drive, and the closures among them."""

    keyframes: list[Keyframe]
    closures: list[Closure]

    @property
    def T_odom_base(self) -> np.ndarray:
        """Poses (N, 4, 4) by odometry."""
        return np.array([keyframe.T_odom_base for keyframe in self.keyframes])

    @property
    def T_true_base(self) -> np.ndarray:
        """True poses (N, 4, 4)."""
        return np.array([keyframe.T_true_base for keyframe in self.keyframes])


def run_session(
    frames: Iterable[Frame], extractor: LocalExtractor, session: SessionLoops, camera: Intrinsics,
    T_base_cam: np.ndarray,
) -> Drive:
    """Run a session on a drive and collect its loop closures.

    Args:
        frames: images with odometry, in order.
        extractor: describes them; local features make closures metric.
        session: new; gets descriptions.
        camera: intrinsics.
        T_base_cam: (4, 4) of it.
    """
    keyframes: dict[int, Keyframe] = {}
    found: list[LoopClosure] = []
    for frame in frames:
        descriptor, features = extractor.describe(frame.image)
        before = session.store.ids[-1] if len(session) else -1
        image = CameraFrame(stamp_ns=frame.stamp_ns, rgb=frame.image, T_base_cam=T_base_cam)
        found += session.update(Description(image, descriptor), frame.T_odom_base)
        if not len(session) or session.store.ids[-1] == before:
            continue
        keyframes[int(session.store.ids[-1])] = Keyframe(
            frame.stamp_ns, frame.T_odom_base, frame.T_map_base, features)
    order = {number: place for place, number in enumerate(sorted(keyframes))}
    drive = [keyframes[number] for number in sorted(keyframes)]
    return Drive(drive, [
        measured(drive, order[one.reference_id], order[one.query_id], camera, T_base_cam)
        for one in found])


def measured(drive: list[Keyframe], reference: int, query: int, camera: Intrinsics,
             T_base_cam: np.ndarray) -> Closure:
    """A closure with its relative pose, from local features if they determine it."""
    pose = None
    features = drive[query].features
    if features is not None:
        # The reference first, then keyframes of the same pass near it.
        near = [k for k in sorted(range(len(drive)), key=lambda k: abs(k - reference))
                if abs(k - reference) <= VIEWS and np.linalg.norm(
                    drive[k].T_odom_base[:3, 3] - drive[reference].T_odom_base[:3, 3])
                < VIEWS_WITHIN_M][:VIEWS]
        views = [View(features=kept, camera=camera, T_world_cam=drive[k].T_odom_base @ T_base_cam)
                 for k in near if (kept := drive[k].features) is not None]
        pose = loop_pose(features, camera, views, T_base_cam)
    T, covariance = place_apart() if pose is None else pose
    return Closure(reference=reference, query=query, T_reference_query=T, covariance=covariance,
                   verified=pose is not None)


def wrong_closure(closures: list[Closure], keyframes: int) -> Closure:
    """A wrong closure of two distant keyframes, with the smallest covariance of the true ones."""
    surest = min(closures, key=lambda one: float(np.trace(one.covariance)))
    return Closure(reference=keyframes // 8, query=keyframes // 8 + keyframes // 4,
                   T_reference_query=np.eye(4), covariance=surest.covariance, verified=True)
