"""`model: auto`: the best model on this machine, for building maps and sessions.

Models are ranked by published recall@1 on MSLS validation, in steps of `STEP` points, and within a
step by speed on this machine. Models that take more than `SLOWEST_MS` per image, or have no
published figure, are not chosen. If no published model is on this machine, the default model of
this package is chosen.
"""

from collections.abc import Callable

from regvpr_core.config import DEFAULT_MODEL
from regvpr_core.models.catalogue import CATALOGUE, local_file
from regvpr_core.models.speeds import keep_speed, known_speeds, measure

STEP = 0.5
"""Difference of recall@1 in points that is ignored; MSLS validation has 740 queries."""

SLOWEST_MS = 1000.0
"""Longest time per image, ms: a robot at 1 m/s needs several images of a place, which it passes in
a few seconds."""


def choose_model(measured_ms: Callable[[str], float] | None = None) -> tuple[str, str]:
    """The name of the best model on this machine, and one line that says why.

    Args:
        measured_ms: time per image of a model, ms; None: it is measured once and stored.
    """
    measured_ms = measured_ms or speed_of
    here = {name: entry.published.msls_val for name, entry in CATALOGUE.items()
            if entry.published.msls_val is not None and not entry.refused
            and local_file(name) is not None}
    ranked = sorted(here.items(), key=lambda pair: -round(pair[1] / STEP))
    passed: list[str] = []
    while ranked:
        level = round(ranked[0][1] / STEP)
        equal = [name for name, score in ranked if round(score / STEP) == level]
        ranked = ranked[len(equal):]
        fastest = min((measured_ms(name), name) for name in equal)
        if fastest[0] <= SLOWEST_MS:
            name = fastest[1]
            return name, (f'model auto: {name}, {here[name]:g} % R@1 on MSLS validation as '
                          f'published, {fastest[0]:.0f} ms an image here'
                          f'{"; too slow: " + ", ".join(passed) if passed else ""}')
        passed += equal
    reason = f'{", ".join(passed)} took more than {SLOWEST_MS:.0f} ms an image' if passed else \
        'no published model with figures is on this machine, see `regvpr models`'
    return DEFAULT_MODEL, f'model auto: {DEFAULT_MODEL}; {reason}'


def speed_of(name: str) -> float:
    """Time for an image in ms, from the cache or measured now.

    Raises:
        CheckpointError: the model cannot be loaded.
    """
    known = known_speeds().get(name)
    if known is None:
        from regvpr_core.models.encoder import load_encoder

        known = measure(load_encoder(name))
        keep_speed(name, known)
    return float(known['ms_an_image'])
