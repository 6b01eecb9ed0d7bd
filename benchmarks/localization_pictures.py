"""Real images as drives: rtabmap_samples, rwrc_campus, ie_tower (../shared/data)."""

from collections.abc import Iterator, Sequence
import csv
from pathlib import Path

import cv2
import numpy as np

from benchmarks.localization_runs import Ride
from benchmarks.report import ROOT
from benchmarks.town_features import describe_pictures, Described
from examples.town.camera import T_BASE_CAM
from regvpr_core.evaluation.retrieval_metrics import precision_recall, PrecisionRecall
from regvpr_core.geometry import inverse
from regvpr_core.images import read
from regvpr_core.localization.frames import Description, Frame
from regvpr_core.localization.session import SessionConfig, SessionLoops
from regvpr_core.maps.files import Manifest, new_folder, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.verification import VerificationConfig

DATA = ROOT.parent / 'shared' / 'data'
SECOND_NS = 1_000_000_000
EXCLUDE = 30
"""Least number of images of rtabmap_samples between the two images of a loop closure. The images
count as 1 s apart."""

CLIP_APART_M = 1000.0
"""Clips of ie_tower have no poses. Each is put on a line of its own, 1 m per second; the lines are
this far apart."""


def pictures(files: Sequence[Path]) -> Iterator[np.ndarray]:
    """Read image files."""
    return (read(path) for path in files)


def rtabmap(encoder: Encoder) -> tuple[Described, np.ndarray]:
    """The 84 images of an office loop, and the mask (84, 84) of pairs that show one place."""
    folder = DATA / 'rtabmap_samples'
    loops = cv2.imread(str(folder / 'samples_GT.bmp'), cv2.IMREAD_GRAYSCALE) > 0
    files = [folder / 'samples' / f'{n}.jpg' for n in range(1, len(loops) + 1)]
    return describe_pictures('rtabmap', pictures(files), encoder), loops


def closures(encoder: Encoder, made: Described, loops: np.ndarray, kind: str) -> PrecisionRecall:
    """Precision and recall of loop closures, with the images as one session without odometry.

    All closures count, also those that a session would not report: of short sequences, below the
    level, or of less than the accepted probability.

    kind: `raw`: the most similar older image; `none`: sequences; `patch`: verified sequences.
    """
    confidence, true = np.full(len(made), -1.0), np.zeros(len(made), bool)
    if kind == 'raw':
        for n in range(EXCLUDE, len(made)):
            found = made.descriptors[:n - EXCLUDE + 1] @ made.descriptors[n]
            confidence[n], true[n] = found.max(), loops[n, int(found.argmax())]
        return precision_recall(confidence[confidence > -1.0], true[confidence > -1.0],
                                int(loops.any(axis=1).sum()))
    session = SessionLoops(encoder, SessionConfig(
        still_cosine=1.0, exclude_s=float(EXCLUDE), place_m=0.0,
        verification=VerificationConfig(kind=kind, budget_s=10.0)))
    for n in range(len(made)):
        features = None if kind == 'none' else made.features(n)
        width, height = (512, 384) if features is None else (features.width, features.height)
        view = Frame(stamp_ns=n * SECOND_NS, rgb=np.zeros((height, width, 3), np.uint8),
                     T_base_cam=T_BASE_CAM)
        image = Description(view, made.descriptors[n], features)
        closed, one = session.update(image), session.hypothesis
        closure = closed[0] if closed else one and session.closure_of(image, one)
        if closure is not None:
            confidence[n], true[n] = closure.probability, loops[n, closure.reference_id]
    found = confidence > -1.0
    return precision_recall(confidence[found], true[found], int(loops.any(axis=1).sum()))


def wrong_closures(encoder: Encoder, passes: Sequence[Described], kind: str) -> tuple[int, int]:
    """Number of wrong loop closures and of images in a session of passes that share no place.

    Every closure between two passes is wrong. There is one image per second and no odometry.

    kind: of the verification.
    """
    session = SessionLoops(encoder, SessionConfig(
        verification=VerificationConfig(kind=kind, budget_s=10.0)))
    first, count, wrong = 0, 0, 0
    for made in passes:
        for n in range(len(made)):
            features = None if kind == 'none' else made.features(n)
            height, width = (360, 640) if features is None else (features.height, features.width)
            view = Frame(stamp_ns=count * SECOND_NS, T_base_cam=T_BASE_CAM,
                         rgb=np.zeros((height, width, 3), np.uint8))
            closed = session.update(Description(view, made.descriptors[n], features))
            wrong += sum(one.reference_stamp_ns < first * SECOND_NS for one in closed)
            count += 1
        first = count
    return wrong, count


