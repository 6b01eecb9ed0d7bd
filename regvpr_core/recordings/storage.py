"""Interface of all kinds of bag files: channels, and messages in order of time."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
import heapq
from typing import Protocol

CDR, ROS1 = 'cdr', 'ros1'


@dataclass(frozen=True, slots=True)
class Channel:
    """Messages of one type on one topic.

    serialization: cdr and ros1 can be read. definition: of the type, as `encoding` says (ros2msg,
    ros2idl, ros1msg); '' if the file has none.
    """

    id: int
    topic: str
    type: str
    serialization: str
    encoding: str = ''
    definition: str = ''
    count: int = 0


Message = tuple[int, int, bytes]
"""Time of recording (ns), id of the channel, content."""


class Storage(Protocol):
    """One open bag file.

    notes: irregularities, one line each. span_ns: first and last time of recording, None without
    messages.
    """

    @property
    def channels(self) -> Sequence[Channel]:
        """All channels, including unsupported ones."""

    @property
    def notes(self) -> list[str]:
        """Irregularities, one line each."""

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """First and last time of recording."""

    def messages(self, ids: Collection[int]) -> Iterator[Message]:
        """The messages of these channels in order of time."""

    def close(self) -> None:
        """Close the file."""


@dataclass(slots=True)
class Block:
    """A part of a file that is read at once. counts: messages by channel; None if unknown."""

    start_ns: int
    end_ns: int
    load: Callable[[], Iterable[Message]]
    counts: dict[int, int] | None = field(default=None)


def in_order(blocks: Sequence[Block], ids: Collection[int]) -> Iterator[Message]:
    """Messages of blocks in order of time; only overlapping blocks are in memory at once."""
    wanted, number = set(ids), 0
    held: list[tuple[int, int, Message]] = []
    for block in sorted(blocks, key=lambda block: block.start_ns):
        if block.counts is not None and not wanted & block.counts.keys():
            continue
        while held and held[0][0] < block.start_ns:
            yield heapq.heappop(held)[2]
        for message in block.load():
            if message[1] in wanted:
                heapq.heappush(held, (message[0], number, message))
                number += 1
    while held:
        yield heapq.heappop(held)[2]


def ros2_name(name: str) -> str:
    """Convert sensor_msgs/Image to sensor_msgs/msg/Image."""
    parts = name.split('/')
    return f'{parts[0]}/msg/{parts[1]}' if len(parts) == 2 else name
