"""The node's parameters: one dataclass; names, defaults and texts are read off it."""

from collections.abc import Iterator
import dataclasses
from dataclasses import dataclass, field
import re
from typing import Any

from regvpr_core.config import check_range, from_mapping
from regvpr_core.errors import ConfigError
from regvpr_core.geometry import pose_matrix
from regvpr_core.localization.localizer import LocalizerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Parameters of the localize node; fixed while the node is configured.

    map: folder of the place map; required.
    model: model name or checkpoint file; must be the model that the map was built with.
    backbone_weights: file with the weights of the backbone; empty searches REGVPR_WEIGHTS and the
        cache. The node downloads nothing.
    device: auto, cpu, cuda, cuda:1, mps.
    precision: auto, fp32, bf16 or fp16.
    threads: CPU threads of the network, 0 leaves torch's choice, up to 256.
    compressed: subscribe to image/compressed instead of image.
    base_frame: frame whose pose is published.
    map_frame: frame_id of what is published; empty takes the name that the map has.
    extrinsics: camera (optical) in the base frame, x y z qx qy qz qw; empty takes TF where tf2_ros
        is installed and knows it, else what the map was built with. Fixed cameras only.
    use_odometry: subscribe to odom and move the belief with it.
    odometry_wait_s: how long an image waits for odometry to reach its stamp, 0 to 1 s.
    odometry_gap_s: odometry further apart than this is not interpolated, 0.01 to 10 s.
    image_timeout_s: without an image for so long diagnostics warn, 0.1 to 3600 s.
    localizer: how images are matched.
    """

    map: str = ''
    model: str = 'gem_vits14'
    backbone_weights: str = ''
    device: str = 'auto'
    precision: str = 'auto'
    threads: int = 0
    compressed: bool = False
    base_frame: str = 'base_link'
    map_frame: str = ''
    extrinsics: tuple[float, ...] = ()
    use_odometry: bool = True
    odometry_wait_s: float = 0.05
    odometry_gap_s: float = 0.5
    image_timeout_s: float = 2.0
    localizer: LocalizerConfig = field(default_factory=LocalizerConfig)

    def __post_init__(self) -> None:
        check_range('threads', self.threads, 0, 256)
        check_range('odometry_wait_s', self.odometry_wait_s, 0.0, 1.0)
        check_range('odometry_gap_s', self.odometry_gap_s, 0.01, 10.0)
        check_range('image_timeout_s', self.image_timeout_s, 0.1, 3600.0)
        if len(self.extrinsics) not in (0, 7):
            raise ConfigError(f'extrinsics has {len(self.extrinsics)} numbers; expected '
                              f'x y z qx qy qz qw, or none')
        if self.extrinsics:
            try:
                pose_matrix(self.extrinsics[:3], self.extrinsics[3:])
            except ValueError as error:
                raise ConfigError(f'extrinsics {list(self.extrinsics)}: {error}') from error
        if not self.base_frame:
            raise ConfigError('base_frame is empty; expected a frame such as base_link')


@dataclass(frozen=True, slots=True)
class Parameter:
    """A ROS parameter: its dotted name, its default and its text."""

    name: str
    default: Any
    description: str


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
    pattern = r'((?:[a-z_]+, )*[a-z_]+): (.*?)(?=(?: |^)(?:[a-z_]+, )*[a-z_]+: |$)'
    for match in re.finditer(pattern, body.strip()):
        for name in match.group(1).split(', '):
            texts[name] = match.group(2).strip()
    return texts
