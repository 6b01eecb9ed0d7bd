"""Calibration of a model's scores that holds for any map, by fingerprint of the model.

The score of a look-alike place on another floor or in another building cannot be learnt from a
map. It is measured for a model on real sequences: `python -m benchmarks.model_evidence` writes the
entry of a model into `model_evidence.json`.

A score is `similarity / spread + weight * similarity`. The first term, how far a keyframe stands
out among those of the map, is robust to changes of light. The second term tells a place from a
look-alike on another floor.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
import json
import math
from typing import Any

FILE = 'model_evidence.json'

POOLED = (3.8, 5.2, 1.2)
"""For models without an entry: weight times the similarity of neighbouring keyframes of the map,
offset and gain. Close to those of the shipped model."""

LEAST_NEIGHBOURS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvidence:
    """The log likelihood ratio of a place is gain * (score - offset).

    weight: of the similarity in the score. measured: False if the model has no entry.
    """

    weight: float
    offset: float
    gain: float
    measured: bool = True


@cache
def known() -> dict[str, ModelEvidence]:
    """Entries of measured models, by fingerprint."""
    text = resources.files('regvpr_core.localization').joinpath(FILE).read_text('utf-8')
    entries: dict[str, dict[str, Any]] = json.loads(text)
    return {fingerprint: ModelEvidence(weight=float(entry['weight']),
                                       offset=float(entry['offset']), gain=float(entry['gain']))
            for fingerprint, entry in entries.items()}


def model_evidence(fingerprint: str, neighbours: float) -> ModelEvidence:
    """The entry of a model; for an unknown model the pooled values on the scale of this map.

    Args:
        fingerprint: of the model.
        neighbours: median similarity of keyframes of the map to their most similar neighbour; not
            finite if the map is too small.
    """
    found = known().get(fingerprint)
    if found is not None:
        return found
    weight, offset, gain = POOLED
    scale = max(neighbours, LEAST_NEIGHBOURS) if math.isfinite(neighbours) else 1.0
    return ModelEvidence(weight=weight / scale, offset=offset, gain=gain, measured=False)
