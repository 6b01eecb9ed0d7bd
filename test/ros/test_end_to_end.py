"""From a bag to place matches over DDS: the town, and real images where they are at hand."""

from collections import Counter
from collections.abc import Callable
import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from regvpr_ros.msg import PlaceMatches

from examples.town import LapConfig, Town, TownConfig, write_lap
from regvpr_core.cli import main
from regvpr_core.geometry import pose_matrix
from regvpr_core.images import read
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.recordings.messages import pose_T, stamp_ns
from regvpr_core.recordings.trajectory import read_tum

PLACE_M = 5.0


@pytest.fixture
def weights(encoder: Any) -> Any:
    """The default model's weights are on this machine from here on."""
    return encoder


def build(bag: Path, out: Path, *more: str) -> Path:
    assert main(['map', 'build', str(bag), '--out', str(out), *more]) == 0
    return out


def drive(
    bag: Path, place_map: Path, node: Callable[..., Any], play: Callable[[Path], None], heard: Any,
    wait_until: Callable[..., bool], frames: int, compressed: bool,
) -> None:
    """Play a bag to the node until it has spoken of its last images."""
    process = node(place_map, compressed=compressed)
    assert wait_until(lambda: heard.status), process.output
    play(bag)
    done = ('images processed', 'dropped for newer ones', 'bad images')
    assert wait_until(lambda: sum(map(heard.count, done)) >= heard.count('images received') > 0)
    assert len(heard.matches) >= 0.7 * frames, process.output


@pytest.fixture(scope='module')
def town_map(encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Town, Path]:
    """A town, and a map made of a lap by day."""
    folder, town = tmp_path_factory.mktemp('town'), Town(TownConfig(seed=3))
    day = write_lap(town, LapConfig(condition='day', seed=1, frames=110), folder, name='day')
    return town, build(day.bag, folder / 'map', '--pose-topic', '/ground_truth')


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_dusk_drive_through_the_town_is_localized_on_the_map_of_a_day(
    town_map, tmp_path, node, play, heard, wait_until,
):
    town, place_map = town_map
    dusk = write_lap(town, LapConfig(condition='dusk', seed=2, frames=100, start_m=5.4,
                                     lateral_m=0.3), tmp_path, name='dusk')
    drive(dusk.bag, place_map, node, play, heard, wait_until, 100, True)

    truth = read_tum(dusk.truth)
    localized = [m for m in heard.matches if m.state == PlaceMatches.LOCALIZED]
    errors = []
    for prior in heard.priors:
        T = truth.at(stamp_ns(prior.header.stamp), 1.0)
        errors.append(np.linalg.norm(pose_T(prior.pose.pose)[:3, 3] - T[:3, 3]))
    print(f'town, dusk on day: {len(localized)} of {len(heard.matches)} localized, median error '
          f'{np.median(errors):.2f} m, worst {max(errors):.2f} m')
    assert len(localized) >= 0.35 * len(heard.matches)
    assert np.mean(np.array(errors) < PLACE_M) >= 0.9
    assert np.median(errors) < 1.5


@pytest.mark.full
@pytest.mark.timeout(900)
def test_streets_that_were_never_mapped_give_no_pose(
    town_map, tmp_path, node, play, heard, wait_until,
):
    town, place_map = town_map
    away = write_lap(town, LapConfig(condition='day', seed=2, route='unmapped', frames=70),
                     tmp_path, name='away')
    drive(away.bag, place_map, node, play, heard, wait_until, 70, True)
    print(f'unmapped streets: {len(heard.priors)} poses in {len(heard.matches)} images')
    assert len(heard.priors) <= 0.05 * len(heard.matches)


