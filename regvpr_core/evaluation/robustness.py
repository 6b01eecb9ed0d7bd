"""Recall with degraded queries: blur, noise, light, JPEG, crop, rotation, occlusion.

Only the queries are changed. Random changes are seeded by the number of the image, so a curve is
reproducible.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from regvpr_core.datasets.dataset import Dataset
from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation.describe_pictures import Degrade
from regvpr_core.evaluation.describers import Describer
from regvpr_core.evaluation.evaluator import degraded, EvaluateConfig
from regvpr_core.images import decode, encode_jpeg, RGB

SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """A degradation. unit: of the strengths; neutral: the strength that changes nothing."""

    apply: Callable[[RGB, float, int], RGB]
    unit: str
    strengths: tuple[float, ...]
    neutral: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Recall@1 at each strength, the neutral one first."""

    model: str
    data: str
    kind: str
    unit: str
    strengths: tuple[float, ...]
    recall_at_1: tuple[float, ...]


def blur(rgb: RGB, strength: float, number: int) -> RGB:
    """Gaussian blur, sigma in percent of the longer side."""
    sigma = strength / 100.0 * max(rgb.shape[:2])
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma), dtype=np.uint8)


def noise(rgb: RGB, strength: float, number: int) -> RGB:
    """Gaussian noise on every channel, standard deviation in grey levels of 255."""
    drawn = np.random.default_rng((SEED, number)).normal(0.0, strength, rgb.shape)
    return np.clip(np.rint(rgb + drawn), 0, 255).astype(np.uint8)


def brightness(rgb: RGB, strength: float, number: int) -> RGB:
    """Brightness: all values times a factor, clipped."""
    return np.asarray(np.clip(np.rint(rgb * float(strength)), 0, 255), dtype=np.uint8)


def jpeg(rgb: RGB, strength: float, number: int) -> RGB:
    """JPEG compression at a quality of 1 to 100."""
    return decode(encode_jpeg(rgb, int(strength)))


def crop(rgb: RGB, strength: float, number: int) -> RGB:
    """Centre crop: this percentage of the width and of the height is cut off."""
    h, w = rgb.shape[:2]
    top, left = (int(side * strength / 200.0) for side in (h, w))
    return np.ascontiguousarray(rgb[top:max(top + 1, h - top), left:max(left + 1, w - left)])


def rotation(rgb: RGB, strength: float, number: int) -> RGB:
    """Rotation about the centre by these degrees, in a random direction; edges are mirrored."""
    h, w = rgb.shape[:2]
    sign = 1.0 if np.random.default_rng((SEED, number)).random() < 0.5 else -1.0
    turn = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), sign * strength, 1.0)
    return np.asarray(cv2.warpAffine(rgb, turn, (w, h), flags=cv2.INTER_LINEAR,
                                     borderMode=cv2.BORDER_REFLECT), dtype=np.uint8)


def occlusion(rgb: RGB, strength: float, number: int) -> RGB:
    """Occlusion: a grey box over this percentage of the area, at a random position."""
    h, w = rgb.shape[:2]
    share = (strength / 100.0) ** 0.5
    high, wide = max(1, round(h * share)), max(1, round(w * share))
    random = np.random.default_rng((SEED, number))
    top, left = int(random.integers(0, h - high + 1)), int(random.integers(0, w - wide + 1))
    covered = rgb.copy()
    covered[top:top + high, left:left + wide] = 128
    return covered


DEGRADATIONS: dict[str, Degradation] = {
    'blur': Degradation(apply=blur, unit='sigma, % of the longer side',
                        strengths=(0.25, 0.5, 1.0, 2.0)),
    'noise': Degradation(apply=noise, unit='standard deviation, of 255',
                         strengths=(10.0, 20.0, 40.0, 80.0)),
    'darker': Degradation(apply=brightness, unit='factor', strengths=(0.6, 0.4, 0.2, 0.1),
                          neutral=1.0),
    'brighter': Degradation(apply=brightness, unit='factor', strengths=(1.4, 1.8, 2.4, 3.2),
                            neutral=1.0),
    'jpeg': Degradation(apply=jpeg, unit='quality', strengths=(40.0, 20.0, 10.0, 5.0),
                        neutral=100.0),
    'crop': Degradation(apply=crop, unit='% of each side cut off',
                        strengths=(10.0, 20.0, 30.0, 50.0)),
    'rotation': Degradation(apply=rotation, unit='degrees', strengths=(5.0, 10.0, 20.0, 45.0)),
    'occlusion': Degradation(apply=occlusion, unit='% of the area covered',
                             strengths=(10.0, 20.0, 40.0, 60.0)),
}
"""Name to degradation, from weak to strong."""


def robustness(
    dataset: Dataset, describer: Describer, config: EvaluateConfig, cache_folder: Path | None,
    baseline: float, kinds: Sequence[str] = tuple(DEGRADATIONS),
    told: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Curve]:
    """Recall@1 of one model on one data set at every strength of each kind.

    Args:
        baseline: recall@1 of the unchanged queries.

    Raises:
        EvaluationError: an unknown kind, or a data set without images or ground truth.
    """
    for kind in kinds:
        if kind not in DEGRADATIONS:
            raise EvaluationError(f'unknown degradation {kind!r}; known: '
                                  f'{", ".join(DEGRADATIONS)}')
    steps = [(f'{kind} {strength:g}', _step(DEGRADATIONS[kind], strength)) for kind in kinds
             for strength in DEGRADATIONS[kind].strengths]
    # All strengths in one pass, so the references are read once.
    values = iter(degraded(dataset, describer, config, cache_folder, steps, told))
    return [Curve(
        model=describer.name, data=dataset.title, kind=kind, unit=about.unit,
        strengths=(about.neutral, *about.strengths),
        recall_at_1=(baseline, *(next(values) for _ in about.strengths)))
        for kind in kinds for about in [DEGRADATIONS[kind]]]


def _step(about: Degradation, strength: float) -> Degrade:
    return lambda rgb, number: about.apply(rgb, strength, number)
