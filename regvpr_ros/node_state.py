"""What the node holds from configure to cleanup, in one object."""

from dataclasses import dataclass, field
from typing import Any

from regvpr_core.errors import MapError
from regvpr_core.live.decode_ahead import Arrival
from regvpr_core.live.gate import Gate
from regvpr_core.live.mailbox import Mailbox, OdometryBuffer
from regvpr_core.live.trail import Trail
from regvpr_core.live.turn import Turn
from regvpr_core.localization.localizer import Localizer
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder
from regvpr_ros.camera_infos import CameraInfos
from regvpr_ros.health import Health
from regvpr_ros.parameters import NodeConfig
from regvpr_ros.session_recorder import SessionRecorder

LOG_PERIOD_S = 5.0
ODOMETRY_HORIZON_S = 10.0


@dataclass(slots=True, eq=False)
class NodeState:
    """The one owner of configuration, health, map and session.

    Callbacks write `odometry`, `trail`, `infos`, `mailbox` and counters of `health`; only the
    worker uses `localizer` and `session`, and whoever replaces them holds `turn` meanwhile.

    Attributes:
        config: parameters; replaced as a whole when a live one changes.
        log: logger of the node.
        localizer: None in the mode loop_closure.
        session: None in the mode localize.
        odom_frame: of the odometry, from the parameter or from its messages.
        fix_wanted: the next pose also goes to initialpose.
    """

    config: NodeConfig
    encoder: Encoder
    log: Any
    localizer: Localizer | None
    session: SessionRecorder | None
    infos: CameraInfos
    odometry: OdometryBuffer = field(init=False)
    gate: Gate = field(init=False)
    odom_frame: str = field(init=False)
    trail: Trail = field(default_factory=Trail)
    turn: Turn = field(default_factory=Turn)
    health: Health = field(default_factory=Health)
    mailbox: Mailbox[Arrival] = field(default_factory=Mailbox)
    fix_wanted: bool = False

    def __post_init__(self) -> None:
        config = self.config
        self.odometry = OdometryBuffer(ODOMETRY_HORIZON_S, config.odometry_gap_s)
        self.gate = Gate(config.min_interval_s, config.min_distance_m,
                         config.trigger == 'on_request')
        self.odom_frame = config.odom_frame

    @property
    def place_map(self) -> PlaceMap | None:
        """The map in use."""
        return None if self.localizer is None else self.localizer.place_map

    def change(self, config: NodeConfig) -> None:
        """Let live parameters take effect."""
        self.config = config
        self.gate.change(config.min_interval_s, config.min_distance_m,
                         config.trigger == 'on_request')

    def begin(self) -> None:
        """The node becomes active: nothing was seen and nothing counted."""
        self.mailbox, self.health = Mailbox(), Health()
        self.odometry.clear()
        self.trail.clear()
        self.forget()

    def forget(self) -> None:
        """Forget where the robot is and has been; what is on disk stays."""
        if self.localizer is not None:
            self.localizer.reset()
        if self.session is not None and len(self.session):
            try:
                self.session.reset()
            except MapError as error:
                self.refuse('session', str(error))

    def refuse(self, cause: str, text: str) -> None:
        """Count what cannot be used, and log it at most every few seconds."""
        self.health.refused(cause, text)
        self.log.warning(f'bad {cause}: {text}', throttle_duration_sec=LOG_PERIOD_S)

    def diagnosis(self, said: str) -> tuple[bytes, str, dict[str, str]]:
        """Level, message and values for /diagnostics; `said` is the localizer's state."""
        config, place_map = self.config, self.place_map
        missing = [camera for camera in config.cameras
                   if config.wants_intrinsics and self.infos.of(camera) is None]
        level, text = self.health.level(config.image_timeout_s, config.use_odometry, missing)
        return level, text, self.health.values(self.mailbox.dropped) | {
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
