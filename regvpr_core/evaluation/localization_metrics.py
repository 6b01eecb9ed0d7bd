"""Localization metrics: fixes, poses and their covariances.

Time to first fix; normalised error squared (NEES; Bar-Shalom, Li and Kirubarajan 2001, 5.4.2).
Precision and recall of matches are in `retrieval_metrics`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float64
from regvpr_core.errors import ConfigError

CHI2_95 = {1: 3.841, 2: 5.991, 3: 7.815, 6: 12.592}
"""95 % quantile of the chi-squared distribution, by degrees of freedom."""


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
    """Consistency of covariances with errors.

    mean: mean normalised error squared, divided by the degrees of freedom; 1 if the covariances
        are correct, larger if they are too small.
    within_95: share of errors inside the 95 % region. count: number of poses.
    """

    mean: float
    within_95: float
    count: int


def nees(errors: npt.ArrayLike, covariances: npt.ArrayLike) -> Float64:
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
