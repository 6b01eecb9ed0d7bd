"""Verification of matches between an image and keyframes by local features.

`make_verifier` returns `NoVerifier`, which verifies nothing, or a `Verifier` with patch tokens of
the network or XFeat keypoints, depending on the settings.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import time

import numpy as np

from regvpr_core.arrays import Float32, Ids
from regvpr_core.config import check_settings, setting
from regvpr_core.errors import MapError
from regvpr_core.geometry import Array, distance
from regvpr_core.images import RGB
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.camera_rays import Intrinsics
from regvpr_core.verification.feature_matches import match_features, refined
from regvpr_core.verification.local_extractor import LocalExtractor
from regvpr_core.verification.local_features import decode_features, KINDS, LocalFeatures
from regvpr_core.verification.metric_pose import MetricPose
from regvpr_core.verification.place_pose import ERROR_SHARE, place_pose, View
from regvpr_core.verification.relative_pose import calibrated, uncalibrated

CACHED = 256
"""Number of keyframes with cached features: about 35 kB (patch) or 140 kB (xfeat) each."""

LOG_ODDS = {'patch': (5.2, 3.94), 'xfeat': (3.9, 3.65)}
"""Log likelihood ratio of a true match: first * (ln(1 + inliers) - second), for `NOMINAL` points.
Learnt by `python -m benchmarks.verification --fit` from correct and the most similar wrong
keyframes of the rendered town (seed 7), at dusk and in rain, and of `boofcv_scenes`. It is zero at
50 inliers of 256 patches, or 37 of 512 keypoints."""

NOMINAL = {'patch': 256, 'xfeat': 512}

MAX_LOG_ODDS = 4.0
PLACE_RAD = 0.6
"""Largest angle between the viewing directions of keyframes used together, rad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationConfig:
    """Settings of verification."""

    kind: str = setting(
        'none',
        "none, patch (tokens of the network's own pass) or xfeat (extra `xfeat`; more accurate). "
        'The map must have been built with the same features.', choices=('none', *KINDS))
    candidates: int = setting(3, 'Places that are verified for an image.', 1, 20)
    references: int = setting(4, 'Keyframes of a place that its pose is computed from.', 2, 10)
    budget_s: float = setting(
        0.2, 'No further candidate is begun after this time.', 0.001, 10.0, unit='s')
    keypoints: int = setting(512, 'Keypoints of an image, for xfeat.', 64, 4096)
    error_share: float = setting(
        0.0,
        'Largest error of an inlier as a share of the image width; 0 takes 0.02 for patch and '
        '0.004 for xfeat.', 0.0, 0.1)
    weight: float = setting(1.0, 'Share of the learnt log odds that counts.', 0.0, 1.0)
    map_camera: bool = setting(
        True,
        "Images without intrinsics that have the size of the map's images are taken to be of the "
        "map's camera.")

    def __post_init__(self) -> None:
        check_settings(self, 'verification')


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verification:
    """Result of verifying an image against one keyframe.

    matches: number of mutually nearest points. inliers: number that agree on one motion.
    log_odds: log likelihood ratio of a true match at this number of inliers.
    rotation: (3, 3) of `T_query_reference`; direction: (3,) unit, of its translation. None where
        not valid: rotation without intrinsics, direction without parallax.
    planar: one plane explains nearly all.
    """

    keyframe_id: int
    matches: int
    inliers: int
    log_odds: float
    rotation: Array | None = None
    direction: Array | None = None
    planar: bool = False

    @property
    def share(self) -> float:
        """Share of inliers among the matches."""
        return self.inliers / max(self.matches, 1)


class NoVerifier:
    """Verifier that verifies nothing."""

    def __init__(self, encoder: Encoder) -> None:
        self._extractor = LocalExtractor('', encoder)

    def describe(self, rgb: RGB) -> tuple[Float32, LocalFeatures | None]:
        """Descriptor (D,) of an image."""
        return self._extractor.describe(rgb)

    def verify(
        self, features: LocalFeatures | None, keyframes: Sequence[int],
        intrinsics: Intrinsics | None = None,
    ) -> tuple[Verification, ...]:
        """Verify nothing; there are no results."""
        return ()

    def pose(
        self, features: LocalFeatures | None, keyframe: int, neighbours: Ids,
        intrinsics: Intrinsics | None = None,
    ) -> MetricPose | None:
        """Estimate no pose; the result is None."""
        return None


