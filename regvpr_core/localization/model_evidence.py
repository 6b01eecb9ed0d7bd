"""What a model's scores are worth on any map: learnt over many real places, kept by fingerprint.

A map of one floor cannot know of the floor above. What a look-alike place of another floor or
building scores is known of the model: `python -m benchmarks.model_evidence` measures a model on
the fit part of the real sequences and writes its entry into `model_evidence.json`.

A score is `similarity / spread + weight * similarity`: how far a keyframe stands out among those
of the map, which holds also where the light has changed, and how similar it is at all, which tells
a place from its look-alike on another floor.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
import json
import math
from typing import Any

FILE = 'model_evidence.json'

POOLED = (2.4, 4.7, 1.6)
"""For a model that was not measured: weight times the similarity of neighbouring keyframes of the
map, offset and gain. Those of the shipped model, the offset a little higher."""

LEAST_NEIGHBOURS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvidence:
    """The log likelihood ratio of a place is gain * (score - offset).

    weight: of the similarity in the score. measured: whether on this model's own scores.
    """

    weight: float
    offset: float
    gain: float
    measured: bool = True


@cache
def known() -> dict[str, ModelEvidence]:
    """Measured models by fingerprint."""
    text = resources.files('regvpr_core.localization').joinpath(FILE).read_text('utf-8')
    entries: dict[str, dict[str, Any]] = json.loads(text)
    return {fingerprint: ModelEvidence(weight=float(entry['weight']),
                                       offset=float(entry['offset']), gain=float(entry['gain']))
            for fingerprint, entry in entries.items()}


def model_evidence(fingerprint: str, neighbours: float) -> ModelEvidence:
    """What is known of a model; of an unknown one the pooled shape on the scale of this map.

    Args:
        fingerprint: of the model.
        neighbours: median similarity of keyframes of the map to the most similar one beside them;
            not finite where the map is too small to say.
    """
    found = known().get(fingerprint)
    if found is not None:
        return found
    weight, offset, gain = POOLED
    scale = max(neighbours, LEAST_NEIGHBOURS) if math.isfinite(neighbours) else 1.0
    return ModelEvidence(weight=weight / scale, offset=offset, gain=gain, measured=False)
