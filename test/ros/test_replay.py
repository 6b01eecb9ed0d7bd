"""The replay node against what the bag holds."""

from pathlib import Path

from nav_msgs.msg import Odometry
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from regvpr_core.recordings.bags import Bag
from regvpr_ros import replay


@pytest.mark.parametrize(('storage', 'compressed'), [
    ('mcap', False), ('sqlite3', True), ('ros1', False)])
def test_every_message_arrives_as_it_was_recorded(
    make_bag, frames, tmp_path, start, listener, wait_until, storage, compressed,
):
    path = tmp_path / ('drive.bag' if storage == 'ros1' else 'drive')
    make_bag(path, frames(8), storage=storage, compressed=compressed)
    topic = '/camera/image_raw/compressed' if compressed else '/camera/image_raw'
    images = listener.listen(CompressedImage if compressed else Image, topic)
    odometry = listener.listen(Odometry, '/odom')
    process = start('replay', path, '--rate', '20')
    assert process.wait() == 0, process.output
    assert wait_until(lambda: len(images) == 8)
    assert wait_until(lambda: len(odometry) >= 7, 5.0)
    with Bag(path) as bag:
        recorded = [message for _, _, _, message in bag.messages(topic)]
    for sent, heard in zip(recorded, images, strict=True):
        assert heard.header.stamp.sec == sent.header.stamp.sec
        assert heard.header.frame_id == 'camera_optical'
        assert bytes(heard.data) == bytes(sent.data)
    assert [o.pose.pose.position.x for o in odometry][-1] == pytest.approx(7.0)


def test_a_missing_topic_names_those_that_are_there(make_bag, frames, tmp_path, start):
    process = start('replay', make_bag(tmp_path / 'drive', frames(2)), '--topics', '/lidar')
    assert process.wait() == 1
    assert process.output.strip().splitlines() == [
        f"replay: {tmp_path / 'drive'} has no topic '/lidar'; it has: "
        f'/camera/image_raw, /odom, /tf_static']


def test_messages_whose_package_is_not_installed_are_named(make_bag, frames, tmp_path, start):
    pytest.importorskip('rclpy')
    try:
        import tf2_msgs.msg  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip('tf2_msgs is installed here')
    process = start('replay', make_bag(tmp_path / 'drive', frames(2)), '--topics', '/tf_static')
    assert process.wait() == 1
    assert 'messages of tf2_msgs are not installed' in process.output


def test_without_a_subscriber_nothing_is_played_and_the_error_says_what_to_do(
    make_bag, frames, tmp_path, start, listener,
):
    odometry = listener.listen(Odometry, '/odom')  # images are what is waited for
    process = start('replay', make_bag(tmp_path / 'drive', frames(2)), '--wait', '0.5')
    assert process.wait() == 1
    assert ('replay: nobody has subscribed to /camera/image_raw within 0.5 s, so nothing was '
            'played; start the node') in process.output
    assert '--wait 0' in process.output
    assert 'sent' not in process.output
    assert not odometry


def test_wait_0_plays_at_once(make_bag, frames, tmp_path, start):
    process = start('replay', make_bag(tmp_path / 'drive', frames(2)), '--wait', '0',
                    '--rate', '50')
    assert process.wait() == 0
    assert 'sent ' in process.output


def test_the_help_shows_how_long_is_waited(capsys):
    with pytest.raises(SystemExit):
        replay.main(['replay', '--help'])
    assert '(default 120)' in ' '.join(capsys.readouterr().out.split())


def test_static_transforms_are_played_by_default_also_to_those_who_come_late(
    make_bag, frames, tmp_path, listener, wait_until, monkeypatch,
):
    # Another message stands for TFMessage where tf2_msgs is not installed: bytes pass as they are.
    choose = replay._type
    monkeypatch.setattr(replay, '_type', lambda name: Odometry if name == replay.TF_TYPE
                        else choose(name))
    with Bag(make_bag(tmp_path / 'drive', frames(2))) as bag:
        (recorded,) = [raw for _, _, _, raw in bag.serialized('/tf_static')]
        replay.rclpy.init()
        node = replay.Replay(bag, [])
        try:
            assert node.play(bag, 100.0, None) > 3
            heard: list[bytes] = []
            listener.node.create_subscription(
                Odometry, '/tf_static', heard.append,
                QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL), raw=True)
            assert wait_until(lambda: heard, 20.0)
            assert heard == [recorded]
        finally:
            node.destroy_node()
            replay.rclpy.shutdown()


def test_a_bag_that_is_not_there_is_one_line(start, tmp_path: Path):
    process = start('replay', tmp_path / 'nowhere')
    assert process.wait() == 1
    assert process.output.strip() == f"replay: bag {tmp_path / 'nowhere'} does not exist"