class Verifier:
    """Verifies by the map's local features. Not to be shared between threads."""

    def __init__(self, encoder: Encoder, place_map: PlaceMap, config: VerificationConfig) -> None:
        """Load the extractor and check the map.

        Raises:
            MapError: the map was built without these features.
            ConfigError: a package is missing, or the map's intrinsics cannot be used.
        """
        stored = place_map.manifest.features
        if stored != config.kind:
            raise MapError(
                f'map {place_map.path} holds {f"features {stored!r}" if stored else "no features"}'
                f', verification is {config.kind!r}; build it with --features {config.kind}, or '
                f'set verification.kind to {stored or "none"}')
        self._map = place_map
        self._config = config
        self._extractor = LocalExtractor(config.kind, encoder, config.keypoints)
        self._intrinsics: Mapping[str, Intrinsics] = {
            camera: Intrinsics.from_mapping(values)
            for camera, values in place_map.manifest.intrinsics.items()}
        self._error_share = config.error_share or ERROR_SHARE[config.kind]
        self._cache: OrderedDict[int, LocalFeatures | None] = OrderedDict()

    def describe(self, rgb: RGB) -> tuple[Float32, LocalFeatures | None]:
        """Descriptor (D,) and local features of an image."""
        return self._extractor.describe(rgb)

    def verify(
        self, features: LocalFeatures | None, keyframes: Sequence[int],
        intrinsics: Intrinsics | None = None,
    ) -> tuple[Verification, ...]:
        """Compare an image with keyframes, in order, within the time budget.

        Args:
            features: of the image, by `describe`.
            keyframes: ids, most likely first, one per place; the first `candidates` are used.
            intrinsics: of the image's camera; None: see `map_camera`.
        """
        start = time.perf_counter()
        found: list[Verification] = []
        if features is None:
            return ()
        for keyframe in keyframes[: self._config.candidates]:
            if found and time.perf_counter() - start > self._config.budget_s:
                break
            reference = self._features(int(keyframe))
            if reference is not None:
                found.append(self._compare(features, int(keyframe), reference, intrinsics))
        return tuple(found)

    def pose(
        self, features: LocalFeatures | None, keyframe: int, neighbours: Ids,
        intrinsics: Intrinsics | None = None,
    ) -> MetricPose | None:
        """Pose of the image's camera from a keyframe and those around it.

        Args:
            features: of the image.
            keyframe: id of the verified keyframe.
            neighbours: ids of keyframes of the same place.
            intrinsics: of the image's camera; None: see `map_camera`.

        Returns:
            None without intrinsics, or if the keyframes share too few points or are too close
            together.
        """
        if features is None:
            return None
        camera = self._query_camera(features, keyframe, intrinsics)
        if camera is None:
            return None
        views = []
        for number in self._spread(keyframe, neighbours):
            reference, its_camera = self._features(number), self._camera(number)
            if reference is not None and its_camera is not None:
                views.append(View(features=reference, camera=its_camera,
                                  T_world_cam=self._map.T_map_cam[number]))
        return place_pose(features, camera, views, self._error_share)

    def _compare(
        self, features: LocalFeatures, keyframe: int, reference: LocalFeatures,
        intrinsics: Intrinsics | None,
    ) -> Verification:
        pairs = match_features(features, reference)
        there = refined(features, reference, pairs)
        camera = self._query_camera(features, keyframe, intrinsics)
        its_camera = self._camera(keyframe)
        if camera is not None and its_camera is not None:
            view = calibrated(
                camera.rays(features.xy[pairs[0]], features.width, features.height),
                its_camera.rays(there, reference.width, reference.height),
                self._error_share * features.width / camera.focal_px(features.width))
        else:
            view = uncalibrated(features.xy[pairs[0]], there, self._error_share * features.width)
        points = len(features) if features.kind == 'patch' else self._config.keypoints
        return Verification(
            keyframe_id=keyframe, matches=len(there), inliers=view.count,
            log_odds=self._config.weight * log_odds(features.kind, view.count, points),
            rotation=view.rotation, direction=view.direction, planar=view.planar)

    def _camera(self, keyframe: int) -> Intrinsics | None:
        return self._intrinsics.get(self._map.cameras[keyframe])

    def _query_camera(
        self, features: LocalFeatures, keyframe: int, intrinsics: Intrinsics | None
    ) -> Intrinsics | None:
        camera = intrinsics
        if camera is None and self._config.map_camera:
            camera = self._camera(keyframe)
            if camera is not None and (camera.width, camera.height) != (features.width,
                                                                       features.height):
                return None
        return camera if camera is not None and camera.fits(features.width, features.height) \
            else None

    def _spread(self, keyframe: int, neighbours: Ids) -> list[int]:
        """This keyframe and the nearest neighbours of similar direction, at separate positions.

        No two are closer than half the distance to the nearest neighbour.
        """
        T = self._map.T_map_cam
        metres, radians = distance(T[keyframe], T[neighbours])
        near = neighbours[(radians < PLACE_RAD)][np.argsort(metres[radians < PLACE_RAD],
                                                             kind='stable')]
        chosen = [keyframe]
        apart = 0.5 * float(np.min(metres[metres > 1e-3], initial=np.inf))
        for number in near.tolist():
            if len(chosen) == self._config.references:
                break
            steps = np.linalg.norm(T[chosen, :3, 3] - T[number, :3, 3], axis=1)
            if number != keyframe and float(steps.min()) > apart:
                chosen.append(number)
        return chosen

    def _features(self, keyframe: int) -> LocalFeatures | None:
        """Decoded features of a keyframe, cached for those used last."""
        if keyframe in self._cache:
            self._cache.move_to_end(keyframe)
            return self._cache[keyframe]
        features = stored_features(self._map, keyframe)
        if features is not None and features.kind != self._config.kind:
            raise MapError(f'map {self._map.path} is damaged: keyframe {keyframe} has features '
                           f'{features.kind}, the map says {self._config.kind}')
        self._cache[keyframe] = features
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return features


