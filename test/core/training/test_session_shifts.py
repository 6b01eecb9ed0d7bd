"""Looks of whole sessions, and the linear part of a joined head learnt from them."""

from dataclasses import replace

import pytest
import torch

from regvpr_core.errors import TrainingError
from regvpr_core.models.joined_heads import JoinedConfig, JoinedHeads, MapPoolConfig
from regvpr_core.models.register_aggregator import RegisterConfig
from regvpr_core.training.looks import draw_look, KINDS, transferred
from regvpr_core.training.session_shifts import (
    fit_joined,
    joined_rows,
    JoinedFitConfig,
    session_shifts,
    SessionFeatures,
    strongest_rows,
    whitened,
)

SMALL = JoinedConfig(
    registers=RegisterConfig(clusters=4, cluster_dim=16, token_dim=8, hidden_dim=16, heads=2,
                             feedforward_dim=16),
    short_dim=8, shifts=3,
    pools=(MapPoolConfig(map='late', regions=2, channels=10, weight=0.5),))


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('kind', KINDS)
def test_a_look_keeps_shape_and_range_and_is_the_same_again(kind):
    images, other = torch.rand(3, 3, 32, 48, generator=random()), torch.rand(3, 32, 48)
    look = draw_look(random(1), kind)
    seen = look.change(images, other, random(2))
    assert seen.shape == images.shape
    assert 0.0 <= float(seen.min()) <= float(seen.max()) <= 1.0
    assert torch.equal(seen, draw_look(random(1), kind).change(images, other, random(2)))
    assert float((seen - images).abs().mean()) > 0.01


def test_transferred_appearance_has_the_colours_of_the_other_image():
    image = 0.2 + 0.1 * torch.rand(1, 3, 32, 32, generator=random())
    other = 0.8 + 0.1 * torch.rand(3, 32, 32, generator=random(1))
    seen = transferred(image, other, 1.0, 0.1)
    torch.testing.assert_close(seen.mean(dim=(2, 3))[0], other.mean(dim=(1, 2)), atol=0.02, rtol=0)


def test_the_shift_of_a_session_is_found_and_taken_off():
    generator = random()
    places = torch.randn(1, 60, 20, generator=generator)
    shift = torch.zeros(2, 1, 20)
    shift[1, 0, 7] = 5.0
    rows = places + shift + 0.01 * torch.randn(2, 60, 20, generator=generator)
    basis, gain = session_shifts(rows, 2, JoinedFitConfig(ridge=1.0))
    assert float(basis[7, 0].abs()) > 0.999
    torch.testing.assert_close(basis.T @ basis, torch.eye(2), atol=1e-5, rtol=0)
    assert float(gain[0]) > 0.9
    assert float(gain[1]) == pytest.approx(1 - 2**-0.5, abs=1e-5)  # variance equal to the ridge
    without = JoinedFitConfig(of_session=0.0)
    assert float(session_shifts(rows, 2, without)[0][7].abs().max()) < 0.9


def test_shortening_keeps_the_plane_that_vectors_lie_in():
    plane = torch.linalg.qr(torch.randn(6, 2, generator=random()))[0]
    vectors = torch.randn(50, 2, generator=random(1)) @ plane.T
    rows = strongest_rows(vectors, 2)
    torch.testing.assert_close(vectors @ rows.T @ rows, vectors, atol=1e-5, rtol=0)


def test_whitening_by_half_gives_variance_one():
    vectors = torch.randn(4000, 3, generator=random()) * torch.tensor([5.0, 1.0, 0.2])
    out = vectors @ whitened(vectors, 3, 0.5).T
    torch.testing.assert_close(torch.cov(out.T), torch.eye(3), atol=1e-4, rtol=0)
    plain = whitened(vectors, 3, 0.0)
    torch.testing.assert_close(plain @ plain.T, torch.eye(3), atol=1e-5, rtol=0)


def features(seed: int) -> SessionFeatures:
    rows = torch.nn.functional.normalize(torch.randn(12, 72, generator=random(seed)), dim=1)
    late = torch.randn(12, 320, 4, 4, generator=random(seed))
    return SessionFeatures(rows.half(), (late.half(),))


def test_a_fitted_head_is_centred_and_leaves_the_register_head_alone():
    torch.manual_seed(0)
    head = JoinedHeads(24, SMALL)
    before = {key: value.clone() for key, value in head.registers.state_dict().items()}
    sessions = [features(1), features(2)]
    fit_joined(head, sessions, JoinedFitConfig())
    rows = torch.cat([joined_rows(head, session) for session in sessions])
    torch.testing.assert_close(head.centre, rows.mean(dim=0))
    after = head.registers.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert head.shift_basis.shape == (8 + 4 * 8 + 10 * 4, 3)


def test_one_session_cannot_show_how_sessions_differ():
    head = JoinedHeads(24, SMALL)
    with pytest.raises(TrainingError, match='give two or more'):
        fit_joined(head, [features(1)], JoinedFitConfig())
    fit_joined(JoinedHeads(24, replace(SMALL, shifts=0)), [features(1)], JoinedFitConfig())
