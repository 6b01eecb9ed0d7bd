import numpy as np
import pytest
import torch

from regvpr_core.errors import ImageError
from regvpr_core.models.transport import sinkhorn


def scaled_by_hand(scores, row_mass, iterations, reg):
    """Sinkhorn in its textbook scaling form, float64: an independent reference."""
    kernel = np.exp(scores / reg)
    v = np.ones(scores.shape[1])
    for _ in range(iterations):
        u = row_mass / (kernel @ v)
        v = 1.0 / (kernel.T @ u)
    return u[:, None] * kernel * v


@pytest.mark.parametrize(('m', 'n'), [(64, 256), (8, 8), (16, 5)])
@pytest.mark.parametrize('reg', [1.0, 0.3])
def test_three_iterations_equal_the_scaling_form_in_float64(m, n, reg):
    scores = np.random.default_rng(m + n).normal(size=(3, m, n))
    plan = sinkhorn(torch.from_numpy(scores).float(), iterations=3, reg=reg).numpy()
    for got, score in zip(plan, scores, strict=True):
        want = scaled_by_hand(score, np.full(m, n / m), 3, reg)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-7)


def test_a_dustbin_equals_the_scaling_form_with_one_more_row():
    scores = np.random.default_rng(1).normal(size=(6, 40))
    plan = sinkhorn(torch.from_numpy(scores)[None], torch.tensor(0.7), iterations=3)[0].numpy()
    with_bin = np.vstack([scores, np.full(40, 0.7)])
    want = scaled_by_hand(with_bin, np.array([1.0] * 6 + [34.0]), 3, 1.0)[:6]
    np.testing.assert_allclose(plan, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('dustbin', [None, 0.5])
@pytest.mark.parametrize('seed', range(3))
def test_the_converged_plan_is_that_of_python_optimal_transport(dustbin, seed):
    ot = pytest.importorskip('ot', reason='POT is not installed')
    m, n, reg = 8, 30, 0.5
    scores = np.random.default_rng(seed).normal(size=(m, n))
    problem, row_mass = scores, np.full(m, n / m)
    if dustbin is not None:
        problem = np.vstack([scores, np.full(n, dustbin)])
        row_mass = np.array([1.0] * m + [n - m])
    want = ot.sinkhorn(row_mass, np.ones(n), -problem, reg, method='sinkhorn_log',
                       stopThr=1e-13, numItermax=20000)[:m]
    got = sinkhorn(torch.from_numpy(scores)[None], None if dustbin is None else
                   torch.tensor(dustbin), iterations=2000, reg=reg)[0].numpy()
    np.testing.assert_allclose(got, want, atol=1e-9)


@pytest.mark.parametrize('n', [256, 529])
def test_every_patch_gives_away_mass_one_after_three_iterations(n):
    scores = torch.randn(2, 64, n, generator=torch.Generator().manual_seed(0))
    plan = sinkhorn(scores)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(2, n), atol=1e-5, rtol=0)
    # vpr.md 1.7(5): rows are 3.85 to 4.02 at n = 256, where they tend to n/m = 4.
    assert (plan.sum(dim=2) - n / 64).abs().max() < 0.05 * n / 64
    assert float(plan.sum() / (2 * n)) == pytest.approx(1.0, abs=1e-5)


def test_with_a_dustbin_clusters_keep_a_quarter_of_a_patch_at_224_pixels():
    scores = torch.randn(2, 64, 256, generator=torch.Generator().manual_seed(0))
    plan = sinkhorn(scores, torch.tensor(1.0), iterations=200)
    torch.testing.assert_close(plan.sum(dim=2), torch.ones(2, 64), atol=1e-4, rtol=0)
    assert float(plan.sum(dim=1).mean()) == pytest.approx(64 / 256, abs=1e-4)
    assert float(plan.sum(dim=1).max()) < 1.0


def test_deleting_the_dustbin_from_unequal_marginals_gives_the_balanced_plan():
    """vpr.md 1.7(5): columns last, so total masses of m and n end in the same plan."""
    scores = np.random.default_rng(3).normal(size=(64, 256))
    unequal = scaled_by_hand(scores, np.ones(64), 3, 1.0)
    plan = sinkhorn(torch.from_numpy(scores)[None])[0].numpy()
    np.testing.assert_allclose(plan, unequal, atol=1e-13)


def test_equal_scores_are_shared_out_evenly():
    plan = sinkhorn(torch.zeros(1, 4, 12))
    torch.testing.assert_close(plan, torch.full((1, 4, 12), 0.25))
    with_bin = sinkhorn(torch.zeros(1, 4, 12), torch.tensor(0.0))
    torch.testing.assert_close(with_bin, torch.full((1, 4, 12), 1 / 12))


def test_half_precision_scores_and_autocast_give_float32_plans():
    scores = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(0)) * 30
    with torch.autocast('cpu', dtype=torch.bfloat16):
        plan = sinkhorn(scores.bfloat16(), torch.tensor(1.0))
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan, sinkhorn(scores.bfloat16().float(), torch.tensor(1.0)))


def test_scores_of_a_thousand_stay_finite():
    scores = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(0)) * 1000
    plan = sinkhorn(scores)
    assert bool(plan.isfinite().all())
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(1, 20), atol=1e-3, rtol=0)


def test_gradients_reach_scores_and_dustbin():
    scores = torch.randn(2, 4, 9, requires_grad=True)
    dustbin = torch.tensor(1.0, requires_grad=True)
    sinkhorn(scores, dustbin).square().sum().backward()
    assert float(scores.grad.abs().sum()) > 0
    assert float(dustbin.grad.abs()) > 0


def test_a_dustbin_needs_more_patches_than_clusters():
    with pytest.raises(ImageError, match='64 patches has none left over for the dustbin of 64'):
        sinkhorn(torch.zeros(1, 64, 64), torch.tensor(1.0))
