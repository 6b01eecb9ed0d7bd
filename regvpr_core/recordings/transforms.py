"""TF of a recording: static and moving transforms, chained and interpolated at a stamp."""

from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
import math
from typing import Any

import numpy as np

from regvpr_core.geometry import (
    Array,
    inverse,
    MAX_POSITION_M,
    MAX_QUATERNION,
    MIN_QUATERNION,
    pose_matrix,
)
from regvpr_core.recordings.runs import poses_of, refuse_jumping, RunPoses
from regvpr_core.recordings.trajectory import gap_limit_s, Trajectory

Edge = tuple[str, str]

CONSTANT = 1e-4
"""Tolerance of equal transforms, in m and in elements of the rotation."""


class TransformTree:
    """Transforms by parent and child frame; frames are named without a leading slash.

    bad: number of invalid transforms: refused by `pose_matrix`, or with equal or empty frames. An
    edge that is both static and moving counts as moving, because tf2 uses the last message.
    """

    def __init__(self) -> None:
        self.bad = 0
        self._changed: dict[Edge, None] = {}
        self._static: dict[Edge, Array] = {}
        self._stamps: dict[Edge, array[int]] = {}
        self._recorded: dict[Edge, array[int]] = {}
        self._values: dict[Edge, array[float]] = {}
        self._moving: dict[Edge, Trajectory | RunPoses] = {}

    def add(self, transforms: Iterable[Any], *, static: bool, stamp_ns: int,
            bag_time: bool = False) -> None:
        """Add geometry_msgs/TransformStamped.

        `stamp_ns`, the time of recording, replaces stamps of zero, and all stamps with `bag_time`.
        """
        for transform in transforms:
            edge = (plain(transform.header.frame_id), plain(transform.child_frame_id))
            p, q = transform.transform.translation, transform.transform.rotation
            values = (p.x, p.y, p.z, q.x, q.y, q.z, q.w)
            # Diverged odometry is often still finite. `pose_matrix` itself would be too slow here.
            if not all(map(math.isfinite, values)) \
                    or max(map(abs, values[:3])) > MAX_POSITION_M \
                    or not MIN_QUATERNION <= math.hypot(*values[3:]) <= MAX_QUATERNION \
                    or edge[0] == edge[1] or '' in edge:
                self.bad += 1
            elif static:
                T = pose_matrix(values[:3], values[3:])
                if np.abs(T - self._static.get(edge, T)).max() > CONSTANT:
                    self._changed[edge] = None
                self._static[edge] = T
            else:
                stamp = transform.header.stamp
                own_ns = 0 if bag_time else int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
                self._stamps.setdefault(edge, array('q')).append(own_ns or stamp_ns)
                self._recorded.setdefault(edge, array('q')).append(stamp_ns)
                self._values.setdefault(edge, array('d')).extend(values)
                self._moving.pop(edge, None)

    @property
    def frames(self) -> list[str]:
        """All frames, sorted."""
        return sorted({frame for edge in self._edges() for frame in edge})

    @property
    def contradictions(self) -> list[str]:
        """Notes on edges that are both static and moving, or have several static values."""
        return [f'{parent} -> {child} is static, and also moves on /tf: what moves is taken'
                for parent, child in self._static if self._moves((parent, child))] + [
                    f'{parent} -> {child} has several values on /tf_static: the last is taken'
                    for parent, child in self._changed]

    def roots(self, frame: str) -> list[str]:
        """Root frames above a frame; several if it has several parents.

        Loops are detected.
        """
        parents: dict[str, list[str]] = {}
        for parent, child in self._edges():
            parents.setdefault(child, []).append(parent)
        found, seen, waiting = [], {plain(frame)}, deque([plain(frame)])
        at = plain(frame)
        while waiting:
            at = waiting.popleft()
            if at not in parents:
                found.append(at)
            for parent in parents.get(at, []):
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
        return found or [at]

    def fixed(self, parent: str, child: str) -> Array | None:
        """`T_parent_child` (4, 4) if it never changed, on /tf_static or /tf; else None."""
        chain = self.chain(parent, child)
        return None if chain is None else chain.constant()

    def static(self, parent: str, child: str) -> Array | None:
        """`T_parent_child` (4, 4) through static transforms; None if not connected."""
        chain = self._path(plain(parent), plain(child), dict.fromkeys(
            edge for edge in self._static if not self._moves(edge)))
        if chain is None:
            return None
        T = np.eye(4)
        for edge, forward in chain:
            T = T @ (self._static[edge] if forward else inverse(self._static[edge]))
        return T

    def chain(self, parent: str, child: str) -> 'TransformChain | None':
        """The chain of transforms from a frame to another one; None if not connected."""
        path = self._path(plain(parent), plain(child), self._edges())
        if path is None:
            return None
        links = [Link(None if self._moves(edge) else self._static.get(edge),
                      self._trajectory(edge), forward, f'{edge[0]} -> {edge[1]}')
                 for edge, forward in path]
        return TransformChain(tuple(links), plain(parent), plain(child))

    def _edges(self) -> dict[Edge, None]:
        return dict.fromkeys([*self._static, *self._stamps])

    def _moves(self, edge: Edge) -> bool:
        """Whether an edge is on /tf with values other than on /tf_static."""
        if edge not in self._stamps:
            return False
        if edge not in self._static:
            return True
        values = np.frombuffer(self._values[edge]).reshape(-1, 7)
        T = pose_matrix(values[:, :3], values[:, 3:])
        return bool(np.abs(T - self._static[edge]).max() > CONSTANT)

    def _trajectory(self, edge: Edge) -> Trajectory | RunPoses | None:
        """Poses of a moving edge; None for a static one."""
        if not self._moves(edge):
            return None
        if edge not in self._moving:
            values = np.frombuffer(self._values[edge]).reshape(-1, 7)
            self._moving[edge] = poses_of(
                np.frombuffer(self._stamps[edge], dtype=np.int64),
                np.frombuffer(self._recorded[edge], dtype=np.int64),
                pose_matrix(values[:, :3], values[:, 3:]), name=f'TF {edge[0]} -> {edge[1]}')
        return self._moving[edge]

    def _path(self, parent: str, child: str, edges: dict[Edge, None]
              ) -> list[tuple[Edge, bool]] | None:
        """Shortest path from parent to child: edges, each with its direction (True: downwards)."""
        ways: dict[str, list[tuple[str, Edge, bool]]] = {}
        for edge in edges:
            ways.setdefault(edge[0], []).append((edge[1], edge, True))
            ways.setdefault(edge[1], []).append((edge[0], edge, False))
        reached: dict[str, list[tuple[Edge, bool]]] = {parent: []}
        queue = deque([parent])
        while queue:
            frame = queue.popleft()
            for neighbour, edge, forward in ways.get(frame, []):
                if neighbour not in reached:
                    reached[neighbour] = [*reached[frame], (edge, forward)]
                    queue.append(neighbour)
        return reached.get(child)


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """One transform of a chain, fixed or moving; from parent to child if `forward`."""

    fixed: Array | None
    moving: Trajectory | RunPoses | None
    forward: bool
    name: str = ''


