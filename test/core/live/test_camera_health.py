import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from regvpr_core.live.camera_health import CameraHealth
from regvpr_core.live.lost_stretch import LostStretch
from regvpr_core.verification.camera_rays import Intrinsics


class Thumbnails:
    """A map of 60 thumbnails, for what is read of it here."""

    def __init__(self, images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def thumbnail(self, number: int):
        return self._images[number]


def scenes(count: int, seed: int = 0, level: float = 120.0, contrast: float = 40.0):
    rng = np.random.default_rng(seed)
    blocks = rng.normal(level, contrast, (count, 12, 16, 1)).clip(0, 255)
    return np.repeat(blocks.repeat(10, 1).repeat(10, 2), 3, 3).astype(np.uint8)


def at(x: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    return T


def after(images, of_map=None, step_m: float = 1.0) -> list[str]:
    health = CameraHealth(of_map or Thumbnails(scenes(60)))
    for i, image in enumerate(images):
        health.look(image, at(step_m * i))
    return [note.code for note in health.notes]


def test_images_like_those_of_the_map_are_well():
    assert after(scenes(60, seed=1)) == []
    assert after(scenes(60, seed=2, level=140.0, contrast=30.0)) == []


@pytest.mark.parametrize(('level', 'contrast', 'code'), [
    (25.0, 10.0, 'too_dark'), (240.0, 10.0, 'too_bright'), (120.0, 2.0, 'low_contrast')])
def test_exposure_and_contrast_far_from_the_maps_are_told_with_what_to_do(level, contrast, code):
    health = CameraHealth(Thumbnails(scenes(60)))
    for i, image in enumerate(scenes(40, 1, level, contrast)):
        health.look(image, at(float(i)))
    assert [note.code for note in health.notes] == [code]
    assert 'check exposure' in health.notes[0].text or 'clean the lens' in health.notes[0].text


@pytest.mark.parametrize(('share', 'blocked'), [(0.2, False), (0.6, True)])
def test_a_stuck_share_of_the_image_is_told_while_the_robot_drives(share, blocked):
    images = scenes(60, seed=3)
    images[:, : int(share * images.shape[1])] = 90
    assert (after(images) == ['view_blocked']) is blocked


def test_a_robot_that_stands_still_is_not_blamed_for_a_view_that_does_not_change():
    images = np.repeat(scenes(1, seed=4), 60, axis=0)
    assert after(images, step_m=0.0) == []


def test_a_frozen_camera_is_told_of():
    assert after(np.repeat(scenes(1, seed=5), 60, axis=0)) == ['view_blocked']


def test_a_map_without_thumbnails_judges_no_exposure():
    assert after(scenes(40, 1, 10.0, 3.0), Thumbnails([None] * 10)) == []


def test_another_field_of_view_is_told_in_degrees():
    def camera(f: float) -> Intrinsics:
        return Intrinsics(width=640, height=480,
                          K=np.array([[f, 0, 320], [0, f, 240], [0, 0, 1.0]]))

    health = CameraHealth(None)
    assert health.field_of_view(camera(320.0), camera(330.0)) is None
    note = health.field_of_view(camera(320.0), camera(640.0))
    assert note.code == 'field_of_view'
    assert '90 deg' in note.text
    assert '53 deg' in note.text


DATA = Path(__file__).resolve().parents[3].parent / 'shared' / 'data'


def real(folder: str, sequence: str, count: int) -> list[np.ndarray]:
    """Images of a real drive, spread over it."""
    if not (DATA / folder / 'data.csv').is_file():
        pytest.skip(f'../shared/data/{folder} is not there')
    with (DATA / folder / 'data.csv').open(encoding='utf-8') as file:
        names = [row['image'] for row in csv.DictReader(file) if row['sequence'] == sequence]
    chosen = np.linspace(0, len(names) - 1, count).astype(int)
    return [cv2.imread(str(DATA / folder / names[i]))[..., ::-1] for i in chosen]


@pytest.mark.parametrize(('folder', 'of_map', 'driven'), [
    ('campus_track', 'd25_lap1', 'd24_lap1'), ('campus_track', 'd25_lap1', 'd27_dusk1'),
    ('campus_track', 'd25_lap1', 'd27_dusk2'), ('corridor_changes', 'run1', 'run2')])
def test_a_real_drive_at_another_hour_raises_no_alarm(folder, of_map, driven):
    health = CameraHealth(Thumbnails(real(folder, of_map, 48)))
    for i, image in enumerate(real(folder, driven, 120)):
        assert health.look(image, at(float(i))) == ()


def covered(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    image[:, : image.shape[1] // 2] = 20
    return image


@pytest.mark.parametrize(('folder', 'of_map', 'driven'), [
    ('campus_track', 'd25_lap1', 'd24_lap1'), ('corridor_changes', 'run1', 'run2')])
@pytest.mark.parametrize(('change', 'code'), [
    (lambda image: (0.15 * image).astype(np.uint8), 'too_dark'),
    (lambda image: np.clip(3.0 * image + 60.0, 0, 255).astype(np.uint8), 'too_bright'),
    (lambda image: (0.12 * image + 130.0).astype(np.uint8), 'low_contrast'),
    (covered, 'view_blocked')], ids=['dark', 'overexposed', 'fog', 'half covered'])
def test_real_images_that_are_altered_raise_the_one_alarm_that_fits(
    folder, of_map, driven, change, code,
):
    health = CameraHealth(Thumbnails(real(folder, of_map, 48)))
    for i, image in enumerate(real(folder, driven, 60)):
        health.look(change(image), at(float(i)))
    assert [note.code for note in health.notes] == [code]


def test_a_real_drive_at_dusk_in_haze_is_not_told_of_as_a_blocked_view():
    health = CameraHealth(Thumbnails(real('campus_track', 'd25_lap1', 48)))
    said = {note.code for i, image in enumerate(real('campus_track', 'd27_dusk2', 120))
            for note in health.look((0.3 * image + 119.0).astype(np.uint8), at(float(i)))}
    assert said <= {'low_contrast'}


def test_a_stretch_lost_along_known_places_is_told_and_a_fix_ends_it():
    positions = np.stack([np.arange(100.0), np.zeros(100), np.zeros(100)], axis=1)
    lost = LostStretch()
    lost.see(None, at(0.0), positions, 3.0)  # never had a fix: nothing is known
    lost.see(at(5.0), at(0.0), positions, 3.0)
    for x in range(1, 29):
        lost.see(None, at(float(x)), positions, 3.0)
    assert lost.metres == 28.0
    assert lost.note == ''
    for x in range(29, 40):
        lost.see(None, at(float(x)), positions, 3.0)
    assert 'lost for 39 m along places that the map holds' in lost.note
    lost.see(at(44.0), at(39.0), positions, 3.0)
    assert lost.note == ''


def test_beside_the_map_or_far_from_the_last_fix_no_stretch_is_counted():
    positions = np.zeros((1, 3))
    lost = LostStretch()
    lost.see(at(50.0), at(0.0), positions, 3.0)
    for x in range(1, 60):
        lost.see(None, at(float(x)), positions, 3.0)
    assert lost.metres == 0.0
    line = np.stack([np.arange(1000.0), np.zeros(1000), np.zeros(1000)], axis=1)
    lost.see(at(0.0), at(0.0), line, 3.0)
    for x in range(1, 400):
        lost.see(None, at(float(x)), line, 3.0)
    assert lost.metres == 200.0