def test_a_second_lap_through_an_office_finds_the_pictures_of_the_first(
    real_data, make_bag, bag_frame, weights, tmp_path, node, play, heard, wait_until,
):
    folder = real_data('rtabmap_samples')
    loops = cv2.imread(str(folder / 'samples_GT.bmp'), cv2.IMREAD_GRAYSCALE) > 0
    pictures = [read(folder / 'samples' / f'{i}.jpg') for i in range(1, 85)]
    first = next(i for i in range(84) if loops[i, :i].any())  # the second lap starts here
    frames = [bag_frame((1000 + i) * 10**9, rgb, _along(i)) for i, rgb in enumerate(pictures)]
    place_map = build(make_bag(tmp_path / 'one', frames[:first]), tmp_path / 'map')
    second = make_bag(tmp_path / 'two', frames[first:], compressed=True, odometry=False)
    drive(second, place_map, node, play, heard, wait_until, 84 - first, True)

    found, true, accepted, right = 0, 0, 0, 0
    with PlaceMap.open(place_map) as opened:
        of_keyframe = (opened.stamps_ns // 10**9 - 1000).tolist()
    for message in heard.matches:
        i = message.header.stamp.sec - 1000
        if not loops[i, :first].any():
            continue
        true += 1
        by_similarity = max(message.matches, key=lambda m: m.similarity)
        found += bool(loops[i, of_keyframe[by_similarity.reference_id]])
        if message.state == PlaceMatches.LOCALIZED:
            accepted += 1
            right += bool(loops[i, of_keyframe[message.matches[0].reference_id]])
    print(Counter(m.reason.split(':')[0].rstrip('0123456789. ') for m in heard.matches))
    print(f'rtabmap_samples: {found} of {true} first hits right; {right} of {accepted} accepted')
    assert true >= 30
    assert found / true >= 0.85


def test_a_campus_drive_is_localized_between_the_pictures_of_the_map(
    real_data, make_bag, bag_frame, weights, tmp_path, node, play, heard, wait_until,
):
    folder = real_data('rwrc_campus')
    rows = list(csv.reader((folder / 'data.csv').open()))
    frames = [
        bag_frame((1000 + i) * 10**9, read(folder / name),
                  pose_matrix([float(x), float(y), 0.0],
                              [0.0, 0.0, np.sin(float(yaw) / 2), np.cos(float(yaw) / 2)]))
        for i, (name, x, y, yaw) in enumerate(rows)]
    place_map = build(make_bag(tmp_path / 'even', frames[::2], storage='sqlite3'),
                      tmp_path / 'map')
    odd = make_bag(tmp_path / 'odd.bag', frames[1::2], storage='ros1')
    drive(odd, place_map, node, play, heard, wait_until, 36, False)

    truth = {frame.stamp_ns // 10**9: frame.T_map_base for frame in frames}
    best = [max(m.matches, key=lambda match: match.similarity) for m in heard.matches]
    errors = np.array([
        np.linalg.norm(pose_T(b.reference_pose)[:2, 3] - truth[b.header.stamp.sec][:2, 3])
        for b in best])
    priors = np.array([
        np.linalg.norm(pose_T(p.pose.pose)[:2, 3] - truth[p.header.stamp.sec][:2, 3])
        for p in heard.priors])
    print(f'rwrc_campus: first hit within 5 m for {np.mean(errors < 5):.2f}; {len(priors)} of '
          f'{len(best)} localized, within 5 m {np.mean(priors < 5):.2f}')
    assert np.mean(errors < 5.0) >= 0.75
    assert len(priors) >= 0.25 * len(best)
    assert np.mean(priors < PLACE_M) >= 0.9


def test_regvpr_map_info_tells_what_was_built(make_bag, frames, small_model, tmp_path, capsys):
    place_map = build(make_bag(tmp_path / 'bag', frames(6)), tmp_path / 'map', '--model',
                      str(small_model))
    capsys.readouterr()
    assert main(['map', 'info', str(place_map), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['keyframes'] == 6
    assert facts['path_m'] == 5.0
    assert facts['cameras'] == ['camera']


def _along(i: int) -> np.ndarray:
    """The images have no poses: one metre apart along a line."""
    T = np.eye(4)
    T[0, 3] = float(i)
    return T
