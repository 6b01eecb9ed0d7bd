"""Publishes the results of the node: matches, pose priors, closures, status, debug images."""

from collections.abc import Callable, Iterable
import time
from typing import Any

import numpy as np

from regvpr_core.geometry import inverse
from regvpr_core.localization.localizer import Localization, State
from regvpr_core.localization.pose_prior import PosePrior
from regvpr_core.localization.session import LoopClosure
from regvpr_core.localization.states import Reason
from regvpr_core.maps.place_map import PlaceMap
from regvpr_ros import interfaces, markers
from regvpr_ros.debug_image import debug_image
from regvpr_ros.msg import LocalizationStatus, PlaceMatch
from regvpr_ros.node_state import NodeState
from regvpr_ros.session_recorder import SessionRecorder
from regvpr_ros.slam_outputs import (
    base_closure,
    loop_closure,
    place_matches,
    pose_array,
    pose_prior,
)
from regvpr_ros.stacks import Stack
from regvpr_ros.tf_broadcast import TransformBroadcast
from regvpr_ros.view import View

CLOSURE_LOG_PERIOD_S = 1.0
"""Least time between log lines of loop closures, which are numbered, s."""


class Announcer:
    """Publishes results. Used by the worker only, except for the status and the map."""

    def __init__(
        self, state: NodeState, publish: dict[str, Any], now: Callable[[], Any],
        stacks: Iterable[Stack], broadcast: TransformBroadcast | None,
    ) -> None:
        """Prepare; publishes nothing yet.

        Args:
            state: of the node.
            publish: publishers by the names of `interfaces.OUTPUTS`.
            now: returns the time as a message.
            stacks: outputs for SLAM stacks.
            broadcast: of map to odom; None if it is off.
        """
        self._node = state
        self._publish, self._now = publish, now
        self._stacks, self._broadcast = tuple(stacks), broadcast
        self._drawn: tuple[Any, ...] = ()
        self._spare: list[PlaceMatch] = []
        self._told: tuple[Any, ...] = ()
        self._fix_stamp: Any = None

    @property
    def state(self) -> str:
        """The last published state, in words."""
        return str(self._told[0].name.lower()) if self._told else ''

    def forget(self, reason: Reason) -> None:
        """Publish the initial status; forget a requested fix and the transform map to odom."""
        self.forget_transform()
        self._told = ()
        self._fix_stamp = None
        self._node.asked = False
        self._node.fix_wanted = self._node.config.initialpose == 'first_fix'
        self._tell(State.INITIALISING, reason, self._now(), self._node.place_map)

    def forget_transform(self) -> None:
        """Broadcast no transform until the next fix, because the last one is of another frame."""
        if self._broadcast is not None:
            self._broadcast.forget()

    def localization(self, moment: list[View], result: Localization,
                     place_map: PlaceMap) -> None:
        """Publish the matches of the images of one moment, and the pose if there is one."""
        view = moment[-1]
        map_frame = self.map_frame(place_map)
        latency_s = time.monotonic() - view.arrived_s
        matches = place_matches(
            result, place_map, [one.header for one in moment], map_frame, latency_s, self._spare)
        self._send(interfaces.MATCHES, matches)
        if self._is_heard(interfaces.HYPOTHESES):
            self._send(interfaces.HYPOTHESES, pose_array(matches))
        if result.pose_prior is not None:
            prior = pose_prior(result.pose_prior, view.header.stamp, map_frame)
            self._send(interfaces.PRIOR, prior)
            if self._fix_stamp is None:
                self._node.log.info(f'first fix: {where(result.pose_prior)}')
            self._fix_stamp = view.header.stamp
            self._node.health.localized += 1
            if self._node.fix_wanted and self._node.config.initialpose != 'never':
                self._initial(prior)
            for stack in self._stacks:
                stack.pose_prior(prior)
            if self._broadcast is not None and view.T_odom_base is not None:
                self._broadcast.send(
                    result.pose_prior.T_map_base @ inverse(view.T_odom_base), map_frame,
                    self._node.odom_frame)
        self._node.health.looked_at(latency_s)
        best = result.matches[0].keyframe_id if result.state is State.LOCALIZED else None
        self._tell(result.state, result.reason, view.header.stamp, place_map, best)
        self._show(moment, result, place_map, map_frame)

    def initial_pose(self, prior: PosePrior, view: View, place_map: PlaceMap) -> None:
        """Publish a pose on initialpose only."""
        self._initial(pose_prior(prior, view.header.stamp, self.map_frame(place_map)))

    def _initial(self, prior: Any) -> None:
        self._node.fix_wanted = self._node.asked = False
        self._node.gate.ask(False)
        self._send(interfaces.INITIAL, prior)

    def closures(self, found: Iterable[LoopClosure], view: View,
                 session: SessionRecorder) -> None:
        """Publish the loop closures of one image."""
        count, odom_frame = 0, self._node.odom_frame
        for closure in found:
            count += 1
            self._node.log.info(in_words(closure, self._node.health.loop_closures + count),
                                throttle_duration_sec=CLOSURE_LOG_PERIOD_S)
            self._send(interfaces.LOOPS, loop_closure(
                closure, session.map_id, view.header, odom_frame,
                session.pose_of(closure.reference_id)))
            at_base = base_closure(closure, view.frame.T_base_cam)
            for stack in self._stacks:
                stack.loop_closure(at_base)
        self._node.health.loop_closures += count
        if count and self._is_heard(interfaces.MARKERS):
            self._send(interfaces.MARKERS, markers.array(markers.loops(
                session.edges, odom_frame or 'odom', view.header.stamp)))

    def draw_map(self, place_map: PlaceMap) -> None:
        """Publish the map's keyframes as markers, again for each new subscriber."""
        drawn = (place_map.map_id, self._publish[interfaces.MARKERS.name].get_subscription_count())
        if drawn != self._drawn and drawn[1]:
            self._send(interfaces.MARKERS, markers.array(markers.keyframes(
                place_map.T_map_cam[:, :3, 3], self.map_frame(place_map), self._now())))
        self._drawn = drawn

    def map_frame(self, place_map: PlaceMap) -> str:
        """Name of the map's frame: the parameter's, or the map's own."""
        return self._node.config.map_frame or place_map.manifest.map_frame

    def _tell(self, state: State, reason: Reason, stamp: Any, place_map: PlaceMap | None,
              keyframe: int | None = None) -> None:
        """Publish the latched status and log a line, if the state or the map has changed."""
        told = (state, '' if place_map is None else place_map.map_id)
        if told == self._told:
            return
        before, self._told = self.state, told
        place = '' if keyframe is None else f' at keyframe {keyframe}'
        if before:
            self._node.log.info(f'{before} -> {self.state}{place}: {reason}')
        message = LocalizationStatus(
            state=int(state), reason=reason, reason_code=reason.code,
            fix_valid=self._fix_stamp is not None)
        message.header.stamp = stamp
        message.header.frame_id = self._node.config.map_frame
        if place_map is not None:
            message.map_path, message.map_id = str(place_map.path), place_map.map_id
            message.keyframes = len(place_map)
            message.header.frame_id = self.map_frame(place_map)
        if self._fix_stamp is not None:
            message.last_fix_stamp = self._fix_stamp
        self._send(interfaces.STATUS, message)

    def _show(self, moment: list[View], result: Localization, place_map: PlaceMap,
              map_frame: str) -> None:
        """Publish debug images and markers, only if there are subscribers."""
        best = result.matches[0] if result.matches else None
        view = moment[-1] if best is None else moment[best.view]
        if self._is_heard(interfaces.DEBUG):
            picture = None if best is None else place_map.thumbnail(best.keyframe_id)
            text = f'{result.state.name.lower()}: {result.reason}'
            self._send(interfaces.DEBUG, debug_image(
                view.rgb, picture, text, best is not None and best.accepted, view.header))
        if self._is_heard(interfaces.MARKERS):
            ids = [match.keyframe_id for match in result.matches]
            positions = place_map.T_map_cam[ids, :3, 3]
            self._send(interfaces.MARKERS, markers.array(
                markers.belief(positions, np.array([m.probability for m in result.matches]),
                               map_frame, view.header.stamp),
                markers.matches(positions, [m.accepted for m in result.matches], map_frame,
                                view.header.stamp),
                markers.state(f'{result.state.name.lower()}: {result.reason}',
                              positions[0] if len(positions) else np.zeros(3), map_frame,
                              view.header.stamp)))

    def _send(self, topic: interfaces.Topic, message: Any) -> None:
        self._publish[topic.name].publish(message)

    def _is_heard(self, topic: interfaces.Topic) -> bool:
        return bool(self._publish[topic.name].get_subscription_count())


def in_words(closure: LoopClosure, number: int) -> str:
    """A loop closure in words, for the log; number: of the closure since activation."""
    ago_s = (closure.query_stamp_ns - closure.reference_stamp_ns) / 1e9
    pose = 'with' if closure.relative_pose_valid else 'without'
    return (f'loop closure {number}: image of {closure.query_stamp_ns / 1e9:.2f} s shows the '
            f'place of keyframe {closure.reference_id} of '
            f'{closure.reference_stamp_ns / 1e9:.2f} s ({ago_s:.1f} s before), probability '
            f'{closure.probability:.2f}, {pose} relative pose')


def where(prior: PosePrior) -> str:
    """A pose in words, for the log."""
    x, y, z = prior.T_map_base[:3, 3]
    yaw = np.arctan2(prior.T_map_base[1, 0], prior.T_map_base[0, 0])
    return (f'x {x:.2f} y {y:.2f} z {z:.2f} m, yaw {np.degrees(yaw):.0f} deg, '
            f'+- {np.sqrt(prior.variances[:2].max()):.2f} m')