def campus(encoder: Encoder, cache: Path) -> tuple[PlaceMap, Ride]:
    """A walk. Every second image is a keyframe, 6 m apart; the other images are queries."""
    folder = DATA / 'rwrc_campus'
    with (folder / 'data.csv').open(encoding='utf-8') as file:
        rows = list(csv.reader(file))
    made = describe_pictures('rwrc', pictures([folder / row[0] for row in rows]), encoder)
    T = np.tile(np.eye(4), (len(rows), 1, 1))
    for n, (_, x, y, yaw) in enumerate(rows):
        c, s = np.cos(float(yaw)), np.sin(float(yaw))
        T[n, :2, :2], T[n, :2, 3] = [[c, -s], [s, c]], [float(x), float(y)]
    even, odd = np.arange(0, len(rows), 2), np.arange(1, len(rows), 2)
    place_map = small_map(cache / f'rwrc-{encoder.fingerprint[:12]}.map', encoder, made, even,
                          T[even] @ T_BASE_CAM)
    return place_map, Ride(name='rwrc', made=made, numbers=odd, stamps_ns=odd * 3 * SECOND_NS,
                           T_map_base=T[odd], T_base_cam=T_BASE_CAM,
                           T_odom_base=inverse(T[odd[0]]) @ T[odd], size=(240, 426))


def tower(encoder: Encoder, floors: Sequence[str], others: Sequence[str], cache: Path
          ) -> tuple[PlaceMap, list[Ride]]:
    """Clips through a building, one image per second, without odometry.

    Every second clip of `floors` is used: its even seconds are the map, its odd ones are queries.
    The clips in between pass the same spots and are not used. Clips of `others` are off the map.
    """
    folder = DATA / 'ie_tower'
    with (folder / 'dataset.csv').open(encoding='utf-8') as file:
        rows = [row for row in csv.DictReader(file) if row['floor'] in (*floors, *others)]
    rows.sort(key=lambda row: (row['clip'], int(row['second'])))
    made = describe_pictures('tower-' + '-'.join((*floors, *others)),
                             pictures([folder / row['image'] for row in rows]), encoder)
    clips = sorted({row['clip'] for row in rows})
    clip = np.array([clips.index(row['clip']) for row in rows])
    second = np.array([int(row['second']) for row in rows], np.int64)
    T = np.tile(np.eye(4), (len(rows), 1, 1))
    T[:, 0, 3], T[:, 1, 3] = second, CLIP_APART_M * clip
    floor_of = {row['clip']: row['floor'] for row in rows}
    mapped = [clips.index(label) for floor in floors
              for label in [label for label in clips if floor_of[label] == floor][::2]]
    kept = np.flatnonzero(np.isin(clip, mapped) & (second % 2 == 0))
    name = f'tower-{"-".join(floors)}-{encoder.fingerprint[:12]}.map'
    place_map = small_map(cache / name, encoder, made, kept, T[kept] @ T_BASE_CAM)
    rides = []
    for number, label in enumerate(clips):
        if number not in mapped and floor_of[label] in floors:
            continue
        asked = np.flatnonzero((clip == number) & (second % 2 == 1))
        rides.append(Ride(
            name=label, made=made, numbers=asked, stamps_ns=second[asked] * SECOND_NS,
            T_map_base=T[asked], T_base_cam=T_BASE_CAM, T_odom_base=None,
            on_map=number in mapped))
    return place_map, rides


def small_map(path: Path, encoder: Encoder, made: Described, numbers: np.ndarray,
              T_map_cam: np.ndarray) -> PlaceMap:
    """Open the map of some of the images; build it if it does not exist."""
    if not path.is_dir():
        manifest = Manifest(
            map_id=new_map_id(), model=encoder.name, fingerprint=encoder.fingerprint,
            dimension=encoder.dimension, map_frame='map', extrinsics={}, sources=[path.stem],
            features='patch')
        with new_folder(path) as folder, MapWriter.create(folder, manifest) as writer:
            writer.append([Keyframe(
                stamp_ns=int(n) * SECOND_NS, camera='camera', T_map_cam=T, source=path.stem,
                descriptor=made.descriptors[n], local_features=made.packed(int(n)))
                for n, T in zip(numbers, T_map_cam, strict=True)])
    return PlaceMap.open(path, encoder.fingerprint)
