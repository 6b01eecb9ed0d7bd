"""Comparison of models on two drives of the user's own site, with a recommendation.

Each model describes the keyframes of both maps. Each keyframe of the second map is then localized
alone in the first map, as `regvpr localize` does. Local features are used if the first map
contains them and the model provides them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
import math
from pathlib import Path
import tempfile
import time

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Mask
from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation.significance import interval, paired
from regvpr_core.geometry import Array, rotation_angle
from regvpr_core.images import RGB
from regvpr_core.localization.frames import Description, Frame
from regvpr_core.localization.localizer import image_config, Localizer
from regvpr_core.localization.one_image import Answer
from regvpr_core.map_tools.convert import convert_map, features_for, Pictures
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.local_features import LocalFeatures
from regvpr_core.verification.verification import stored_features

TIMED = 16
"""Number of timed images of each model, after one for warming up."""

LEAST_QUERIES = 20

FASTER = 2.0
"""Ratio of times from which a model counts as faster than another."""

Sources = Callable[[PlaceMap], Pictures]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SiteRow:
    """Result of one model on the site.

    right, right_centred: (Q,) the first match is at the place of the query; centred: with the
    mean of the second drive subtracted. yes: (Q,) the answer from the image alone is yes.
    yes_right: (Q,) the answer is yes, and the match is correct. ms: time per image, NaN until
    `timed`.
    bytes: size of a keyframe's descriptor in a map.
    """

    model: str
    right: Mask
    right_centred: Mask
    yes: Mask
    yes_right: Mask
    ms: float
    bytes: int

    @property
    def recall(self) -> float:
        """Recall@1 of centred descriptors, which the localizer compares."""
        return float(self.right_centred.mean())

    @property
    def precision(self) -> float | None:
        """Share of correct answers among the images answered with yes; None without any."""
        return float(self.yes_right.sum() / self.yes.sum()) if self.yes.any() else None

    def facts(self) -> dict[str, object]:
        """Figures for a table or JSON."""
        low, high = interval(self.right_centred)
        return {
            'model': self.model, 'queries': len(self.right),
            'recall_at_1': round(float(self.right.mean()), 4),
            'recall_at_1_centred': round(self.recall, 4),
            'recall_95': [round(low, 4), round(high, 4)],
            'yes_share': round(float(self.yes.mean()), 4),
            'yes_precision': None if self.precision is None else round(self.precision, 4),
            'ms_an_image': round(self.ms, 1), 'bytes_a_keyframe': self.bytes}


def measure(encoder: Encoder, first: PlaceMap, second: PlaceMap, T_first_second: Array,
            radius_m: float, angle_rad: float,
            pictures: Sources = lambda place_map: iter(())) -> SiteRow:
    """Measure one model on two maps of a site.

    Args:
        encoder: of the model.
        first, second: maps of two drives; may be open with the index `none`.
        T_first_second: (4, 4) frame of the second map in that of the first.
        radius_m, angle_rad: keyframes closer than both show the place of a query.
        pictures: original images of the keyframes of a map; others use their thumbnails.

    Raises:
        EvaluationError: the two drives have too few places in common.
        MapError: a map holds no image of its keyframes.
    """
    with tempfile.TemporaryDirectory(prefix='regvpr_site_') as folder:
        paths = [Path(folder) / 'first', Path(folder) / 'second']
        for place_map, path in zip((first, second), paths, strict=True):
            convert_map(place_map, encoder, path, pictures(place_map),
                        features=features_for(encoder, first.manifest.features))
        with PlaceMap.open(paths[0]) as a, PlaceMap.open(paths[1], index='none') as b:
            T = T_first_second @ b.T_map_cam
            queries = [i for i in range(len(b)) if _places(a, T[i], radius_m, angle_rad).any()]
            if len(queries) < LEAST_QUERIES:
                raise EvaluationError(
                    f'{len(queries)} of {len(b)} keyframes of {second.path} lie within '
                    f'{radius_m:g} m of one of {first.path}; at least {LEAST_QUERIES} are '
                    f'needed: are both of one site and in one frame?')
            rows = b.descriptors()[queries]
            mean = rows.mean(axis=0)
            localizer = Localizer(encoder, a, image_config(a))
            known = a.descriptors()
            found = [_one(localizer, a, int((known @ row).argmax()), row, mean,
                          _places(a, T[i], radius_m, angle_rad), stored_features(b, i))
                     for row, i in zip(rows, queries, strict=True)]
            columns = np.array(found, dtype=bool).T
    return SiteRow(model=encoder.name, right=columns[0], right_centred=columns[1],
                   yes=columns[2], yes_right=columns[3], ms=math.nan,
                   bytes=2 * encoder.dimension)


def timed(rows: Sequence[SiteRow], encoders: Sequence[Encoder], place_map: PlaceMap
          ) -> list[SiteRow]:
    """The rows with the time of an image of the map: the fastest of several of each model.

    The models take turns, so that other programs slow all of them alike.
    """
    image = next(_images(place_map), None)
    if image is None:
        image = np.zeros((240, 320, 3), np.uint8)
    for encoder in encoders:
        encoder.describe(image)
    seconds = np.zeros((TIMED, len(encoders)))
    for turn in range(TIMED):
        for number, encoder in enumerate(encoders):
            start = time.perf_counter()
            encoder.describe(image)
            seconds[turn, number] = time.perf_counter() - start
    return [replace(row, ms=1e3 * float(fastest))
            for row, fastest in zip(rows, seconds.min(axis=0), strict=True)]


def recommend(rows: Sequence[SiteRow]) -> str:
    """Recommend a model in one sentence: the best recall, or one as good and clearly faster.

    As good: the recall is not significantly worse. Clearly faster: `FASTER` times, because other
    programs disturb the measurement of time.
    """
    best = max(rows, key=lambda row: row.recall)
    level = [row for row in rows if row is best or not paired(
        best.right_centred, row.right_centred).differ]
    faster = [row for row in level if FASTER * row.ms <= best.ms]
    chosen = max(faster or [best], key=lambda row: (row.recall, -row.ms, -row.bytes))
    reason = f'recall@1 {chosen.recall:.1%}, {chosen.ms:.0f} ms an image'
    if chosen is best:
        others = ', '.join(f'{row.model} ({row.recall:.1%}, {row.ms:.0f} ms)'
                           for row in level if row is not best)
        return (f'take {chosen.model}: {reason}, the best'
                + (f'; {others} not significantly worse, but not clearly faster' if others
                   else ''))
    return (f'take {chosen.model}: {reason}; {best.model} has {best.recall:.1%}, which '
            f'{len(best.right)} queries cannot tell apart, at {best.ms:.0f} ms')


def _one(localizer: Localizer, place_map: PlaceMap, plain: int, row: npt.NDArray[np.float32],
         mean: npt.NDArray[np.float32], places: Mask, features: LocalFeatures | None
         ) -> tuple[bool, bool, bool, bool]:
    """Result of one query, as in `SiteRow`: right, right_centred, yes and yes_right.

    plain: keyframe of the most similar descriptor as it is (a search subtracts the map's mean).
    places: (N,) keyframes of the first map that show the query's place.
    """
    centred = int(place_map.search(row, 1, mean)[1][0])
    blank = Frame(stamp_ns=0, rgb=np.zeros((8, 8, 3), np.uint8))
    answer = localizer.localize_image(Description(blank, row, features))
    yes = answer.answer is Answer.YES
    return (bool(places[plain]), bool(places[centred]), yes,
            yes and bool(places[answer.matches[0].keyframe_id]))


def _places(place_map: PlaceMap, T: Array, radius_m: float, angle_rad: float) -> Mask:
    """Keyframes (N,) that show the place of a camera pose (4, 4)."""
    near = np.linalg.norm(place_map.T_map_cam[:, :3, 3] - T[:3, 3], axis=1) <= radius_m
    turned = rotation_angle(T[:3, :3].T @ place_map.T_map_cam[:, :3, :3])
    return np.asarray(near & (turned <= angle_rad))


def _images(place_map: PlaceMap) -> Iterator[RGB]:
    return (rgb for i in range(len(place_map)) if (rgb := place_map.thumbnail(i)) is not None)
