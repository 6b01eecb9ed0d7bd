import threading
import time

from regvpr_core.live.turn import Turn


def test_a_busy_holder_cannot_take_the_turn_again_before_one_who_waits():
    turn, order, stop = Turn(), [], threading.Event()

    def busy():
        while not stop.is_set():
            with turn:
                order.append('busy')
                time.sleep(0.01)

    worker = threading.Thread(target=busy)
    worker.start()
    time.sleep(0.05)
    waits = []
    for _ in range(20):
        before = len(order)
        with turn:
            waits.append(len(order) - before)
    stop.set()
    worker.join()
    assert max(waits) <= 2
