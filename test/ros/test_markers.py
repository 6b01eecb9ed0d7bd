import cv2
import numpy as np
import pytest

pytest.importorskip('visualization_msgs', reason='ROS 2 is not installed (make test installs it)')

from builtin_interfaces.msg import Time
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from regvpr_ros import markers
from regvpr_ros.debug_image import BAR, debug_image, HEIGHT

STAMP = Time(sec=5)


def xyz(points) -> np.ndarray:
    return np.array([[p.x, p.y, p.z] for p in points])


def test_a_map_is_drawn_as_its_keyframes_and_a_large_one_is_thinned():
    positions = np.random.default_rng(0).normal(size=(300, 3))
    marker = markers.keyframes(positions, 'map', STAMP)
    assert np.array_equal(xyz(marker.points), positions)
    assert (marker.header.frame_id, marker.header.stamp) == ('map', STAMP)
    assert marker.pose.orientation.w == 1.0
    large = markers.keyframes(np.zeros((50_001, 3)), 'map', STAMP)
    assert 10_000 < len(large.points) <= markers.MOST_POINTS


def test_belief_is_the_more_solid_the_more_likely_and_vanishes_when_there_is_none():
    marker = markers.belief(np.eye(3)[:2], np.array([0.9, 0.01]), 'map', STAMP)
    assert [round(c.a, 2) for c in marker.colors] == [0.9, 0.05]
    assert marker.action == Marker.ADD
    assert markers.belief(np.zeros((0, 3)), np.zeros(0), 'map', STAMP).action == Marker.DELETE


def test_accepted_matches_and_loops_are_told_apart():
    marker = markers.matches(np.eye(3)[:2], [True, False], 'map', STAMP)
    assert marker.colors[0] != marker.colors[1]
    edges = np.arange(12.0).reshape(2, 2, 3)
    line = markers.loops(edges, 'odom', STAMP)
    assert line.type == Marker.LINE_LIST
    assert np.array_equal(xyz(line.points), edges.reshape(4, 3))
    names = [m.ns for m in markers.array(marker, line).markers]
    assert names == ['matches', 'loops']


def test_the_state_is_written_above_the_best_match():
    text = markers.state('lost: best place has 0.40', np.array([1.0, 2.0, 0.5]), 'map', STAMP)
    assert (text.ns, text.type) == ('state', Marker.TEXT_VIEW_FACING)
    assert text.text == 'lost: best place has 0.40'
    at = text.pose.position
    assert (at.x, at.y, at.z) == (1.0, 2.0, 3.5)


@pytest.mark.parametrize('size', [(480, 640), (1080, 1920), (20, 3000), (500, 60)])
def test_the_debug_image_shows_the_query_beside_its_match(size):
    query = np.full((*size, 3), (255, 0, 0), dtype=np.uint8)
    match = np.full((120, 160, 3), (0, 0, 255), dtype=np.uint8)
    message = debug_image(query, match, 'localized', True, Header(frame_id='cam', stamp=STAMP))
    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert message.format == 'jpeg'
    assert message.header.frame_id == 'cam'
    assert picture.shape[0] == HEIGHT + BAR
    assert picture[BAR + HEIGHT // 2, 5].tolist() == pytest.approx([255, 0, 0], abs=12)
    assert picture[BAR + HEIGHT // 2, -20].tolist() == pytest.approx([0, 0, 255], abs=12)
    assert picture[BAR + 1, 1].tolist() == pytest.approx([0, 200, 120], abs=60)


def test_without_a_match_the_right_side_is_black():
    message = debug_image(np.full((48, 64, 3), 200, np.uint8), None, 'lost', False, Header())
    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture[BAR + 5:, picture.shape[1] // 2 + 8:].max() <= 4
