"""Localization metrics: matches, fixes, poses and their covariances.

Terms of the literature: precision and recall of matches, recall at 100 % precision, time to first
fix, normalised error squared (NEES; Bar-Shalom, Li and Kirubarajan 2001, 5.4.2).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regvpr_core.errors import ConfigError

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

CHI2_95 = {1: 3.841, 2: 5.991, 3: 7.815, 6: 12.592}
"""95 % point of chi squared by degrees of freedom."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrecisionRecall:
    """Curve over falling thresholds. thresholds, precision, recall: (T,)."""

    thresholds: Float
    precision: Float
    recall: Float

    @property
    def recall_at_100_precision(self) -> float:
        """Highest recall without a false match; 0 if the best match is false."""
        whole = self.precision == 1.0
        return float(self.recall[whole].max(initial=0.0))


def precision_recall(confidence: npt.ArrayLike, is_true: npt.ArrayLike, positives: int
                     ) -> PrecisionRecall:
    """Precision and recall over a falling confidence threshold.

    Matches of equal confidence are accepted together.

    Args:
        confidence: (M,) of each image's best match. is_true: (M,) whether it is correct.
        positives: number of images that have a correct match, whether or not it was found.

    Raises:
        ConfigError: there is no positive, or the lists differ in length.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    true = np.asarray(is_true, dtype=bool)
    if positives < 1 or confidence.shape != true.shape:
        raise ConfigError(f'{confidence.size} matches, {true.size} answers and {positives} '
                          f'positives; expected as many answers as matches, and a positive')
    order = np.argsort(-confidence, kind='stable')
    confidence, true = confidence[order], true[order]
    right = np.cumsum(true)
    last = np.append(confidence[1:] != confidence[:-1], True)[: len(confidence)]
    count = np.arange(1, len(true) + 1)
    return PrecisionRecall(thresholds=confidence[last],
                           precision=(right / np.maximum(count, 1))[last],
                           recall=(right / positives)[last])


@dataclass(frozen=True, slots=True, kw_only=True)
class FixFigures:
    """Metrics of one drive.

    frames: images. fixes: localized ones. precision: share of these that are right; 1 without any.
    recall: right fixes of all images. time_to_first_fix_s: from the first image to the first
    right fix; infinite without one. false_fixes_per_km: infinite for a drive of length zero.
    """

    frames: int
    fixes: int
    precision: float
    recall: float
    time_to_first_fix_s: float
    false_fixes_per_km: float


def fix_figures(stamps_ns: npt.ArrayLike, localized: npt.ArrayLike, right: npt.ArrayLike,
                way_m: float) -> FixFigures:
    """Figures of a drive.

    Args:
        stamps_ns: (F,) of all images, rising. localized: (F,) whether there was a fix.
        right: (F,) whether the fix was correct; ignored without a fix.
        way_m: length of the drive.
    """
    stamps = np.asarray(stamps_ns, dtype=np.int64)
    fixed = np.asarray(localized, dtype=bool)
    good = fixed & np.asarray(right, dtype=bool)
    false = int((fixed & ~good).sum())
    first = int(np.argmax(good)) if good.any() else -1
    return FixFigures(
        frames=len(stamps), fixes=int(fixed.sum()),
        precision=float(good.sum() / fixed.sum()) if fixed.any() else 1.0,
        recall=float(good.mean()) if len(good) else 0.0,
        time_to_first_fix_s=float(stamps[first] - stamps[0]) / 1e9 if good.any() else np.inf,
        false_fixes_per_km=0.0 if not false else 1000.0 * false / way_m if way_m > 0.0 else np.inf)


def frames_to_fix(localized: npt.ArrayLike, right: npt.ArrayLike, start: int) -> int | None:
    """Number of images from `start` to the first correct fix, both included; None without one."""
    good = np.asarray(localized, dtype=bool) & np.asarray(right, dtype=bool)
    later = np.flatnonzero(good[start:])
    return int(later[0]) + 1 if len(later) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NeesFigures:
    """mean: of the normalised error squared over its degrees of freedom: 1 where covariances are
    honest, above where they are too small. within_95: share inside the 95 % region. count: poses.
    """

    mean: float
    within_95: float
    count: int


def nees(errors: npt.ArrayLike, covariances: npt.ArrayLike) -> Float:
    """Normalised error squared (F,) of errors (F, n) with covariances (F, n, n).

    Raises:
        ConfigError: a covariance is not positive definite.
    """
    e = np.asarray(errors, dtype=np.float64)
    C = np.asarray(covariances, dtype=np.float64)
    try:
        np.linalg.cholesky(C)
    except np.linalg.LinAlgError as error:
        raise ConfigError(f'a covariance of {len(C)} is not positive definite') from error
    return np.asarray(np.einsum('fi,fi->f', e, np.linalg.solve(C, e[..., None])[..., 0]))


def nees_figures(errors: npt.ArrayLike, covariances: npt.ArrayLike) -> NeesFigures:
    """Consistency of covariances (F, n, n) with errors (F, n); n is 1, 2, 3 or 6."""
    values = nees(errors, covariances)
    freedom = np.asarray(errors).shape[1]
    if freedom not in CHI2_95:
        raise ConfigError(f'errors of {freedom} numbers; expected {", ".join(map(str, CHI2_95))}')
    if not len(values):
        return NeesFigures(mean=float('nan'), within_95=float('nan'), count=0)
    return NeesFigures(mean=float(values.mean() / freedom),
                       within_95=float((values <= CHI2_95[freedom]).mean()), count=len(values))
