import subprocess
import sys
import textwrap

import numpy as np
import pytest

from regvpr_core.datasets.ground_truth import matches
from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation import searching
from regvpr_core.evaluation.describe_pictures import Rows
from regvpr_core.evaluation.searching import (
    agreement,
    block_rows,
    exact_search,
    indexed_search,
    spare,
    without_excluded,
)


def unit(count: int, seed: int, dimension: int = 16) -> Rows:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Rows(rows, np.arange(count))


@pytest.mark.parametrize('block', [1, 7, 100, 4096])
def test_blocks_give_what_one_matrix_product_gives(monkeypatch, block):
    monkeypatch.setattr(searching, 'BLOCK_ROWS', block)
    references, queries = unit(100, 1), unit(9, 2)
    ranking = exact_search(queries, references, 5)
    similarities = queries.matrix @ references.matrix.T
    expected = np.argsort(-similarities, axis=1)[:, :5]
    np.testing.assert_array_equal(ranking.references, expected)
    np.testing.assert_allclose(
        ranking.similarities, np.take_along_axis(similarities, expected, 1), atol=1e-6)


def test_fewer_references_than_asked_for_are_all_ranked():
    assert exact_search(unit(2, 1), unit(3, 2), 10).references.shape == (2, 3)


def test_equal_references_keep_their_order_across_blocks(monkeypatch):
    monkeypatch.setattr(searching, 'BLOCK_ROWS', 2)
    same = Rows(np.tile(unit(1, 3).matrix, (5, 1)), np.arange(5))
    assert exact_search(same, same, 5).references.tolist() == [[0, 1, 2, 3, 4]] * 5


def test_excluded_references_are_passed_over():
    rows = unit(6, 4)
    excluded = matches([[i] for i in range(6)])
    assert spare(excluded) == 1
    ranking = without_excluded(exact_search(rows, rows, 3), excluded, 2)
    similarities = rows.matrix @ rows.matrix.T - 9 * np.eye(6)
    np.testing.assert_array_equal(ranking.references, np.argsort(-similarities, axis=1)[:, :2])
    with pytest.raises(EvaluationError, match='a query excludes 5000 references; at most 4096'):
        spare(matches([range(5000)]))


def test_blocks_of_long_descriptors_are_smaller():
    assert block_rows(256) == 4096
    assert block_rows(8448) * 8448 * 4 <= 128_000_000
    assert block_rows(10**9) == 1


def test_agreement_is_the_share_of_exact_neighbours_that_were_found():
    exact, other = (exact_search(unit(4, 5), unit(count, 6), 4) for count in (50, 25))
    assert agreement(exact, exact, 4) == 1.0
    shared = [len(set(a) & set(b)) / 4 for a, b in
              zip(exact.references.tolist(), other.references.tolist(), strict=True)]
    assert agreement(exact, other, 4) == pytest.approx(np.mean(shared))


def test_an_unknown_index_is_refused():
    with pytest.raises(EvaluationError, match="unknown index 'octree'; known: exact, rabitq"):
        indexed_search(unit(2, 1), unit(3, 2), 1, 'octree')


@pytest.mark.parametrize(('count', 'k'), [(600, 10), (5, 10), (1, 1)])
def test_rabitq_agrees_with_the_exact_search_and_gives_plain_cosines(count, k):
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(count, 96)) + 2.0  # all share a direction, as descriptors do
    references = Rows((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32),
                      np.arange(count))
    queries = Rows(references.matrix, np.arange(min(count, 20)))
    exact = exact_search(queries, references, k)
    indexed = indexed_search(queries, references, k, 'rabitq')
    other = indexed.ranking
    assert count * 96 / 8 <= indexed.resident_bytes
    assert indexed.build_s > 0
    assert other.references[:, 0].tolist() == list(range(len(queries)))
    assert agreement(exact, other, k) > 0.97
    np.testing.assert_allclose(other.similarities[:, 0], 1.0, atol=1e-5)


def test_a_hundred_thousand_references_are_searched_in_bounded_memory(tmp_path):
    """410 MB of descriptors on disk; the limit of the child is what it has plus 200 MB."""
    child = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        import numpy as np
        from regvpr_core.evaluation.describe_pictures import Rows
        from regvpr_core.evaluation.searching import exact_search
        count, dimension = 100_000, 1024
        path = Path(sys.argv[1]) / 'rows.f32'
        with path.open('wb') as file:
            file.truncate(4 * count * dimension)  # a sparse file: no disk is filled
        matrix = np.memmap(path, np.float32, 'r+', shape=(count, dimension))
        wanted = [5, 4096, 50_000, 99_999]
        for place, row in enumerate(wanted):
            matrix[row, place] = 1.0
        matrix.flush()
        queries = Rows(np.eye(dimension, dtype=np.float32)[:4], np.arange(4))
        exact_search(queries, Rows(matrix, np.arange(5000)), 2)  # libraries are loaded now
        words = {line.split(':')[0]: line.split()[1] for line in open('/proc/self/status')
                 if line.startswith('VmData')}
        limit = int(words['VmData']) * 1024 + 200_000_000
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            np.ones(300_000_000, np.uint8)
        except MemoryError:
            pass
        else:
            sys.exit('the limit does not hold')
        ranking = exact_search(queries, Rows(matrix, np.arange(count)), 2)
        print(ranking.references[:, 0].tolist(), ranking.similarities[:, 0].tolist())
    """)
    run = subprocess.run([sys.executable, '-c', child, str(tmp_path)], capture_output=True,
                         text=True, check=False, timeout=160)
    assert run.stdout.strip() == '[5, 4096, 50000, 99999] [1.0, 1.0, 1.0, 1.0]', run.stderr[-500:]
