"""Markers for RViz: keyframes, hypotheses, matches and loop closures."""

from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import Point
import numpy as np
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from regvpr_core.geometry import Array

MOST_POINTS = 20_000
GREY = (0.55, 0.55, 0.55, 0.8)
BLUE = (0.0, 0.45, 0.70, 0.9)
ORANGE = (0.90, 0.62, 0.0, 0.9)
WHITE = (1.0, 1.0, 1.0, 1.0)
TEXT_M = 1.2
GREEN = (0.0, 0.62, 0.45, 1.0)


def keyframes(positions: Array, frame: str, stamp: Any) -> Marker:
    """The map's keyframes (N, 3), thinned for RViz."""
    marker = _marker('map', Marker.POINTS, frame, stamp, GREY, 0.15)
    marker.points = _points(positions[::max(1, -(-len(positions) // MOST_POINTS))])
    return marker


def belief(positions: Array, probabilities: Array, frame: str, stamp: Any) -> Marker:
    """Hypotheses: positions (N, 3), with probabilities (N,) as opacity."""
    marker = _marker('belief', Marker.SPHERE_LIST, frame, stamp, ORANGE, 0.8)
    marker.points = _points(positions)
    marker.colors = [ColorRGBA(r=ORANGE[0], g=ORANGE[1], b=ORANGE[2], a=float(a))
                     for a in np.clip(probabilities, 0.05, 1.0)]
    if not marker.points:
        marker.action = Marker.DELETE
    return marker


def matches(positions: Array, accepted: Sequence[bool], frame: str, stamp: Any) -> Marker:
    """The matched keyframes of the last image (N, 3); accepted ones are green."""
    marker = _marker('matches', Marker.SPHERE_LIST, frame, stamp, BLUE, 0.5)
    marker.points = _points(positions)
    marker.colors = [_color(GREEN if one else BLUE) for one in accepted]
    if not marker.points:
        marker.action = Marker.DELETE
    return marker


def loops(edges: Array, frame: str, stamp: Any) -> Marker:
    """Loop closures of the session (N, 2, 3) as lines between the two positions."""
    marker = _marker('loops', Marker.LINE_LIST, frame, stamp, GREEN, 0.08)
    marker.points = _points(edges.reshape(-1, 3))
    if not marker.points:
        marker.action = Marker.DELETE
    return marker


def state(text: str, at: Array, frame: str, stamp: Any) -> Marker:
    """The state of the localizer as text above a position (3,)."""
    marker = _marker('state', Marker.TEXT_VIEW_FACING, frame, stamp, WHITE, TEXT_M)
    marker.text = text
    move = marker.pose.position
    move.x, move.y, move.z = float(at[0]), float(at[1]), float(at[2]) + 3.0
    return marker


def array(*markers: Marker) -> MarkerArray:
    """Combine several marker arrays."""
    return MarkerArray(markers=list(markers))


def _marker(name: str, kind: int, frame: str, stamp: Any, color: tuple[float, ...],
            size_m: float) -> Marker:
    marker = Marker(ns=name, id=0, type=kind, action=Marker.ADD, color=_color(color))
    marker.header.frame_id = frame
    marker.header.stamp = stamp
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = size_m
    return marker


def _color(rgba: tuple[float, ...]) -> ColorRGBA:
    return ColorRGBA(r=rgba[0], g=rgba[1], b=rgba[2], a=rgba[3])


def _points(positions: Array) -> list[Point]:
    return [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in positions]