@dataclass(frozen=True, slots=True, eq=False)
class TransformChain:
    """`T_parent_child` over time, with the interface of `Trajectory`."""

    links: tuple[Link, ...]
    parent: str
    child: str

    @property
    def moves(self) -> bool:
        """Whether any transform of the chain is not static."""
        return any(link.moving is not None for link in self.links)

    @property
    def stamps_ns(self) -> Any:
        """First and last time at which the whole chain is known."""
        spans = [link.moving.stamps_ns[[0, -1]] for link in self._moving]
        if not spans:
            return np.zeros(0, dtype=np.int64)
        return np.array([max(span[0] for span in spans), min(span[1] for span in spans)])

    @property
    def spacing_s(self) -> float:
        """Median time between poses of the slowest transform, s."""
        return max((link.moving.spacing_s for link in self._moving), default=0.0)

    @property
    def runs(self) -> int:
        """Largest number of clock resets of a transform."""
        return max((len(link.moving.runs) for link in self._moving
                    if isinstance(link.moving, RunPoses)), default=1)

    def at(self, stamp_ns: int, max_gap_s: float, recorded_ns: int | None = None) -> Array | None:
        """Pose (4, 4) at a time; None if a transform is unknown there."""
        T = np.eye(4)
        for link in self.links:
            step = link.fixed
            if link.moving is not None:
                limit = gap_limit_s(link.moving.spacing_s, max_gap_s)
                step = link.moving.at(stamp_ns, limit, recorded_ns)
            if step is None:
                return None
            T = T @ (step if link.forward else inverse(step))
        return T

    def constant(self) -> Array | None:
        """The transform (4, 4) if it never changed, else None."""
        T = np.eye(4)
        for link in self.links:
            step = link.fixed
            if link.moving is not None:
                runs = ([run.poses for run in link.moving.runs]
                        if isinstance(link.moving, RunPoses) else [link.moving])
                step = runs[0].poses[0]
                if any(np.abs(run.poses - step).max() > CONSTANT for run in runs):
                    return None
            if step is None:
                return None
            T = T @ (step if link.forward else inverse(step))
        return T

    def covariance_at(self, stamp_ns: int, recorded_ns: int | None = None) -> Array | None:
        """None, because TF contains no covariance."""
        return None

    def refuse_jumping(self) -> None:
        """Refuse implausible poses of each moving transform."""
        for link in self._moving:
            refuse_jumping(link.moving, f'TF {link.name}')

    @property
    def _moving(self) -> list[Any]:
        return [link for link in self.links if link.moving is not None]


def plain(frame: str) -> str:
    """A frame's name without the leading slash of tf1."""
    return frame.strip().lstrip('/')
