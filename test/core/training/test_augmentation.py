import pytest
import torch

from regvpr_core.training.augmentation import Augmenter, blend, corner_positions, grey
from regvpr_core.training.config import AugmentationConfig


def pictures(count=6, side=56):
    ramp = torch.linspace(0.1, 0.9, side)
    base = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side),
                        torch.full((side, side), 0.4)])
    base = base + 0.1 * torch.sin(torch.arange(side) * 2.0)
    return base.expand(count, 3, side, side) * torch.linspace(0.6, 1.0, count)[:, None, None, None]


def change(seed=1, **shares):
    config = AugmentationConfig(**({'operations': 0} | shares))
    return Augmenter(config)(pictures(), torch.Generator().manual_seed(seed))


def test_nothing_asked_for_changes_nothing():
    assert torch.equal(change(), pictures())


@pytest.mark.parametrize('kind', ['homography', 'crop', 'blur', 'night', 'rain', 'erase'])
def test_each_change_touches_its_share_of_the_pictures_and_stays_in_range(kind):
    whole = change(**{kind: 1.0})
    assert whole.shape == pictures().shape
    assert whole.min() >= 0.0
    assert whole.max() <= 1.0
    assert all((whole[i] - pictures()[i]).abs().mean() > 1e-3 for i in range(6))
    some = change(**{kind: 0.5})
    same = [torch.equal(some[i], pictures()[i]) for i in range(6)]
    assert 0 < sum(same) < 6


def test_the_seed_alone_decides():
    everything = {'operations': 3} | dict.fromkeys(
        ('homography', 'blur', 'night', 'rain', 'erase'), 0.5)
    assert torch.equal(change(2, **everything), change(2, **everything))
    assert not torch.equal(change(2, **everything), change(3, **everything))


def test_randaugment_of_strength_0_moves_no_pixel_and_keeps_brightness():
    config = AugmentationConfig(operations=4, magnitude=0.0)
    augment = Augmenter(config)
    x = pictures()
    for name in ('brightness', 'colour', 'contrast', 'sharpness'):
        same = augment._light(name, x, torch.ones(6))
        assert (same - x).abs().max() < 1e-5, name
    for name in ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate'):
        assert torch.equal(augment._move(name, torch.ones(2)), torch.eye(3).expand(2, 3, 3))


def test_moves_of_randaugment_have_torchvisions_sizes():
    augment = Augmenter(AugmentationConfig(magnitude=30.0))
    assert augment._move('shear_x', torch.ones(1))[0, 0, 1] == pytest.approx(0.3)
    # Half a picture is 1 in coordinates of -1..1; torchvision moves 150/331 of a side.
    assert augment._move('translate_y', -torch.ones(1))[0, 1, 2] == pytest.approx(-2 * 150 / 331)
    assert augment._move('rotate', torch.ones(1))[0, 0, 0] == pytest.approx(3**0.5 / 2)


def test_a_crop_is_the_enlarged_middle():
    x = pictures(1)
    half = torch.diag(torch.tensor([0.5, 0.5, 1.0]))[None]
    got = Augmenter(AugmentationConfig())._warped(x, half)
    want = torch.nn.functional.interpolate(x[:, :, 14:42, 14:42], (56, 56), mode='bilinear')
    assert (got - want)[:, :, 2:-2, 2:-2].abs().max() < 0.01


def test_contrast_blends_towards_the_mean_grey():
    x = pictures(1)
    mean = grey(x).mean()
    assert torch.allclose(blend(mean, x, torch.zeros(1)), mean.expand_as(x))
    assert torch.allclose(blend(mean, x, torch.ones(1)), x)


def test_night_is_darker_and_rain_is_paler():
    assert change(night=1.0).mean() < 0.6 * pictures().mean()
    assert change(rain=1.0).std() < pictures().std()
    assert corner_positions().shape == (1, 4, 2)
