"""Slow work beside a real executor."""

import threading
import time

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future

from regvpr_ros.background import Background


@pytest.fixture
def executor():
    context = Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(rclpy.create_node('background', context=context))
    yield executor
    executor.shutdown()
    rclpy.try_shutdown(context=context)


def spin(executor, until, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline
        executor.spin_once(timeout_sec=0.1)


def test_callbacks_run_while_slow_work_is_awaited(executor):
    background, ticks, go = Background(), [], threading.Event()
    node = executor.get_nodes()[0]

    def tick():
        ticks.append(1)
        if len(ticks) == 5:
            go.set()  # the work ends only because the timer ran meanwhile

    node.create_timer(0.02, tick)

    async def call():
        return await background.run(
            Future(executor=executor), executor.wake, lambda: go.wait(10.0))

    task = executor.create_task(call)
    spin(executor, task.done)
    assert task.result() is True
    assert len(ticks) >= 5


def test_what_the_work_raises_comes_out_where_it_is_awaited(executor):
    background, seen = Background(), []

    def work():
        raise OSError(28, 'No space left on device')

    async def call():
        try:
            await background.run(Future(executor=executor), executor.wake, work)
        except OSError as error:
            seen.append(error.errno)

    spin(executor, executor.create_task(call).done)
    assert seen == [28]


def test_works_are_done_one_at_a_time_and_join_waits_for_all(executor):
    background, at_once, most = Background(), [], []

    def work():
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.05)
        at_once.pop()

    async def call():
        await background.run(Future(executor=executor), executor.wake, work)

    tasks = [executor.create_task(call) for _ in range(4)]
    executor.spin_once(timeout_sec=0.1)
    spin(executor, lambda: all(task.done() for task in tasks))
    background.join()
    assert most == [1, 1, 1, 1]
