import numpy as np
import pytest

from regvpr_core.errors import ConfigError
from regvpr_core.localization.appearance import Appearance, AppearanceConfig

START = np.array([1.0, 0.0, 0.0], dtype=np.float32)


def test_the_mean_begins_at_the_maps_and_becomes_that_of_the_session():
    rng = np.random.default_rng(0)
    rows = rng.normal([5.0, 2.0, 1.0], 1.0, (200, 3)).astype(np.float32)
    appearance = Appearance(START, AppearanceConfig(prior_images=4.0, memory_images=1e6))
    np.testing.assert_array_equal(appearance.mean, START)
    for n, row in enumerate(rows, start=1):
        appearance.update(row)
        want = (4.0 * START + rows[:n].sum(axis=0)) / (4.0 + n)
        np.testing.assert_allclose(appearance.mean, want, rtol=1e-4)


def test_the_order_of_few_images_does_not_matter():
    rows = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    means = []
    for order in (rows, rows[::-1]):
        appearance = Appearance(START, AppearanceConfig())
        for row in order:
            appearance.update(row)
        means.append(appearance.mean)
    np.testing.assert_allclose(means[0], means[1], atol=1e-6)


def test_later_dusk_is_followed_with_the_memory_of_so_many_images():
    appearance = Appearance(START, AppearanceConfig(prior_images=1.0, memory_images=10.0))
    dusk = np.array([0.0, 1.0, 0.0], dtype=np.float32)
    for _ in range(9):
        appearance.update(START)
    for n in range(1, 30):
        appearance.update(dusk)
        np.testing.assert_allclose(appearance.mean, 0.9**n * START + (1 - 0.9**n) * dusk,
                                   atol=1e-5)


def test_a_large_prior_keeps_the_maps_mean_and_a_reset_goes_back_to_it():
    appearance = Appearance(START, AppearanceConfig(prior_images=1e6, memory_images=1e6))
    appearance.update(np.array([0.0, 9.0, 0.0], dtype=np.float32))
    np.testing.assert_allclose(appearance.mean, START, atol=1e-4)
    appearance = Appearance(START, AppearanceConfig())
    for _ in range(200):
        appearance.update(-START)
    assert appearance.mean[0] < -0.5
    appearance.reset()
    np.testing.assert_array_equal(appearance.mean, [1.0, 0.0, 0.0])
    appearance.update(START)
    np.testing.assert_array_equal(appearance.mean, START)


def test_a_robot_that_creeps_does_not_make_its_place_the_mean():
    creeping, driving = (Appearance(START, AppearanceConfig()) for _ in range(2))
    for _ in range(60):
        creeping.update(-START, 0.05)
    for _ in range(3):
        driving.update(-START)
    # Sixty images of which a twentieth is new weigh as three that are all new.
    np.testing.assert_allclose(creeping.mean, driving.mean, atol=5e-3)
    assert creeping.mean[0] > 0.8


def test_the_maps_own_mean_is_not_changed():
    of_map = START.copy()
    Appearance(of_map, AppearanceConfig()).update(-START)
    np.testing.assert_array_equal(of_map, START)


@pytest.mark.parametrize('settings', [{'prior_images': 0.0}, {'memory_images': 0.5},
                                      {'prior_images': float('nan')}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=f'appearance.{next(iter(settings))} is'):
        AppearanceConfig(**settings)
