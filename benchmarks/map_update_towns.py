"""A rendered town for the benchmark of map updates: a day map, then dusk, rain and winter."""

from dataclasses import replace

from benchmarks.map_update import Pass, Site
from benchmarks.town_drives import DAY, drive, second_lap
from benchmarks.town_features import described
from examples.town import TownConfig
from regvpr_core.models.encoder import Encoder

SEED = 12
TOLERANCE_M = 5.0
CONDITIONS = ('dusk', 'rain', 'winter')


def town_sites(encoder: Encoder) -> list[Site]:
    """One town: a session in each condition, and another lap in each as queries."""
    town = TownConfig(seed=SEED)

    def lap(name: str, config) -> Pass:
        found = drive(town, config)
        return Pass(name, described(found, encoder).descriptors, found.T_map_cam)

    sessions = [lap(f'{c} session', second_lap(c)) for c in CONDITIONS]
    asking = [lap(f'{c} asking', replace(second_lap(c), seed=5, lateral_m=-0.2, start_m=7.0))
              for c in ('day', *CONDITIONS)]
    return [Site('town', lap('day', DAY), sessions, [(one, TOLERANCE_M) for one in asking])]
