import cv2
import numpy as np
import pytest

from regvpr_core.errors import ConfigError, MapError
from regvpr_core.images import read
from regvpr_core.mapping.frame_quality import measure, QualityConfig, QualityGate


def why(rgb, config: QualityConfig | None = None) -> str:
    return QualityGate(config or QualityConfig()).refuses('front', measure(rgb))


def test_real_photos_pass_and_their_blurred_forms_do_not(real_data):
    files = sorted((real_data('boofcv_scenes') / 'vacation').glob('*.jpg'))[:24]
    photos = [read(file) for file in files]
    assert [why(photo) for photo in photos] == [''] * 24
    side = max(photos[0].shape[:2])
    soft = [cv2.GaussianBlur(photo, (0, 0), side / 320 * 4) for photo in photos]
    assert [why(photo) for photo in soft] == ['blurred'] * 24
    smear = np.ones((1, round(side / 320 * 20))) / round(side / 320 * 20)
    moved = [cv2.filter2D(photo, -1, smear) for photo in photos]
    assert sum(why(photo) == 'blurred' for photo in moved) >= 12


def test_campus_and_street_pass(real_data):
    for folder, pattern in (('rwrc_campus', '*.png'), ('opensfm_lund', 'images/*.jpg')):
        files = sorted(real_data(folder).glob(pattern))
        assert {why(read(file)) for file in files} == {''}


@pytest.mark.parametrize(('level', 'reason'), [(0, 'too dark'), (10, 'too dark'),
                                               (250, 'overexposed'), (128, 'blurred')])
def test_flat_pictures_are_told_apart(level, reason):
    assert why(np.full((120, 160, 3), level, np.uint8)) == reason


def test_a_night_with_lamps_is_kept(noise):
    rgb = np.zeros((120, 160, 3), np.uint8)
    rgb[::8, ::8] = 255
    rgb[20:40, 20:90] = noise(1)[0][20:40, 20:90]
    assert why(rgb) == ''


def test_the_same_picture_again_is_told_and_another_cameras_is_not(noise):
    first, second = noise(2)
    gate = QualityGate(QualityConfig())
    gate.keep('front', measure(first))
    grain = np.random.default_rng(0).normal(0, 3, first.shape)
    again = np.clip(first + grain, 0, 255).astype(np.uint8)
    reason = 'the same image as the last keyframe'
    assert gate.refuses('front', measure(first)) == reason
    assert gate.refuses('front', measure(again)) == reason
    assert gate.refuses('front', measure(second)) == ''
    assert gate.refuses('rear', measure(first)) == ''


def test_sizes_make_little_difference(noise):
    big = cv2.resize(noise(1)[0], (1920, 1440), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(big, (320, 240), interpolation=cv2.INTER_AREA)
    a, b = measure(big), measure(small)
    assert a.sharpness == pytest.approx(b.sharpness, rel=0.02)
    assert np.abs(a.signature.astype(int) - b.signature).max() <= 1
    for shape in ((1, 1, 3), (1, 4000, 3), (4000, 1, 3)):
        assert measure(np.zeros(shape, np.uint8)).black == 1.0


def test_tests_can_be_switched_off():
    off = QualityConfig(sharpness=0.0, black_share=1.0, white_share=1.0, change=0.0)
    gate = QualityGate(off)
    black = measure(np.zeros((9, 9, 3), np.uint8))
    gate.keep('front', black)
    assert gate.refuses('front', black) == ''


def test_what_the_gate_remembers_survives_json(noise):
    import json
    gate = QualityGate(QualityConfig())
    gate.keep('front', measure(noise(1)[0]))
    other = QualityGate(QualityConfig())
    other.restore(json.loads(json.dumps(gate.state())))
    assert other.refuses('front', measure(noise(1)[0])) != ''
    with pytest.raises(MapError, match='damaged'):
        other.restore({'front': 'AAAA'})


@pytest.mark.parametrize('settings', [{'sharpness': -1.0}, {'black_share': 1.5},
                                      {'white_share': -0.1}, {'change': 300.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=f'quality.{next(iter(settings))} is'):
        QualityConfig(**settings)
