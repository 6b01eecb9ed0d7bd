"""docs/evaluation.md against the code."""

from pathlib import Path
import re

from regvpr_core.datasets.protocols import PROTOCOLS
from regvpr_core.evaluation.robustness import DEGRADATIONS
from regvpr_core.models.catalogue import CATALOGUE

PAGE = (Path(__file__).resolve().parents[3] / 'docs' / 'evaluation.md').read_text()


def test_every_protocol_is_documented_with_its_counts():
    for name, protocol in PROTOCOLS.items():
        line = next(line for line in PAGE.splitlines() if line.startswith('|') and f'`{name}`' in
                    line.split('|')[1])
        for count in (protocol.queries, protocol.references):
            assert count is None or f'{count:,}' in line, name


def test_every_method_and_degradation_is_named():
    for name in (*CATALOGUE, *DEGRADATIONS):
        assert re.search(rf'\b{name}\b', PAGE, re.IGNORECASE), name


def test_the_table_of_the_benchmark_is_there():
    table = PAGE.split('<!-- retrieval: written by benchmarks/retrieval.py -->')[1]
    rows = [line for line in table.split('<!-- end -->')[0].splitlines() if line.startswith('|')]
    assert len(rows) >= 2 + 8
    assert 'efficientnet_lite0_gem' in rows[0]
