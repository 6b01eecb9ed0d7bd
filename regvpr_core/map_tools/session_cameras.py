"""Which cameras of a map the cameras of a session are."""

from types import SimpleNamespace

from regvpr_core.errors import MapError
from regvpr_core.map_tools.used_sessions import free_name
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.recordings.camera_conflicts import conflict


def session_cameras(place_map: PlaceMap, session: PlaceMap, other_cameras: bool) -> dict[str, str]:
    """Name in the map of each camera of a session.

    A camera of another name is a camera of the map if both have the same extrinsics and
    intrinsics: a node without named cameras calls its one `camera`, a bag names it by its topic.

    Args:
        other_cameras: take a camera that the map does not have as a further one.

    Raises:
        MapError: the map does not have such a camera, and `other_cameras` is False.
    """
    known = sorted({*place_map.cameras, *place_map.manifest.extrinsics,
                    *place_map.manifest.intrinsics})
    names: dict[str, str] = {}
    for camera in sorted({*session.cameras, *session.manifest.extrinsics}):
        differs = _differs(place_map.manifest, camera, session.manifest, camera)
        same = [name for name in known if name != camera
                and camera in session.manifest.extrinsics and name in place_map.manifest.extrinsics
                and not _differs(place_map.manifest, name, session.manifest, camera)]
        if camera in known and not differs:
            names[camera] = camera
        elif same:
            names[camera] = same[0]
        elif other_cameras:
            names[camera] = free_name(camera, {*known, *names.values()})
        elif camera in known:
            raise MapError(f'camera {camera!r} has other {differs} in {session.path} than in '
                           f'{place_map.path}; an update keeps to the cameras of the map; '
                           f'--set other_cameras=true takes it as a further one')
        elif known:
            raise MapError(
                f'camera {camera!r} of {session.path} is none of {place_map.path} '
                f'({", ".join(known)}); if it is one of them, give it that name (the parameter '
                f'`cameras` of the node, the topic of a bag), else --set other_cameras=true takes '
                f'it as a further one')
        else:
            names[camera] = camera
    return names


def _differs(a: Manifest, camera_a: str, b: Manifest, camera_b: str) -> str:
    """Difference between a camera of one manifest and a camera of another; '' if none."""
    one, other = (SimpleNamespace(
        extrinsics={'': m.extrinsics[name]} if name in m.extrinsics else {},
        intrinsics={'': m.intrinsics[name]} if name in m.intrinsics else {})
        for m, name in ((a, camera_a), (b, camera_b)))
    return conflict('', one, other)
