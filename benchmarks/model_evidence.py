"""What a model's scores are worth: measured on the fit part of the real sequences.

    python -m benchmarks.model_evidence [MODEL]

writes the model's entry, by its fingerprint, into regvpr_core/localization/model_evidence.json.
Run it for each checkpoint that is to be shipped. It needs ../shared/data.
"""

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
LOOK_ALIKE = 0.8
"""The offset lies above this quantile of what the best look-alike on another floor scores."""


def best_scores(one: MappedDrive, on_map: bool) -> np.ndarray:
    """In spreads, and by itself, the similarity of the true place (or of the best, off the map)
    to each image of a drive: (F, 2)."""
    rows = one.made_map.descriptors[one.map_numbers]
    centre = rows.mean(axis=0)
    references = unit(rows - centre)
    appearance = Appearance(centre, AppearanceConfig())
    out = []
    for frame, number in enumerate(one.ride.numbers):
        descriptor = one.ride.made.descriptors[number]
        appearance.update(descriptor)
        found = references @ unit(descriptor - appearance.mean)
        metres = np.linalg.norm(one.T_map[:, :3, 3] - one.ride.T_map_base[frame, :3, 3], axis=1)
        there = metres <= one.tolerance_m + 1e-6 if on_map else np.ones(len(found), bool)
        if there.any() and one.sure[frame]:
            best = float(found[there].max())
            out.append((best / float(np.sqrt(np.mean(found**2))), best))
    return np.array(out).reshape(-1, 2)


def fit(true: list[np.ndarray], false: list[np.ndarray], alike: list[np.ndarray]
        ) -> dict[str, float]:
    """Weight, offset and gain from drives on the map, off it, and on look-alike floors.

    Each drive has the same weight in its class.
    """
    groups = [*true, *false, *alike]
    features = np.concatenate(groups)
    is_true = np.concatenate([np.full(len(group), float(i < len(true)))
                              for i, group in enumerate(groups)])
    share = np.concatenate([np.full(len(group), 0.5 / len(group) / (
        len(true) if i < len(true) else len(false) + len(alike)))
        for i, group in enumerate(groups)])
    bias, spread, similarity = logistic_regression(features, is_true, share)
    weight = max(similarity / spread, 0.0)
    scores = np.concatenate(alike) @ np.array([1.0, weight])
    offset = max(-bias / spread, float(np.quantile(scores, LOOK_ALIKE)))
    return {'weight': round(float(weight), 3), 'offset': round(float(offset), 3),
            'gain': round(float(spread), 3)}


def measure(encoder: Encoder) -> dict[str, float]:
    """Measure a model on the fit part."""
    named = [sequence(name, encoder) for name in FIT]
    own = [floors(number, number, encoder) for number in FIT_FLOORS]
    crossed = [floors(a, b, encoder) for a in FIT_FLOORS for b in FIT_FLOORS if a != b]
    away = [MappedDrive(
        name='', map_name='', made_map=a.made_map, map_numbers=a.map_numbers, T_map=a.T_map,
        ride=b.ride, tolerance_m=0.0, sure=b.sure) for a in (*named, own[0])
        for b in (*named, own[0]) if a.map_name != b.map_name]
    return fit([best_scores(one, True) for one in (*named, *own)],
               [best_scores(one, False) for one in away],
               [best_scores(one, False) for one in crossed])


def main() -> None:
    """Measure, and write the entry."""
    encoder = load_encoder(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL, 'cpu')
    entries = json.loads(PAGE.read_text(encoding='utf-8'))
    entries[encoder.fingerprint] = {'model': encoder.name, **measure(encoder)}
    PAGE.write_text(json.dumps(entries, indent=1, sort_keys=True) + '\n', encoding='utf-8')
    print(entries[encoder.fingerprint])


if __name__ == '__main__':
    main()
