"""State of the node from configure to cleanup."""

from collections.abc import Callable
from dataclasses import dataclass, field
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from regvpr_core.errors import MapError
from regvpr_core.live.camera_health import CameraHealth, Note
from regvpr_core.live.decode_ahead import Arrival
from regvpr_core.live.gate import Gate
from regvpr_core.live.lost_stretch import LostStretch
from regvpr_core.live.mailbox import Mailbox, OdometryBuffer
from regvpr_core.live.trail import Trail
from regvpr_core.live.turn import Turn
from regvpr_core.localization.jump_gate import JumpGate
from regvpr_core.localization.localizer import Localizer
from regvpr_core.localization.pose_prior import PosePrior
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.camera_rays import Intrinsics
from regvpr_ros.camera_infos import CameraInfos
from regvpr_ros.health import Health
from regvpr_ros.parameters import NodeConfig
from regvpr_ros.session_recorder import SessionRecorder
from regvpr_ros.view import View

LOG_PERIOD_S = 5.0
ODOMETRY_HORIZON_S = 10.0

WATCH_PERIOD_S = 0.2
"""Least interval between checks of a camera, s."""

LOST_RADIUS_M = 5.0
"""A lost robot is near a keyframe if its position by odometry is within this distance of it, m."""

ODOMETRY_DRIFT = 0.1
"""Standard deviation of odometry as a share of the distance, for `JumpGate`."""


@dataclass(slots=True, eq=False)
class NodeState:
    """Configuration, health, map and session of a configured node.

    Callbacks write `odometry`, `trail`, `infos`, `mailbox` and counters of `health`. Only the
    worker uses `localizer` and `session`; they are replaced only while `turn` is held.

    Attributes:
        config: parameters; replaced as a whole when one changes.
        log: logger of the node.
        localizer: None in the mode loop_closure.
        session: None in the mode localize.
        odom_frame: of the odometry, from the parameter or from its messages.
        fix_wanted: the next pose also goes to initialpose.
        asked: a call of localize_once is pending.
        now_ns: time of the node's clock.
    """

    config: NodeConfig
    encoder: Encoder
    log: Any
    localizer: Localizer | None
    session: SessionRecorder | None
    infos: CameraInfos
    odometry: OdometryBuffer = field(init=False)
    gate: Gate = field(init=False)
    jumps: JumpGate = field(init=False)
    odom_frame: str = field(init=False)
    trail: Trail = field(default_factory=Trail)
    turn: Turn = field(default_factory=Turn)
    health: Health = field(default_factory=Health)
    mailbox: Mailbox[Arrival] = field(default_factory=Mailbox)
    lost: LostStretch = field(default_factory=LostStretch)
    cameras: dict[str, CameraHealth] = field(default_factory=dict)
    _watch_at: dict[str, float] = field(default_factory=dict)
    fix_wanted: bool = False
    asked: bool = False
    now_ns: Callable[[], int] = time.time_ns

    def __post_init__(self) -> None:
        config = self.config
        self.odometry = OdometryBuffer(ODOMETRY_HORIZON_S, config.odometry_gap_s)
        self.gate = Gate(config.min_interval_s, config.min_distance_m,
                         config.trigger == 'on_request')
        self.jumps = JumpGate(config.jump_sigmas, config.jump_fixes, ODOMETRY_DRIFT)
        self.odom_frame = config.odom_frame

    @property
    def place_map(self) -> PlaceMap | None:
        """The map in use."""
        return None if self.localizer is None else self.localizer.place_map

    def change(self, config: NodeConfig) -> None:
        """Apply live parameters."""
        self.config = config
        self.gate.change(config.min_interval_s, config.min_distance_m,
                         config.trigger == 'on_request')

    def begin(self) -> None:
        """Reset counters and history, when the node becomes active."""
        self.mailbox, self.health = Mailbox(), Health()
        self.odometry.clear()
        self.trail.clear()
        self.cameras.clear()
        self.forget()

    def forget(self) -> None:
        """Forget the position and the session in memory; maps on disk are kept."""
        self.jumps.reset()
        self.lost.reset()
        if self.localizer is not None:
            self.localizer.reset()
        if self.session is not None and len(self.session):
            try:
                self.session.reset()
            except MapError as error:
                self.refuse('session', str(error))

    def refuse(self, cause: str, text: str) -> None:
        """Count an unusable image, and log it at most every few seconds."""
        self.health.refused(cause, text)
        self.log.warning(f'bad {cause}: {text}', throttle_duration_sec=LOG_PERIOD_S)

    def see(self, view: View, fix: PosePrior | None) -> None:
        """Check the camera, and the distance driven near keyframes without a fix."""
        place_map = self.place_map
        if view.camera not in self.cameras:
            self.cameras[view.camera] = CameraHealth(place_map)
        if view.arrived_s >= self._watch_at.get(view.camera, 0.0):
            self._watch_at[view.camera] = view.arrived_s + WATCH_PERIOD_S
            self.cameras[view.camera].look(view.rgb, view.T_odom_base)
        if place_map is not None:
            self.lost.see(None if fix is None else fix.T_map_base, view.T_odom_base,
                          place_map.T_map_cam[:, :3, 3], LOST_RADIUS_M)

    def notes(self) -> dict[str, str]:
        """Faults of cameras and map, by a stable code."""
        found: dict[str, str] = {}
        for camera, watched in tuple(self.cameras.items()):
            other = self._field_of_view(camera, watched)
            for note in (*watched.notes, *(() if other is None else (other,))):
                found[f'{camera}: {note.code}' if camera else note.code] = note.text
        if self.lost.note:
            found['lost_on_map'] = self.lost.note
        return found

    def _field_of_view(self, camera: str, watched: CameraHealth) -> Note | None:
        here, place_map = self.infos.of(camera), self.place_map
        if here is None or place_map is None or not place_map.manifest.intrinsics:
            return None
        known = place_map.manifest.intrinsics
        return watched.field_of_view(here, Intrinsics.from_mapping(
            known.get(camera or 'camera') or next(iter(known.values()))))

    def diagnosis(self, said: str) -> tuple[bytes, str, dict[str, str]]:
        """Level, message and values for /diagnostics.

        said: state of the localizer, in words.
        """
        config, place_map = self.config, self.place_map
        missing = [camera for camera in config.cameras
                   if config.wants_intrinsics and self.infos.of(camera) is None]
        level, text = self.health.level(config.image_timeout_s, config.use_odometry, missing)
        notes = self.notes()
        if notes and level == DiagnosticStatus.OK:
            level, text = DiagnosticStatus.WARN, next(iter(notes.values()))
        return level, text, self.health.values(self.mailbox.dropped) | {
            'jump gated': str(self.jumps.held), **{f'note: {k}': v for k, v in notes.items()},
            'state': said, 'mode': config.mode,
            'map': '' if place_map is None else str(place_map.path),
            'keyframes': '' if place_map is None else str(len(place_map)),
            'session keyframes': '' if self.session is None else str(len(self.session)),
            'model': self.encoder.name,
            'device': str(self.encoder.device), 'precision': self.encoder.precision,
        }

    def close(self) -> None:
        """Close map and session."""
        with self.turn:
            if self.localizer is not None:
                self.localizer.place_map.close()
            if self.session is not None:
                try:
                    self.session.close()
                except MapError as error:
                    self.log.error(f'session: {error}')
