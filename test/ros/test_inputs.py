"""Subscriptions whose messages a thread of its own takes, beside an executor."""

import time

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed (make test installs it)')

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.timer import Timer
from sensor_msgs.msg import Image

from regvpr_ros import interfaces
from regvpr_ros.inputs import Inputs
from regvpr_ros.receiver import NotExecuted


class CountingExecutor(SingleThreadedExecutor):
    """Counts how often a timer of a node is offered to it, which is once a turn."""

    turns = 0

    def can_execute(self, entity):
        self.turns += isinstance(entity, Timer)
        return super().can_execute(entity)


def test_an_image_that_waits_to_be_taken_does_not_turn_the_executor():
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node('inputs', context=context)
    try:
        node.create_timer(1000.0, lambda: None)
        inputs = object.__new__(Inputs)  # without the thread that takes the messages
        inputs._node, inputs._group = node, NotExecuted()
        inputs._subscriptions, inputs._silent = [], {}
        inputs._listen(interfaces.IMAGE, lambda raw: None)
        publisher = node.create_publisher(Image, 'image', 1)
        executor = CountingExecutor(context=context)
        executor.add_node(node)
        taken = None
        while taken is None:
            publisher.publish(Image())
            executor.spin_once(timeout_sec=0.0)
            taken = inputs._subscriptions[0].handle.take_message(Image, True)
        publisher.publish(Image())
        executor.turns = 0
        executor.spin_once(timeout_sec=0.5)
        assert executor.turns <= 2
        end = time.monotonic() + 20.0
        while inputs._subscriptions[0].handle.take_message(Image, True) is None:
            assert time.monotonic() < end
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
