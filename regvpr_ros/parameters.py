"""The node's parameters: a dataclass with names, defaults and texts."""

from collections.abc import Iterator
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
import re
from typing import Any

from regvpr_core.config import (
    about,
    check_settings,
    from_mapping,
    nearest,
    setting,
)
from regvpr_core.errors import ConfigError
from regvpr_core.geometry import pose_matrix
from regvpr_core.localization.localizer import LocalizerConfig
from regvpr_core.localization.session import SessionConfig

OUTPUTS = ('autoware', 'hydra', 'isaac_visual_slam', 'lio_sam', 'rtabmap', 'swarm_slam')
MAX_CAMERAS = 16
MODES = ('localize', 'loop_closure', 'both')
INITIALPOSE = ('never', 'on_request', 'first_fix')
UPDATES = ('off', 'propose', 'on')
TRANSPORTS = ('raw', 'compressed')
TRIGGERS = ('always', 'on_request')

LIVE = ('max_image_age_s', 'min_interval_s', 'min_distance_m', 'trigger', 'initialpose',
        'odometry_wait_s', 'image_timeout_s')
"""Parameters that take effect at once; the others are fixed while the node is configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Parameters of the node."""

    mode: str = setting(
        'localize', "localize (on a map), loop_closure (on the session's own past), or both.",
        choices=MODES)
    map: str = setting('', 'Folder of the place map; required except in mode loop_closure.')
    model: str = setting(
        '',
        'Model name, checkpoint or .onnx file; empty for the model that the map was built with, '
        'and in mode loop_closure for the default model. With a map it must be its model.')
    backbone_weights: str = setting(
        '',
        'File with the weights of the backbone; empty searches REGVPR_WEIGHTS and the cache.')
    fetch: bool = setting(
        False, 'Fetch weights that are not on this machine while the node is configured.')
    device: str = setting('auto', 'auto, cpu, cuda, cuda:1 or mps.')
    precision: str = setting('auto', 'auto, fp32, bf16, fp16, or int8 on a CPU.')
    threads: int = setting(0, "CPU threads of the network; 0 for torch's choice.", 0, 256)
    camera_names: tuple[str, ...] = setting(
        (),
        'Names of the cameras, at most 16, each on the topic NAME/image; empty for one camera on '
        'the topic image.')
    compressed: bool = setting(
        False, 'Subscribe to image/compressed instead of image, for all cameras.')
    image_transport: str = setting(
        'raw', 'raw or compressed (the same as `compressed`), as image_transport names it.',
        choices=TRANSPORTS)
    compressed_cameras: tuple[str, ...] = setting(
        (), 'Cameras with compressed images, if the others are raw.')
    base_frame: str = setting('base_link', 'Frame whose pose is published.')
    map_frame: str = setting(
        '', "frame_id of published poses; empty for the map's own name of its frame.")
    odom_frame: str = setting('', 'Frame of the odometry; empty takes it from its messages.')
    extrinsics: tuple[float, ...] = setting(
        (),
        'Pose of each camera (optical frame) in the base frame, x y z qx qy qz qw one after '
        'another; empty takes TF if tf2_ros is installed and TF has it, else those of the map. '
        'Fixed cameras only.')
    use_odometry: bool = setting(True, 'Subscribe to odom and move the belief with it.')
    odometry_wait_s: float = setting(
        0.05, 'Time that an image waits for odometry to reach its stamp.', 0.0, 1.0, unit='s')
    odometry_gap_s: float = setting(
        0.5, 'Odometry further apart than this is not interpolated.', 0.01, 10.0, unit='s')
    max_image_age_s: float = setting(
        1.0, 'An image that waited longer than this is dropped and counted; 0 for no limit.',
        0.0, 60.0, unit='s')
    min_interval_s: float = setting(
        0.0, 'Least time between images that are processed.', 0.0, 3600.0, unit='s')
    min_distance_m: float = setting(
        0.0, 'Least distance by odometry between images that are processed.',
        0.0, 1000.0, unit='m')
    trigger: str = setting(
        'always',
        'always, or on_request: images are processed only after localize_once, until a fix.',
        choices=TRIGGERS)
    initialpose: str = setting(
        'on_request',
        'never, on_request (localize_once), or first_fix (also the first fix after activation, '
        'once).', choices=INITIALPOSE)
    jump_sigmas: float = setting(
        4.0, 'A fix that differs from the odometry by more standard deviations than this is not '
        'published until it persists; 0 to publish every fix.', 0.0, 100.0)
    jump_fixes: int = setting(
        5, 'Such a fix persists after this many successive fixes that agree with each other.',
        1, 100)
    broadcast_tf: bool = setting(
        False, 'Publish map_frame to odom_frame on /tf; only one node may.')
    image_timeout_s: float = setting(
        2.0, 'Diagnostics warn after this time without an image.', 0.1, 3600.0, unit='s')
    outputs: tuple[str, ...] = setting(
        (), 'Stacks to feed: autoware, hydra, isaac_visual_slam, lio_sam, rtabmap, swarm_slam.',
        choices=OUTPUTS)
    session_path: str = setting(
        '',
        'Folder in which the session is stored while it grows, so that it survives a crash; a new '
        'map is started whenever odometry or time restarts. Empty keeps the session in memory.')
    update: str = setting(
        'off',
        'off; propose: the session is kept, and ~/update_map improves the map by it; on: the map '
        'is also improved when the node is deactivated. Needs mode both and session_path.',
        choices=UPDATES)
    localizer: LocalizerConfig = field(default_factory=LocalizerConfig)
    session: SessionConfig = field(default_factory=SessionConfig)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.session_path and not Path(self.session_path).expanduser().is_absolute():
            raise ConfigError(f'session_path is {self.session_path!r}; expected an absolute path')
        if self.update != 'off' and (self.mode != 'both' or not self.session_path):
            raise ConfigError(
                f'update is {self.update!r} with mode {self.mode!r} and session_path '
                f"{self.session_path!r}; expected mode 'both' and a folder for the session")
        if not self.base_frame:
            raise ConfigError('base_frame is empty; expected a frame such as base_link')
        self._check_cameras()

    @property
    def wants_intrinsics(self) -> bool:
        """Whether intrinsics are used: only with verification."""
        return (self.localizer.verification.kind != 'none'
                or self.session.verification.kind != 'none')

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras; a single unnamed camera by default."""
        return self.camera_names or ('',)

    def is_compressed(self, camera: str) -> bool:
        """Whether this camera's images are compressed."""
        return (self.compressed or self.image_transport == 'compressed'
                or camera in self.compressed_cameras)

    def extrinsics_of(self, camera: str) -> tuple[float, ...]:
        """The seven numbers given for a camera; empty by default."""
        at = 7 * self.cameras.index(camera)
        return self.extrinsics[at:at + 7]

    def _check_cameras(self) -> None:
        names = self.camera_names
        if len(names) > MAX_CAMERAS or len(set(names)) != len(names):
            raise ConfigError(f'camera_names {list(names)}: expected at most {MAX_CAMERAS} '
                              f'different names')
        for name in names:
            if not re.fullmatch(r'[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*', name):
                raise ConfigError(f'camera_names: {name!r} is no part of a topic; expected '
                                  f'letters, digits and _, such as front or rig/left')
        for name in self.compressed_cameras:
            if name not in names:
                raise ConfigError(f'compressed_cameras: no camera {name!r}{nearest(name, names)}')
        count = len(self.cameras)
        if len(self.extrinsics) not in (0, 7 * count):
            of_each = ' of each camera' if count > 1 else ''
            raise ConfigError(f'extrinsics has {len(self.extrinsics)} numbers; expected '
                              f'x y z qx qy qz qw{of_each}, or none')
        for start in range(0, len(self.extrinsics), 7):
            values = self.extrinsics[start:start + 7]
            try:
                pose_matrix(values[:3], values[3:])
            except ValueError as error:
                raise ConfigError(f'extrinsics {list(values)}: {error}') from error


