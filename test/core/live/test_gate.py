import pytest

from regvpr_core.geometry import pose_matrix
from regvpr_core.live.gate import Gate

S = 1_000_000_000


def at(x: float, yaw_q: tuple[float, float] = (0.0, 1.0)):
    return pose_matrix([x, 0, 0], [0, 0, *yaw_q])


def admitted(gate: Gate, *images: tuple[float, float]) -> list[float]:
    """Stamps (s) of those (stamp, x) that the gate lets through."""
    return [stamp for stamp, x in images if gate.admits('front', int(stamp * S), at(x))]


def test_a_gate_without_limits_admits_every_image():
    assert admitted(Gate(0.0, 0.0, False), (1, 0), (1.03, 0), (1.06, 0)) == [1, 1.03, 1.06]


def test_by_time_an_image_waits_for_the_interval_since_the_last_admitted_one():
    gate = Gate(0.5, 0.0, False)
    assert admitted(gate, (1, 0), (1.4, 0), (1.5, 0), (1.9, 0), (2.1, 0)) == [1, 1.5, 2.1]


def test_by_distance_a_robot_that_stands_is_not_looked_at_again_but_a_turn_is():
    gate = Gate(0.0, 1.0, False)
    assert admitted(gate, (1, 0), (2, 0.5), (3, 0.99), (4, 1.01), (5, 1.5)) == [1, 4]
    assert gate.admits('front', 6 * S, at(1.5, (0.3, 0.954)))


def test_without_odometry_only_time_counts():
    gate = Gate(0.0, 5.0, False)
    assert gate.admits('front', S, None)
    assert gate.admits('front', 2 * S, None)


def test_cameras_are_counted_apart():
    gate = Gate(1.0, 0.0, False)
    assert gate.admits('front', S, None)
    assert gate.admits('rear', S, None)
    assert not gate.admits('front', S + S // 2, None)


def test_on_request_images_pass_only_between_the_question_and_its_answer():
    gate = Gate(0.0, 0.0, True)
    assert not gate.admits('front', S, None)
    gate.ask()
    assert gate.admits('front', 2 * S, None)
    assert gate.admits('front', 3 * S, None)
    gate.ask(False)
    assert not gate.admits('front', 4 * S, None)


def test_a_question_opens_a_gate_that_waits_for_distance():
    gate = Gate(0.0, 10.0, False)
    assert gate.admits('front', S, at(0))
    assert not gate.admits('front', 2 * S, at(0))
    gate.ask()
    assert gate.admits('front', 3 * S, at(0))


def test_time_that_jumps_back_opens_the_gate():
    gate = Gate(10.0, 0.0, False)
    assert gate.admits('front', 100 * S, None)
    assert gate.admits('front', 50 * S, None)


@pytest.mark.parametrize('reset', [True, False])
def test_a_reset_forgets_the_last_image_and_settings_change_at_once(reset):
    gate = Gate(10.0, 0.0, False)
    gate.admits('front', S, None)
    gate.reset() if reset else gate.change(0.0, 0.0, False)
    assert gate.admits('front', 2 * S, None)
