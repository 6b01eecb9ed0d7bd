"""The thread that runs the network: newest images in, messages out."""

from dataclasses import replace
import threading
import time

from regvpr_core.errors import ImageError, MapError
from regvpr_core.live.decode_ahead import Arrival, DecodeAhead
from regvpr_core.localization.frames import Description
from regvpr_core.localization.localizer import Localizer
from regvpr_ros.announcer import Announcer
from regvpr_ros.node_state import NodeState
from regvpr_ros.pipeline import moments, Pipeline
from regvpr_ros.view import View


class Worker:
    """Looks at images and publishes what it finds. Made when the node is configured."""

    def __init__(self, state: NodeState, pipeline: Pipeline, announcer: Announcer) -> None:
        self.state = state
        self.announcer = announcer
        self._pipeline = pipeline
        self._ahead: DecodeAhead | None = None
        self._thread: threading.Thread | None = None

    @property
    def active(self) -> bool:
        """Whether images are looked at."""
        return self._thread is not None

    def start(self) -> DecodeAhead:
        """Begin with nothing seen; what decodes images ahead of their turn."""
        self.state.begin()
        self._pipeline.reset()
        self.announcer.forget('active')
        ahead = self._ahead = DecodeAhead(self._pipeline.pixels)
        self._thread = threading.Thread(
            target=self._work, args=(ahead,), name='regvpr', daemon=True)
        self._thread.start()
        return ahead

    def stop(self) -> None:
        """End after the image that is being looked at."""
        if self._thread is not None and self._ahead is not None:
            self.state.mailbox.close()
            self._thread.join()
            self._ahead.close()
        self._thread = self._ahead = None

    def reset(self) -> None:
        """Forget where the robot was, between two images."""
        with self.state.turn:
            self.state.forget()
            self.state.gate.reset()
            self.announcer.forget('reset')

    def exchange(self, localizer: Localizer) -> None:
        """Go on with another map, from the next image."""
        with self.state.turn:
            old, self.state.localizer = self.state.localizer, localizer
            self._pipeline.reset()
            self.announcer.forget('map loaded')
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
            arrivals.clear()  # while it waits, the last image does not stay in memory

    def _look(self, arrivals: dict[str, Arrival]) -> bool:
        """Localize what the cameras sent and publish the result; whether anything was looked at.
        """
        state = self.state
        views, anew = self._pipeline.views(arrivals)
        if anew:
            state.forget()
        for moment in moments(views):
            descriptions: dict[str, Description] = {}
            if state.localizer is not None:
                descriptions = self._localize(state.localizer, moment)
            if state.session is not None:
                with state.health.timed('session'):
                    self._close_loops(moment, descriptions)
        return bool(views)

    def _localize(self, localizer: Localizer, moment: list[View]) -> dict[str, Description]:
        """Localize the images of one moment; their descriptions, by camera."""
        # One stamp for all of them, and odometry at it.
        newest = moment[-1]
        frames = [replace(view.frame, stamp_ns=newest.frame.stamp_ns) for view in moment]
        result = localizer.localize(frames, newest.T_odom_base)
        for step, seconds in result.seconds.items():
            self.state.health.spent(step, seconds)
        with self.state.health.timed('publish'):
            self.announcer.localization(moment, result, localizer.place_map)
        return {view.camera: one for view, one in zip(moment, result.descriptions, strict=True)}

    def _close_loops(self, moment: list[View], descriptions: dict[str, Description]) -> None:
        """Match the first camera's image with the session's own past."""
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
