import numpy as np

from regvpr_core.datasets.ground_truth import (
    matches,
    same_label,
    within_frames,
    within_radius,
)


def as_lists(found):
    return [found.of(i).tolist() for i in range(len(found))]


def test_a_reference_on_the_radius_is_right():
    references = np.array([[0.0, 0.0], [25.0, 0.0], [25.01, 0.0], [15.0, 20.0]])
    assert as_lists(within_radius(np.array([[0.0, 0.0], [500.0, 0.0]]), references, 25.0)) == [
        [0, 1, 3], []]


def test_frames_within_a_tolerance_whatever_their_order():
    assert as_lists(within_frames([0, 10, 20], [21, 0, 9, 11, 1, 12], 1)) == [[1, 4], [2, 3], [0]]


def test_labels_and_empty_rows():
    assert as_lists(same_label(['b', 'c', 'a'], ['a', 'b', 'a'])) == [[1], [], [0, 2]]
    assert same_label(['b', 'c'], ['b']).counts.tolist() == [1, 0]


def test_hits_mark_right_references_and_never_missing_ones():
    hits = matches([[3, 1], []]).hits(np.array([[1, 2, 3], [-1, 0, 1]]))
    assert hits.tolist() == [[True, False, True], [False, False, False]]


def test_selecting_queries_and_references_numbers_them_anew():
    found = matches([[0, 2], [1], [2, 3]])
    kept = found.select(np.array([0, 2]), np.array([2, 3]), 4)
    assert as_lists(kept) == [[0], [0, 1]]
