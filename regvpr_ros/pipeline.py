"""Turns the newest image of each camera into a posed frame. Used by the worker."""

from collections.abc import Callable
import time
from typing import Any

from regvpr_core.errors import ImageError
from regvpr_core.geometry import Array
from regvpr_core.images import RGB
from regvpr_core.live.decode_ahead import Arrival
from regvpr_core.localization.localizer import Frame
from regvpr_core.localization.odometry import Clock, Order
from regvpr_core.recordings.messages import split_stamp, stamp_ns
from regvpr_ros.decoders import Decoder
from regvpr_ros.extrinsics import find_extrinsics, TransformListener
from regvpr_ros.node_state import NodeState
from regvpr_ros.view import View

TOGETHER_NS = 20_000_000
"""Largest difference of stamps of images taken at one moment."""


class Pipeline:
    """Selects, decodes and poses images. Not to be shared between threads."""

    def __init__(self, state: NodeState, decode: Decoder, parse: Callable[[str, Any], Any],
                 transforms: TransformListener) -> None:
        """Start without history.

        Args:
            state: of the node; extrinsics of its map are used if no others are known.
            decode: from message to pixels.
            parse: from camera and bytes to message.
            transforms: TF.
        """
        self._state = state
        self._decode, self._parse, self._transforms = decode, parse, transforms
        self._origins: dict[str, str] = {}
        self.reset()

    def reset(self) -> None:
        """Forget stamps and extrinsics."""
        self._clock = Clock()
        self._extrinsics: dict[str, Array] = {}
        self._state.gate.reset()

    def views(self, arrivals: dict[str, Arrival]) -> tuple[list[View], bool]:
        """Views to process, oldest first, and whether the belief must be reset.

        Args:
            arrivals: newest message of each camera.
        """
        views, anew = [], False
        for camera, arrival in arrivals.items():
            waited_s = time.monotonic() - arrival.arrived_s
            if 0.0 < self._state.config.max_image_age_s < waited_s:
                self._state.health.too_old += 1
                continue
            try:
                with self._state.health.timed('unpack'):
                    message = self._stamped(self._parse(camera, arrival.raw), waited_s)
                anew |= self._began_again(stamp_ns(message.header.stamp))
                view, moved = self._view(camera, message, arrival)
            except ImageError as error:
                self._state.refuse('image', f'{camera}: {error}' if camera else str(error))
                continue
            anew |= moved
            if view is None:
                self._state.health.held_back += 1
            else:
                views.append(view)
        return sorted(views, key=lambda view: view.frame.stamp_ns), anew

    def _stamped(self, message: Any, waited_s: float) -> Any:
        """Replace a stamp of 0 by the time of arrival, as `map build` does."""
        if not stamp_ns(message.header.stamp):
            self._state.health.unstamped()
            arrived = self._state.now_ns() - round(waited_s * 1e9)
            for name, value in split_stamp(arrived).items():
                setattr(message.header.stamp, name, value)
        return message

    def _began_again(self, stamp: int) -> bool:
        """Handle a jump back of time: a bag was restarted."""
        newest_ns = self._clock.newest_ns or stamp
        jumped = self._clock.see(stamp) is Order.JUMPED_BACK
        if jumped:
            self._state.log.info(f'time jumped back by {(newest_ns - stamp) / 1e9:.1f} s: '
                                 f'everything starts anew')
            self._state.trail.clear()
            self._state.gate.reset()
        return jumped

    def pixels(self, camera: str, raw: Any) -> RGB:
        """Decode the bytes of a message; thread-safe. Raises ImageError."""
        return self._decode(self._parse(camera, raw))

    def _view(self, camera: str, message: Any, arrival: Arrival) -> tuple[View | None, bool]:
        stamp = stamp_ns(message.header.stamp)
        T_odom_base = None
        if self._state.config.use_odometry:
            with self._state.health.timed('odometry'):
                T_odom_base = self._state.odometry.at(stamp, self._state.config.odometry_wait_s)
            self._state.health.odometry_at_image(stamp, T_odom_base is not None)
        if not self._state.gate.admits(camera, stamp, T_odom_base):
            return None, False
        with self._state.health.timed('decode'):
            rgb = arrival.pixels(lambda: self._decode(message))
        T_base_cam, moved = self._T_base_cam(camera, message.header.frame_id)
        frame = Frame(stamp_ns=stamp, rgb=rgb, T_base_cam=T_base_cam, camera=camera,
                      intrinsics=self._state.infos.of(camera))
        return View(camera, message.header, frame, T_odom_base, arrival.arrived_s), moved

    def _T_base_cam(self, camera: str, camera_frame: str) -> tuple[Array, bool]:
        """Extrinsics, and whether they have changed, which must not count as motion."""
        key = f'{camera}:{camera_frame}'
        if key in self._extrinsics:
            return self._extrinsics[key], False
        config, place_map = self._state.config, self._state.place_map
        T, origin, final = find_extrinsics(
            config.extrinsics_of(camera), self._transforms, config.base_frame, camera_frame,
            None if place_map is None else place_map.manifest.extrinsics, camera)
        if final:
            self._extrinsics[key] = T
        if origin == self._origins.get(key):
            return T, False
        self._origins[key] = origin
        self._state.log.info(f'extrinsics of {camera_frame!r}: {origin}')
        return T, True


def moments(views: list[View]) -> list[list[View]]:
    """Views (oldest first) of different cameras that were taken together."""
    groups: list[list[View]] = []
    for view in views:
        last = groups[-1] if groups else []
        if (last and view.frame.stamp_ns - last[0].frame.stamp_ns <= TOGETHER_NS
                and view.camera not in {one.camera for one in last}):
            last.append(view)
        else:
            groups.append([view])
    return groups
