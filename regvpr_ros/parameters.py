"""The node's parameters: one dataclass; names, defaults and texts are read off it."""

from collections.abc import Iterator
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
import re
from typing import Any

from regvpr_core.config import check_range, DEFAULT_MODEL, from_mapping, nearest
from regvpr_core.errors import ConfigError
from regvpr_core.geometry import pose_matrix
from regvpr_core.localization.localizer import LocalizerConfig
from regvpr_core.localization.session import SessionConfig

OUTPUTS = ('autoware', 'hydra', 'isaac_visual_slam', 'lio_sam', 'rtabmap', 'swarm_slam')
MAX_CAMERAS = 16
MODES = ('localize', 'loop_closure', 'both')
INITIALPOSE = ('never', 'on_request', 'first_fix')
TRIGGERS = ('always', 'on_request')

NUMBER = r'(\d+(?:\.\d+)?(?:e-?\d+)?)'
LIMITS = re.compile(rf'\b{NUMBER}(?: \([^)]*\))? to {NUMBER}')
"""`0 (no limit) to 60`."""

LIVE = ('max_image_age_s', 'min_interval_s', 'min_distance_m', 'trigger', 'initialpose',
        'odometry_wait_s', 'image_timeout_s')
"""Parameters that take effect at once; the others are fixed while the node is configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Parameters of the node.

    mode: localize (on a map), loop_closure (on the session's own past), or both.
    map: folder of the place map; required but in the mode loop_closure.
    model: model name or checkpoint file; must be the model that the map was built with.
    backbone_weights: file with the weights of the backbone; empty searches REGVPR_WEIGHTS and the
        cache. The node downloads nothing.
    device: auto, cpu, cuda, cuda:1, mps.
    precision: auto, fp32, bf16 or fp16.
    threads: CPU threads of the network, 0 (torch's choice) to 256.
    camera_names: cameras, each on the topic NAME/image; empty is one camera on the topic image.
        At most 16.
    compressed: subscribe to image/compressed instead of image, for all cameras.
    compressed_cameras: and for these, where the others are raw.
    base_frame: frame whose pose is published.
    map_frame: frame_id of what is published; empty takes the name that the map has.
    odom_frame: frame of the odometry; empty takes it from its messages.
    extrinsics: camera (optical) in the base frame, x y z qx qy qz qw, of each camera in turn;
        empty takes TF where tf2_ros is installed and knows it, else what the map was built with.
        Fixed cameras only.
    use_odometry: subscribe to odom and move the belief with it.
    odometry_wait_s: how long an image waits for odometry to reach its stamp, 0 to 1 s.
    odometry_gap_s: odometry further apart than this is not interpolated, 0.01 to 10 s.
    max_image_age_s: an image that waited longer than this is dropped and counted, 0 (no limit)
        to 60 s.
    min_interval_s: at least so long between images that are looked at, 0 to 3600 s.
    min_distance_m: and at least so far, by odometry, 0 to 1000 m.
    trigger: always, or on_request (images are looked at only after localize_once, until a fix).
    initialpose: never, on_request (localize_once), or first_fix (also the first fix after
        activation is published there, once).
    broadcast_tf: publish map_frame to odom_frame on /tf; only one node may.
    image_timeout_s: without an image for so long diagnostics warn, 0.1 to 3600 s.
    outputs: stacks to feed, of autoware, hydra, isaac_visual_slam, lio_sam, rtabmap, swarm_slam.
    session_path: folder where the session is kept as maps while it grows (a new part whenever
        odometry or time begins anew), so that a crash leaves them; empty keeps it in memory.
    localizer: how images are matched.
    session: how loop closures are found.
    """

    mode: str = 'localize'
    map: str = ''
    model: str = DEFAULT_MODEL
    backbone_weights: str = ''
    device: str = 'auto'
    precision: str = 'auto'
    threads: int = 0
    camera_names: tuple[str, ...] = ()
    compressed: bool = False
    compressed_cameras: tuple[str, ...] = ()
    base_frame: str = 'base_link'
    map_frame: str = ''
    odom_frame: str = ''
    extrinsics: tuple[float, ...] = ()
    use_odometry: bool = True
    odometry_wait_s: float = 0.05
    odometry_gap_s: float = 0.5
    max_image_age_s: float = 1.0
    min_interval_s: float = 0.0
    min_distance_m: float = 0.0
    trigger: str = 'always'
    initialpose: str = 'on_request'
    broadcast_tf: bool = False
    image_timeout_s: float = 2.0
    outputs: tuple[str, ...] = ()
    session_path: str = ''
    localizer: LocalizerConfig = field(default_factory=LocalizerConfig)
    session: SessionConfig = field(default_factory=SessionConfig)

    def __post_init__(self) -> None:
        for name, low, high in (
            ('threads', 0, 256), ('odometry_wait_s', 0.0, 1.0), ('odometry_gap_s', 0.01, 10.0),
            ('max_image_age_s', 0.0, 60.0), ('min_interval_s', 0.0, 3600.0),
            ('min_distance_m', 0.0, 1000.0), ('image_timeout_s', 0.1, 3600.0),
        ):
            check_range(name, getattr(self, name), low, high)
        for name, known in (('mode', MODES), ('initialpose', INITIALPOSE), ('trigger', TRIGGERS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f'{name} is {value!r}; expected one of {", ".join(known)}')
        if self.session_path and not Path(self.session_path).expanduser().is_absolute():
            raise ConfigError(f'session_path is {self.session_path!r}; expected an absolute path')
        if not self.base_frame:
            raise ConfigError('base_frame is empty; expected a frame such as base_link')
        self._check_cameras()
        for name in self.outputs:
            if name not in OUTPUTS:
                raise ConfigError(f'outputs: unknown output {name!r}{nearest(name, OUTPUTS)}')

    @property
    def wants_intrinsics(self) -> bool:
        """Whether anything is made of them: only where images are verified."""
        return (self.localizer.verification.kind != 'none'
                or self.session.verification.kind != 'none')

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras; one without a name where none is given."""
        return self.camera_names or ('',)

    def is_compressed(self, camera: str) -> bool:
        """Whether this camera's images are compressed."""
        return self.compressed or camera in self.compressed_cameras

    def extrinsics_of(self, camera: str) -> tuple[float, ...]:
        """The seven numbers given for a camera; none where none are."""
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
    """A ROS parameter: its dotted name, its default and its text.

    limits: least and largest value, as the text says them; None where it names none.
    """

    name: str
    default: Any
    description: str

    @property
    def limits(self) -> tuple[float, float] | None:
        if isinstance(self.default, (bool, str, list)):
            return None
        found = LIMITS.search(self.description)
        return (float(found[1]), float(found[2])) if found else None


def declared(cls: type, prefix: str = '') -> Iterator[Parameter]:
    """Walk a dataclass; nested ones give dotted names."""
    texts = _texts(cls)
    instance = cls()
    for entry in dataclasses.fields(cls):
        value = getattr(instance, entry.name)
        if dataclasses.is_dataclass(value):
            yield from declared(type(value), f'{prefix}{entry.name}.')
            continue
        default = list(value) if isinstance(value, tuple) else value
        yield Parameter(f'{prefix}{entry.name}', default, texts.get(entry.name, ''))


def to_config(values: dict[str, Any]) -> NodeConfig:
    """Build the config from dotted names and values.

    Raises:
        ConfigError: names the parameter that is wrong.
    """
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *sections, key = name.split('.')
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = value
    return from_mapping(NodeConfig, tree)


def _texts(cls: type) -> dict[str, str]:
    """`name, name: text.` paragraphs of a docstring, by name."""
    texts: dict[str, str] = {}
    body = re.sub(r'\n\s+', ' ', (cls.__doc__ or '').partition('\n')[2])
    name = '|'.join(sorted((field.name for field in dataclasses.fields(cls)), key=len,
                           reverse=True))
    names = rf'(?:(?:{name}), )*(?:{name})'
    pattern = rf'(?:(?<= )|^)({names}): (.*?)(?= {names}: |$)'
    for match in re.finditer(pattern, body.strip()):
        for name in match.group(1).split(', '):
            texts[name] = match.group(2).strip()
    return texts
