"""The linear part of a joined head (models/joined_heads.py), learnt in closed form.

Each training image is described unchanged and in several simulated sessions (training/looks.py).
A session shifts the descriptors of all its images alike, and each single one a little differently.
Directions in which these shifts have a large variance are reduced: x - U diag(g) U^T x, with
g = 1 - (1 + v / ridge)^-1/2 for the variance v along a direction. This is within-class whitening
(Mikolajczyk and Matas, ICCV 2007), limited to the directions of largest variance; all other
directions are unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from regvpr_core.config import check_settings, setting
from regvpr_core.errors import TrainingError
from regvpr_core.models.joined_heads import JoinedHeads, MapPool

OVERSAMPLING = 32
POWER_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedFitConfig:
    """Settings for learning the linear part of a joined head."""

    whitening: float = setting(
        0.25, 'Principal components of the channels are divided by their variance to this power.',
        0.0, 0.5)
    of_session: float = setting(
        1.0, "Weight of the sessions' shifts beside the spread of single images.", 0.0, 100.0)
    ridge: float = setting(
        1.0, 'In units of the smallest variance kept; a large ridge changes little.', 1e-3, 1e6)

    def __post_init__(self) -> None:
        check_settings(self, 'fit')


@dataclass(frozen=True, slots=True, eq=False)
class SessionFeatures:
    """Input of a joined head from N images of one session, float16.

    head_rows: (N, D) of the register head. maps: for each pool (N, C, h, w).
    """

    head_rows: Tensor
    maps: tuple[Tensor, ...]


def fit_joined(
    head: JoinedHeads, sessions: Sequence[SessionFeatures], config: JoinedFitConfig, seed: int = 0
) -> None:
    """Set all buffers of a joined head, in place; the register head stays as it is.

    Args:
        head: to set.
        sessions: the same images in each.
        config: settings.
        seed: of the decomposition's random start.

    Raises:
        TrainingError: shifts are to be learnt, but there are fewer than two sessions.
    """
    if head.config.shifts and len(sessions) < 2:
        raise TrainingError(f'{len(sessions)} session cannot show how sessions differ; give two '
                            f'or more, or set shifts to 0')
    of_head = head.config.registers
    local = torch.cat([s.head_rows[:, of_head.token_dim:] for s in sessions]).float()
    vectors = local.view(-1, of_head.cluster_dim, of_head.clusters).transpose(1, 2)
    head.shorten.copy_(strongest_rows(vectors.flatten(0, 1), head.config.short_dim))
    for number, pool in enumerate(cast(MapPool, module) for module in head.pools):
        means = torch.cat([pool.pooled(s.maps[number]) for s in sessions])
        pool.mean.copy_(means.mean(dim=(0, 2)))
        pool.basis.copy_(whitened(means.transpose(1, 2).flatten(0, 1), pool.config.channels,
                                  config.whitening))
    rows = torch.stack([joined_rows(head, session) for session in sessions])  # (S, N, D)
    head.centre.copy_(rows.mean(dim=(0, 1)))
    if head.config.shifts:
        basis, gain = session_shifts(rows, head.config.shifts, config, seed)
        head.shift_basis.copy_(basis)
        head.shift_gain.copy_(gain)


def joined_rows(head: JoinedHeads, session: SessionFeatures) -> Tensor:
    """Joined parts (N, D) float32 of one session, not centred."""
    maps = {cast(MapPool, pool).config.map: features.float()
            for pool, features in zip(head.pools, session.maps, strict=True)}
    empty = torch.zeros(0)
    return head.joined(session.head_rows.float(), maps.get('middle', empty),
                       maps.get('late', empty))


def session_shifts(
    rows: Tensor, count: int, config: JoinedFitConfig, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Directions in which sessions of the same images differ most, and their reduction.

    Args:
        rows: (S, N, D) image n in session s.
        count: of directions.
        config, seed: as `fit_joined`.

    Returns:
        basis (D, count) with orthonormal columns, and gain (count,), 0 (kept) to 1 (removed).
    """
    sessions, pictures, _ = rows.shape
    means = rows.mean(dim=1)  # (S, D)
    own = rows - means[:, None]
    own = (own - own.mean(dim=0)).flatten(0, 1)
    shifts = (means - means.mean(dim=0)) * (config.of_session * pictures) ** 0.5
    away = torch.cat([own, shifts]) / (sessions * pictures) ** 0.5
    basis, variances = strongest(away, count, seed)
    return basis, 1.0 - (1.0 + variances / (config.ridge * variances[-1])) ** -0.5


def strongest(rows: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The strongest right singular vectors (D, count) of rows (M, D), and their squared values.

    By random projection and power steps (Halko, Martinsson and Tropp, SIAM Review, 2011).
    """
    random = torch.Generator().manual_seed(seed)
    start = torch.randn(rows.shape[1], count + OVERSAMPLING, generator=random)
    for _ in range(POWER_STEPS):
        start = torch.linalg.qr(rows.T @ (rows @ start))[0]
    _, values, vectors = torch.linalg.svd(rows @ start, full_matrices=False)
    return (start @ vectors.T)[:, :count], values[:count] ** 2


def strongest_rows(vectors: Tensor, count: int) -> Tensor:
    """Orthonormal rows (count, l) of the largest components of vectors (M, l): uncentred PCA."""
    _, basis = torch.linalg.eigh(vectors.T.double() @ vectors.double())
    rows: Tensor = basis.flip(1)[:, :count].T.float()
    return rows


def whitened(vectors: Tensor, count: int, power: float) -> Tensor:
    """Principal components (count, C) of vectors (M, C), divided by their variance to a power."""
    variances, basis = torch.linalg.eigh(torch.cov(vectors.T.double()))
    variances, basis = variances.flip(0)[:count], basis.flip(1)[:, :count]
    kept = variances.clamp(min=1e-9 * float(variances[0]))
    rows: Tensor = (basis * kept ** -power).T.float()
    return rows
