"""What sessions of the same places differ by, learnt in closed form from their descriptors.

Pictures are described as they are and in several looks (training/looks.py). What one look does to
all of them is a shift of the session; what it does to each of them beyond that is spread about the
place. Directions that hold much of both count for less: x - U diag(g) U^T x, with
g = 1 - (1 + v / ridge)^-1/2 for the variance v along each. It is within-class whitening (Mikolajczyk
and Matas, Improving descriptors for fast tree matching by optimal linear projection, ICCV 2007) of the largest
directions alone: all others, also those that the few places at hand never show, stay as they are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Float32 = npt.NDArray[np.float32]

OVERSAMPLING = 32
POWER_STEPS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Shifts:
    """centre: (D,). basis: (D, k), orthonormal columns. gain: (k,), 0 (kept) to 1 (removed)."""

    centre: Float32
    basis: Float32
    gain: Float32


def session_shifts(
    rows: Float32, count: int, *, of_session: float = 1.0, ridge: float = 1.0, seed: int = 0
) -> Shifts:
    """Learn from descriptors of the same pictures in several sessions.

    Args:
        rows: (S, N, D) picture n in session s, not centred.
        count: k, directions that count for less.
        of_session: weight of the sessions' shifts beside the spread of single pictures.
        ridge: in units of the smallest variance kept; a large one changes little.
        seed: of the random start of the decomposition.
    """
    sessions, pictures, _ = rows.shape
    means = rows.mean(axis=1)  # (S, D)
    centre = means.mean(axis=0)
    own = rows - means[:, None]
    own = (own - own.mean(axis=0)).reshape(sessions * pictures, -1)
    shifts = (means - centre) * np.sqrt(of_session * pictures)
    away = np.concatenate([own, shifts]) / np.sqrt(sessions * pictures)
    basis, variances = strongest(torch.from_numpy(away.astype(np.float32)), count, seed)
    gain = 1.0 - (1.0 + variances / (ridge * variances[-1])) ** -0.5
    return Shifts(centre.astype(np.float32), basis, gain.astype(np.float32))


def strongest(rows: torch.Tensor, count: int, seed: int) -> tuple[Float32, Float32]:
    """The strongest right singular vectors (D, count) of rows (M, D), and their squared values.

    By random projection and power steps (Halko, Martinsson and Tropp, 2011).
    """
    random = torch.Generator().manual_seed(seed)
    start = torch.randn(rows.shape[1], count + OVERSAMPLING, generator=random)
    for _ in range(POWER_STEPS):
        start = torch.linalg.qr(rows.T @ (rows @ start))[0]
    _, values, vectors = torch.linalg.svd(rows @ start, full_matrices=False)
    basis = (start @ vectors.T)[:, :count]
    return basis.numpy(), (values[:count] ** 2).numpy()


def short_basis(clusters: Float32, count: int) -> Float32:
    """Rows (count, l) that keep most of cluster vectors (M, l), orthonormal: PCA, not centred."""
    _, vectors = np.linalg.eigh(clusters.T.astype(np.float64) @ clusters)
    return np.ascontiguousarray(vectors[:, ::-1][:, :count].T, dtype=np.float32)
