"""Published figures of other methods, printed beside measured ones and marked as quoted.

Recall@1, @5, @10 in percent. Each figure belongs to one protocol. If a paper does not state which
form of a data set it used, the protocol is the one whose known figures agree.
"""

from dataclasses import dataclass

Recalls = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """One method's row in one publication."""

    method: str
    source: str
    figures: dict[str, Recalls]


TABLE_1 = 'RegVPR paper, Table 1 (Yu and Fu, 2024)'
_COLUMNS = ('msls-val-740', 'pitts250k-test', 'pitts30k-test', 'nordland-2760-pm1', 'sped-607')


def _row(method: str, *recalls: Recalls) -> Quoted:
    return Quoted(method=method, source=TABLE_1, figures=dict(zip(_COLUMNS, recalls, strict=True)))


QUOTED: tuple[Quoted, ...] = (
    _row('NetVLAD', (82.6, 89.6, 92.0), (90.5, 96.2, 97.4), (81.9, 91.2, 93.7),
         (32.6, 47.1, 53.3), (78.7, 88.3, 91.4)),
    _row('GeM', (76.5, 85.7, 88.2), (82.9, 92.1, 94.3), (80.5, 91.8, 96.2),
         (20.8, 33.3, 40.0), (64.6, 79.4, 83.5)),
    _row('CosPlace', (84.5, 90.1, 91.8), (91.5, 96.9, 97.9), (90.9, 95.7, 96.7),
         (58.5, 73.7, 79.4), (75.3, 85.9, 88.6)),
    _row('EigenPlaces', (89.3, 93.7, 95.0), (94.1, 98.0, 98.7), (92.5, 96.8, 97.6),
         (54.4, 68.8, 74.1), (69.9, 82.9, 87.6)),
    _row('MixVPR', (88.0, 92.7, 94.6), (94.6, 98.3, 99.0), (91.5, 95.5, 96.3),
         (58.4, 74.6, 80.0), (85.2, 92.1, 94.6)),
    _row('SALAD (re-run by the paper)', (90.7, 95.5, 96.1), (94.2, 98.4, 99.1),
         (91.1, 96.3, 97.2), (74.4, 88.2, 91.3), (89.8, 94.7, 95.8)),
    _row('RegVPR', (91.4, 96.2, 96.9), (94.8, 98.7, 99.3), (91.6, 96.9, 97.7),
         (75.1, 90.3, 93.5), (90.2, 95.1, 96.5)),
    Quoted(method='SALAD, 322 px', source='README of serizba/salad, commit e593005',
           figures={'msls-val-740': (92.2, 96.4, 97.0), 'pitts250k-test': (95.1, 98.5, 99.1),
                    'nordland-2760-pm1': (76.0, 89.2, 92.0), 'sped-607': (92.1, 96.2, 96.5)}),
    Quoted(method='BoQ DINOv2, 322 px',
           source='README of amaralibey/Bag-of-Queries, commit 1a4965e',
           figures={'msls-val-740': (93.8, 96.8, 97.0), 'pitts30k-test': (93.7, 97.1, 97.9),
                    'pitts250k-test': (96.6, 99.1, 99.5), 'nordland-2760-pm1': (81.3, 92.5, 94.8),
                    'nordland-27592-pm10': (90.6, 96.0, 97.5), 'sped-607': (92.5, 95.9, 96.7)}),
)
"""All quoted rows, in the order of the paper's table."""


def quoted_for(protocols: set[str]) -> list[Quoted]:
    """The quoted rows that have figures for any of these protocols."""
    return [row for row in QUOTED if protocols & row.figures.keys()]
