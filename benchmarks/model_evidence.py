"""Calibration of a model's scores, measured on the fit part of the real sequences.

    python -m benchmarks.model_evidence [MODEL]

writes the entry of the model (by fingerprint) to regvpr_core/localization/model_evidence.json.
Run it for each checkpoint that will be shipped. It needs ../shared/data.
"""

from dataclasses import replace
import json
import sys

import numpy as np

from benchmarks.real_sequences import FIT, FIT_FLOORS, floors, MappedDrive, sequence
from benchmarks.report import ROOT
from regvpr_core.config import DEFAULT_MODEL
from regvpr_core.localization.appearance import Appearance, AppearanceConfig
from regvpr_core.localization.calibration import logistic_regression
from regvpr_core.localization.model_evidence import FILE
from regvpr_core.models.encoder import Encoder, load_encoder
from regvpr_core.search.rows import unit

PAGE = ROOT / 'regvpr_core' / 'localization' / FILE
LOOK_ALIKE = 0.9
"""The offset is this quantile of the scores of the best look-alikes on another floor."""

LEAST_IMAGES = 15
"""Stretches with fewer images of a drive are not used."""

STRETCH, EVERY = 66, 99
"""Length of a stretch, which serves as a small map, and interval of their starts, keyframes."""


def maps_of(one: MappedDrive) -> list[np.ndarray]:
    """A map and its stretches, as indices of keyframes.

    Small maps are included, because there the neighbours of the true place are a large share of
    the keyframes that it must stand out from.
    """
    count = len(one.map_numbers)
    stretches = range(0, count - STRETCH, EVERY) if count > 1.5 * STRETCH else ()
    return [np.arange(count), *(np.arange(start, start + STRETCH) for start in stretches)]


def best_scores(one: MappedDrive, on_map: bool, kept: np.ndarray) -> np.ndarray:
    """(F, 2) similarity of each image to its true place, in spreads and unscaled.

    on_map: if False, the best keyframe of the map takes the place of the true one.
    kept: keyframes of the map that are used.
    """
    rows = one.made_map.descriptors[one.map_numbers[kept]]
    centre = rows.mean(axis=0)
    references = unit(rows - centre)
    appearance = Appearance(centre, AppearanceConfig())
    out = []
    for frame, number in enumerate(one.ride.numbers):
        descriptor = one.ride.made.descriptors[number]
        appearance.update(descriptor)
        found = references @ unit(descriptor - appearance.mean)
        metres = np.linalg.norm(
            one.T_map[kept, :3, 3] - one.ride.T_map_base[frame, :3, 3], axis=1)
        there = metres <= one.tolerance_m + 1e-6 if on_map else np.ones(len(found), bool)
        if there.any() and one.sure[frame]:
            best = float(found[there].max())
            out.append((best / float(np.sqrt(np.mean(found**2))), best))
    return np.array(out).reshape(-1, 2)


Groups = list[tuple[float, np.ndarray]]
"""Weight and scores (F, 2) of each drive."""


def of_drive(one: MappedDrive, on_map: bool) -> Groups:
    """Scores of a drive on its whole map, and with the same total weight on its stretches."""
    whole, *stretches = [scores for kept in maps_of(one)
                         if len(scores := best_scores(one, on_map, kept)) >= LEAST_IMAGES]
    if not stretches:
        return [(1.0, whole)]
    return [(0.5, whole), *((0.5 / len(stretches), scores) for scores in stretches)]


def fit(true: Groups, false: Groups, alike: list[np.ndarray]) -> dict[str, float]:
    """Fit weight, offset and gain to drives on the map, off the map, and on look-alike floors.

    Each drive has the same weight in its class.
    """
    other = [*false, *((1.0, scores) for scores in alike)]
    features = np.concatenate([scores for _, scores in (*true, *other)])
    is_true = np.repeat([1.0] * len(true) + [0.0] * len(other),
                        [len(scores) for _, scores in (*true, *other)])
    share = np.concatenate([
        np.full(len(scores), 0.5 * weight / sum(w for w, _ in groups) / len(scores))
        for groups in (true, other) for weight, scores in groups])
    _, spread, similarity = logistic_regression(features, is_true, share)
    weight = max(similarity / spread, 0.0)
    scores = np.concatenate(alike) @ np.array([1.0, weight])
    return {'weight': round(float(weight), 3), 'gain': round(float(spread), 3),
            'offset': round(float(np.quantile(scores, LOOK_ALIKE)), 3)}


def measure(encoder: Encoder) -> dict[str, float]:
    """Measure a model on the fit part."""
    named = [sequence(name, encoder) for name in FIT]
    own = [floors(number, number, encoder) for number in FIT_FLOORS]
    crossed = [floors(a, b, encoder) for a in FIT_FLOORS for b in FIT_FLOORS if a != b]
    away = [replace(a, ride=b.ride, sure=np.ones(len(b.sure), bool)) for a in (*named, *own)
            for b in (*named, *own) if a.map_name.split('-')[0] != b.map_name.split('-')[0]]
    return fit([group for one in (*named, *own) for group in of_drive(one, True)],
               [group for one in away for group in of_drive(one, False)],
               [best_scores(one, False, np.arange(len(one.map_numbers))) for one in crossed])


def main() -> None:
    """Measure, and write the entry."""
    encoder = load_encoder(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL, 'cpu')
    entries = json.loads(PAGE.read_text(encoding='utf-8'))
    entries[encoder.fingerprint] = {'model': encoder.name, **measure(encoder)}
    PAGE.write_text(json.dumps(entries, indent=1, sort_keys=True) + '\n', encoding='utf-8')
    print(entries[encoder.fingerprint])


if __name__ == '__main__':
    main()
