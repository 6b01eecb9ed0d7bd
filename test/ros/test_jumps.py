"""A drive whose images jump while its odometry goes on: what is published, held and counted."""

from dataclasses import replace
import os
from pathlib import Path

from geometry_msgs.msg import TransformStamped
import numpy as np
import pytest
from std_srvs.srv import Trigger

TF2_ROS = """
from geometry_msgs.msg import TransformStamped

class TransformException(Exception): pass

class Buffer:
    def lookup_transform(self, *frames): raise TransformException()

class TransformListener:
    def __init__(self, buffer, node): pass
    def unregister(self): pass

class TransformBroadcaster:
    def __init__(self, node): self.sender = node.create_publisher(TransformStamped, '/tf_sent', 10)
    def sendTransform(self, transform): self.sender.publish(transform)
"""
"""Stands for tf2_ros, which no package registry has: what is broadcast goes to /tf_sent."""


@pytest.fixture
def transforms(tmp_path: Path, monkeypatch, listener) -> list[TransformStamped]:
    """What the node broadcasts."""
    (tmp_path / 'tf' / 'tf2_ros.py').parent.mkdir()
    (tmp_path / 'tf' / 'tf2_ros.py').write_text(TF2_ROS)
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path / "tf"}{os.pathsep}{os.environ["PYTHONPATH"]}')
    return listener.listen(TransformStamped, '/tf_sent')


def at(frames, metres):
    """These images, in order, where odometry is at these metres; a second a frame."""
    def pose(x: float) -> np.ndarray:
        T = frames[0].T_map_base.copy()
        T[0, 3] = x
        return T

    return [replace(frame, stamp_ns=(1000 + int(x)) * 10**9, T_map_base=pose(float(x)))
            for frame, x in zip(frames, metres, strict=True)]


def test_map_to_odom_is_held_while_lost_and_a_jump_is_counted_until_it_persists(
    made, frames, make_bag, small_model, tmp_path, node, play, heard, listener, wait_until,
    transforms,
):
    whole, elsewhere = frames(30), frames(10, seed=9)
    process = node(made(30)[1], '-p', f'model:={small_model}', '-p', 'broadcast_tf:=true',
                   '-p', 'jump_fixes:=3', '-p', 'odom_frame:=odom')  # the bags say map

    def sent() -> list[tuple[str, str, float]]:
        return [(one.header.frame_id, one.child_frame_id, one.transform.translation.x)
                for one in list(transforms)]

    # 1. On the way from 12 m on: odometry began there, so map to odom is near 12 m.
    play(make_bag(tmp_path / 'on', at(whole[12:24], range(12))))
    assert heard.priors, process.output
    assert wait_until(sent), process.output
    assert {names[:2] for names in sent()} == {('map', 'odom')}
    held = sent()[-1][2]
    assert held == pytest.approx(12.0, abs=1.5)

    # 2. Images of nowhere: no fix, and the transform is sent again and again as it was.
    play(make_bag(tmp_path / 'off', at(elsewhere, range(12, 22))))
    assert heard.matches[-1].state != heard.matches[-1].LOCALIZED
    fixes, last = len(heard.priors), sent()[-1][2]
    transforms.clear()
    assert wait_until(lambda: len(transforms) >= 5), process.output
    assert {x for *_, x in sent()} == {last}
    assert len(heard.priors) == fixes

    # 3. Carried to the start of the way: odometry says 34 m, the images 0 m.
    before = len(heard.matches)  # images of nowhere may have been gated as well
    play(make_bag(tmp_path / 'away', at(whole[:16], range(22, 38))))
    codes = [message.reason_code for message in heard.matches]
    assert codes[before:].count('jump_gated') == 2, codes  # the third fix in a row is let through
    assert wait_until(lambda: heard.count('jump gated') == codes.count('jump_gated')), \
        process.output
    after = [prior.pose.pose.position.x for prior in heard.priors[fixes:]]
    assert after, codes
    assert all(0.0 <= x <= 16.0 for x in after)
    assert wait_until(lambda: abs(sent()[-1][2] + 22.0) < 1.5), sent()[-1]

    # 4. After a reset nothing is broadcast: where odometry begins in the map is not known.
    assert listener.call(Trigger, '/regvpr/reset', Trigger.Request()).success
    transforms.clear()
    stamp = heard.diagnostics[-1].header.stamp
    assert wait_until(lambda: heard.diagnostics[-1].header.stamp.sec > stamp.sec + 1)
    assert len(transforms) <= 1  # one may have been under way