AnyVerifier = NoVerifier | Verifier


def stored_features(place_map: PlaceMap, keyframe: int) -> LocalFeatures | None:
    """Decoded local features of a keyframe of a map; None if it has none.

    Raises:
        MapError: they are damaged.
    """
    data = place_map.local_features(keyframe)
    return None if not data else decode_features(
        data, f'local features of keyframe {keyframe} of {place_map.path}')


def make_verifier(
    encoder: Encoder, place_map: PlaceMap, config: VerificationConfig
) -> AnyVerifier:
    """Make the verifier for the settings.

    Raises:
        MapError: the map was built without these features.
        ConfigError: a package is missing.
    """
    if config.kind == 'none':
        return NoVerifier(encoder)
    return Verifier(encoder, place_map, config)


def log_odds(kind: str, inliers: int, points: int) -> float:
    """Log likelihood ratio of a true match, bounded because one image is no proof.

    Args:
        kind: of the features. inliers: number of agreeing matches.
        points: largest number of points of an image: keypoints, or patches.
    """
    slope, middle = LOG_ODDS[kind]
    odds = slope * (np.log1p(inliers * NOMINAL[kind] / max(points, 1)) - middle)
    return float(np.clip(odds, -MAX_LOG_ODDS, MAX_LOG_ODDS))


def spread_log_odds(
    verifications: Sequence[Verification], ids: Ids, T_map_cam: Array, radius_m: float
) -> Array:
    """Log odds (K,) of all candidates from the verified ones; 0 without evidence.

    Args:
        verifications: of an image.
        ids: (K,) keyframes found in the map.
        T_map_cam: (N, 4, 4) poses of the map's keyframes.
        radius_m: keyframes nearer than this show the same place.
    """
    odds = np.zeros(len(ids))
    nearest_m = np.full(len(ids), np.inf)
    for verification in verifications:
        metres, radians = distance(T_map_cam[verification.keyframe_id], T_map_cam[ids])
        here = (metres <= radius_m) & (radians <= PLACE_RAD) & (metres < nearest_m)
        odds[here] = verification.log_odds
        nearest_m[here] = metres[here]
    return odds
