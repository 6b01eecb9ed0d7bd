"""Loads items in threads ahead of their use, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
import itertools
from typing import TypeVar

from regvpr_core.errors import ImageError

Item = TypeVar('Item')
Loaded = TypeVar('Loaded')


def load_ahead(
    items: Iterable[Item], load: Callable[[Item], Loaded], *, threads: int, most: int
) -> Iterator[tuple[Item, Loaded | ImageError]]:
    """Each item with its loaded form, or with the error if it cannot be read.

    Args:
        items: read one by one, in order, as loading proceeds.
        load: called in threads; raises ImageError for an unreadable item.
        threads: number of threads.
        most: largest number of items that are loaded and not used yet.
    """
    waiting: deque[tuple[Item, Future[Loaded]]] = deque()
    rest = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                for item in itertools.islice(rest, most - len(waiting)):
                    waiting.append((item, pool.submit(load, item)))
                if not waiting:
                    return
                item, future = waiting.popleft()
                try:
                    loaded: Loaded | ImageError = future.result()
                except ImageError as error:
                    loaded = error
                yield item, loaded
        finally:
            pool.shutdown(cancel_futures=True)
