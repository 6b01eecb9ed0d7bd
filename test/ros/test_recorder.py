"""Live topics become a bag that a map can be built from."""

import threading
import time

from nav_msgs.msg import Odometry
import numpy as np
import pytest
import rclpy
from sensor_msgs.msg import CompressedImage

from regvpr_core.errors import BagError
from regvpr_core.images import encode_jpeg
from regvpr_core.recordings.bags import Bag
from regvpr_ros.recorder import record


@pytest.fixture
def camera():
    """A camera and odometry at 20 Hz, while the test lasts."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('camera', context=context)
    images = node.create_publisher(CompressedImage, '/cam/compressed', 10)
    poses = node.create_publisher(Odometry, '/odom', 10)
    stopped = threading.Event()
    jpeg = encode_jpeg(np.zeros((8, 8, 3), dtype=np.uint8), 90)

    def run() -> None:
        while not stopped.wait(0.05):
            images.publish(CompressedImage(format='jpeg', data=jpeg))
            poses.publish(Odometry())

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stopped.set()
    thread.join()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_images_and_poses_on_the_air_are_in_the_bag(camera, tmp_path):
    told = []
    path = record(tmp_path / 'drive', '/cam/compressed', '/odom', 2.0,
                  lambda done, total: told.append((done, total)))
    with Bag(path) as bag:
        counts = {topic.name: topic.count for topic in bag.topics()}
        assert counts['/cam/compressed'] >= 5
        assert counts['/odom'] >= 5
        assert sum(1 for _ in bag.messages('/odom')) == counts['/odom']
    assert told[-1][1] == 2


def test_a_topic_that_nobody_publishes_is_named_with_the_published_ones(camera, tmp_path):
    time.sleep(0.5)
    with pytest.raises(BagError) as error:
        record(tmp_path / 'drive', '/cam/typo', '/odom', 0.2)
    assert 'nobody publishes /cam/typo; published image topics: /cam/compressed' in \
        str(error.value)
