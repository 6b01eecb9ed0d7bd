"""A node whose network is slower than its camera, over DDS."""

import array
import sys
import time

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage

from benchmarks.node_latency import make_map


def test_a_node_whose_network_is_slower_than_its_camera_decodes_ahead(
    place_map_of_sleeper, run_program, heard, listener, wait_until,
):
    """A camera of 30 Hz, an encoder that sleeps for 60 ms."""
    process = run_program([sys.executable, '-m', 'benchmarks.node_latency', '--node',
                           str(place_map_of_sleeper), '--kind', 'compressed',
                           '--encoder-ms', '60'])
    publisher = listener.node.create_publisher(CompressedImage, '/image/compressed', 1)
    message = CompressedImage(format='jpeg')
    message.data = array.array('B', cv2.imencode('.jpg', np.zeros((48, 64, 3), np.uint8))[1])

    def decodes() -> bool:
        message.header.stamp.nanosec = int(time.monotonic() * 1e9) % 10**9
        message.header.stamp.sec = int(time.monotonic())
        publisher.publish(message)
        time.sleep(1 / 30)
        return heard.count('decoded ahead') > 3

    assert wait_until(decodes), process.output


@pytest.fixture
def place_map_of_sleeper(tmp_path):
    make_map(tmp_path / 'map')
    return tmp_path / 'map'
