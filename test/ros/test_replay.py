"""The replay node against what the bag holds."""

from pathlib import Path

from nav_msgs.msg import Odometry
import pytest
from sensor_msgs.msg import CompressedImage, Image

from regvpr_core.recordings.bags import Bag


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


def test_a_bag_that_is_not_there_is_one_line(start, tmp_path: Path):
    process = start('replay', tmp_path / 'nowhere')
    assert process.wait() == 1
    assert process.output.strip() == f"replay: bag {tmp_path / 'nowhere'} does not exist"