@dataclass(frozen=True, slots=True)
class Parameter:
    """A ROS parameter: its dotted name, its default, its text and its range.

    limits: least and largest value; None for other types.
    """

    name: str
    default: Any
    description: str
    limits: tuple[float, float] | None


def declared(cls: type, prefix: str = '') -> Iterator[Parameter]:
    """Walk a settings dataclass; nested ones give dotted names."""
    instance = cls()
    for entry in dataclasses.fields(cls):
        value = getattr(instance, entry.name)
        if dataclasses.is_dataclass(value):
            yield from declared(type(value), f'{prefix}{entry.name}.')
            continue
        known = about(entry)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        limits = (known.low, known.high) \
            if number and known.low is not None and known.high is not None else None
        default = list(value) if isinstance(value, tuple) else value
        yield Parameter(f'{prefix}{entry.name}', default, known.help, limits)


def to_config(values: dict[str, Any]) -> NodeConfig:
    """Build the config from dotted names and values.

    Raises:
        ConfigError: names the invalid parameter.
    """
    tree: dict[str, Any] = {}
    lists = {one.name for one in declared(NodeConfig) if isinstance(one.default, list)}
    for name, value in values.items():
        if name in lists and not isinstance(value, (list, tuple)):
            raise ConfigError(f'{name} is {value!r}; expected a list: {name}:=[{value}]')
        *sections, key = name.split('.')
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = value
    return from_mapping(NodeConfig, tree)
