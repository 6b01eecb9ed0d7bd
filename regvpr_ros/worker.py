"""The thread that runs the network: newest images in, messages out."""

from dataclasses import replace
import threading
import time

import numpy as np

from regvpr_core.errors import ImageError, MapError
from regvpr_core.live.decode_ahead import Arrival, DecodeAhead
from regvpr_core.localization.frames import Description
from regvpr_core.localization.localizer import Localization, Localizer
from regvpr_core.localization.states import Reason, State
from regvpr_ros.announcer import Announcer
from regvpr_ros.node_state import NodeState
from regvpr_ros.pipeline import moments, Pipeline
from regvpr_ros.view import View

STILL_M, STILL_COSINE = 0.1, 0.97
"""Images are of one spot if they are closer than this, m, or, without odometry, if their cosine is
larger than this."""

REST_NS = 1_000_000_000
"""Time without motion after which a robot counts as standing still, ns."""


class Worker:
    """Processes images and publishes the results. Created by configure."""

    def __init__(self, state: NodeState, pipeline: Pipeline, announcer: Announcer) -> None:
        self.state = state
        self.announcer = announcer
        self._pipeline = pipeline
        self._ahead: DecodeAhead | None = None
        self._thread: threading.Thread | None = None
        self._rest: tuple[View, Description] | None = None

    @property
    def active(self) -> bool:
        """Whether images are processed."""
        return self._thread is not None

    def start(self) -> DecodeAhead:
        """Start the thread; return the decoder that works ahead."""
        self.state.begin()
        self._pipeline.reset()
        self._rest = None
        self.announcer.forget(Reason('active', 'active'))
        ahead = self._ahead = DecodeAhead(self._pipeline.pixels)
        self._thread = threading.Thread(
            target=self._work, args=(ahead,), name='regvpr', daemon=True)
        self._thread.start()
        return ahead

    def stop(self) -> None:
        """Stop after the current image."""
        if self._thread is not None and self._ahead is not None:
            self.state.mailbox.close()
            self._thread.join()
            self._ahead.close()
        self._thread = self._ahead = None

    def reset(self) -> None:
        """Reset the belief, between two images."""
        with self.state.turn:
            self.state.forget()
            self.state.gate.reset()
            self.announcer.forget(Reason('reset', 'reset'))

    def exchange(self, localizer: Localizer) -> None:
        """Replace the map, from the next image on."""
        with self.state.turn:
            old, self.state.localizer = self.state.localizer, localizer
            self.state.cameras.clear()
            self._pipeline.reset()
            self.state.jumps.reset()
            self.announcer.forget(Reason('map_loaded', 'map loaded'))
            if old is not None:
                old.place_map.close()

    def _work(self, ahead: DecodeAhead) -> None:
        state = self.state
        while (arrivals := state.mailbox.take()) is not None:
            state.health.busy_since = time.monotonic()
            looked = False
            try:
                with state.turn:
                    ahead.began()
                    looked = self._look(arrivals)
            except ImageError as error:
                state.refuse('image', str(error))
            except Exception as error:  # noqa: BLE001 - one bad frame must not strand the robot
                state.refuse('internal', f'{type(error).__name__}: {error}')
            state.health.busy_since = None
            ahead.ended(looked)
            state.health.decoded_ahead = ahead.decoded
            arrivals.clear()  # release the last image while waiting

    def _look(self, arrivals: dict[str, Arrival]) -> bool:
        """Localize the arrived images and publish the result; True if any was processed.
        """
        state = self.state
        views, anew = self._pipeline.views(arrivals)
        if anew:
            state.forget()
            self.announcer.forget_transform()
        for moment in moments(views):
            descriptions: dict[str, Description] = {}
            if state.localizer is not None:
                descriptions = self._localize(state.localizer, moment)
            if state.session is not None:
                with state.health.timed('session'):
                    self._close_loops(moment, descriptions)
        return bool(views)

    def _localize(self, localizer: Localizer, moment: list[View]) -> dict[str, Description]:
        """Localize the images of one moment; return their descriptions by camera."""
        # One stamp for all of them, with the odometry at that stamp.
        newest = moment[-1]
        frames = [replace(view.frame, stamp_ns=newest.frame.stamp_ns) for view in moment]
        result = self._gated(localizer.localize(frames, newest.T_odom_base), newest)
        for step, seconds in result.seconds.items():
            self.state.health.spent(step, seconds)
        with self.state.health.timed('publish'):
            self.announcer.localization(moment, result, localizer.place_map)
        with self.state.health.timed('watch'):
            for view in moment:
                self.state.see(view, result.pose_prior)
        if self.state.asked and result.pose_prior is None:
            self._answer_at_rest(localizer, newest, result.descriptions[-1])
        return {view.camera: one for view, one in zip(moment, result.descriptions, strict=True)}

    def _gated(self, result: Localization, view: View) -> Localization:
        """Remove a fix that contradicts odometry, until it persists."""
        if result.pose_prior is None:
            return result
        text = self.state.jumps.admit(result.pose_prior, view.T_odom_base)
        if not text:
            return result
        return replace(
            result, state=State.AMBIGUOUS, reason=Reason('jump_gated', text), pose_prior=None,
            matches=tuple(replace(match, accepted=False) for match in result.matches))

    def _answer_at_rest(self, localizer: Localizer, view: View, one: Description) -> None:
        """Answer localize_once from a single image, if the robot stands still.

        The belief needs images from several spots, which such a robot does not have.
        """
        began = self._rest
        if began is None or not _is_still(began, (view, one)):
            self._rest = (view, one)
        elif view.frame.stamp_ns - began[0].frame.stamp_ns >= REST_NS:
            found = localizer.localize_image(one)
            if found.pose_prior is not None:
                self._rest = None
                self.state.log.info(f'localize_once, standing still: {found.reason}')
                self.announcer.initial_pose(found.pose_prior, view, localizer.place_map)

    def _close_loops(self, moment: list[View], descriptions: dict[str, Description]) -> None:
        """Match the first camera's image with the session's keyframes."""
        state = self.state
        view = next((one for one in moment if one.camera == state.config.cameras[0]), None)
        if view is None or state.session is None:
            return
        try:
            found = state.session.look(view, descriptions.get(view.camera), state.odom_frame)
        except MapError as error:
            state.refuse('session', str(error))
            return
        if state.localizer is None:
            state.health.looked_at(time.monotonic() - view.arrived_s)
        self.announcer.closures(found, view, state.session)


def _is_still(before: tuple[View, Description], now: tuple[View, Description]) -> bool:
    """Whether the robot has not moved, by odometry or else by similarity of images."""
    T_before, T_now = before[0].T_odom_base, now[0].T_odom_base
    if T_before is None or T_now is None:
        return float(before[1].descriptor @ now[1].descriptor) > STILL_COSINE
    return float(np.linalg.norm(T_now[:3, 3] - T_before[:3, 3])) < STILL_M
