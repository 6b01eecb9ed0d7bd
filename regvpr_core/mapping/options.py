"""Options and result of a build."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from regvpr_core.config import check_settings, setting
from regvpr_core.errors import ConfigError
from regvpr_core.map_tools.compression import CompressReport
from regvpr_core.mapping.candidates import Tally
from regvpr_core.mapping.frame_quality import QualityConfig
from regvpr_core.maps.keyframes import KeyframeConfig
from regvpr_core.recordings.geodesy import GpsConfig
from regvpr_core.recordings.sources import SourceOptions
from regvpr_core.search.projection import target
from regvpr_core.verification.local_features import KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Settings of a build, which are stored in the map."""

    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    gps: GpsConfig = field(default_factory=GpsConfig)
    batch: int = setting(8, 'Images in one pass of the network.', 1, 1024)
    max_pose_gap_s: float = setting(
        1.0, 'A frame is dropped where the poses before and after it are further apart in time.',
        0.0, 3600.0, unit='s')
    thumbnail_px: int = setting(
        160, 'Longer side of the stored thumbnails; 0 stores none.', 0, 1024, unit='px')

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Options of one build.

    out: the new folder. sources: selection of images and poses. features: local features to
    store, for verification of matches: none, patch or xfeat. compress: `pca:NUMBER` shortens the
    descriptors at the end, '' does not; may differ in a resumed build. resume: continue an
    interrupted build, if there is one.
    """

    out: Path
    config: BuildConfig = field(default_factory=BuildConfig)
    sources: SourceOptions = field(default_factory=SourceOptions)
    features: str = 'none'
    compress: str = ''
    resume: bool = False

    def __post_init__(self) -> None:
        if self.features not in ('none', *KINDS):
            raise ConfigError(f'features is {self.features!r}; expected none, {", ".join(KINDS)}')
        if self.compress:
            target(self.compress)


@dataclass(slots=True)
class BuildReport:
    """Result of a build.

    resumed: keyframes of an earlier run. other_bits: descriptors are rounded differently from
    those of the earlier run (another processor, or other operations) and agree to 1e-3 only.
    compression: loss by shorter descriptors, if requested.
    """

    tally: Tally = field(default_factory=Tally)
    kept: int = 0
    resumed: int = 0
    seconds: float = 0.0
    size_bytes: int = 0
    other_bits: bool = False
    compression: CompressReport | None = None

    @property
    def seen(self) -> int:
        """Number of frames of the sources, including those of earlier runs."""
        return self.tally.seen

    @property
    def dropped(self) -> Mapping[str, int]:
        """Number of dropped frames by reason."""
        return self.tally.dropped

    @property
    def length_m(self) -> float:
        """Length of the path through the poses of all frames, m."""
        return self.tally.length_m

    @property
    def first_image_error(self) -> str:
        """Error of the first image that could not be decoded."""
        return self.tally.first_image_error

    @property
    def places_per_s(self) -> float:
        """Keyframes per second of this run."""
        return (self.kept - self.resumed) / max(self.seconds, 1e-9)

    @property
    def reasons(self) -> str:
        """Numbers of dropped frames by reason, in one line."""
        counted = ', '.join(f'{count} × {reason}' for reason, count in self.dropped.items())
        error = f' ({self.first_image_error})' if self.first_image_error else ''
        return f'dropped: {counted}{error}' if counted else 'the source holds no image'
