import numpy as np
import pytest

from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation.retrieval_metrics import (
    first_hit,
    mean_average_precision,
    precision_recall,
    quantiles,
    recall_at,
)

HITS = np.array([
    [1, 0, 0, 0],
    [0, 0, 1, 1],
    [0, 0, 0, 0],
    [0, 1, 0, 0]], dtype=bool)


def test_recall_counts_queries_with_a_hit_among_the_first_k():
    assert recall_at(HITS, (1, 2, 3, 4)) == {1: 0.25, 2: 0.5, 3: 0.75, 4: 0.75}
    assert recall_at(HITS, (1,), total=8) == {1: 0.125}
    assert first_hit(HITS).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize('k', [0, 5])
def test_recall_beyond_the_ranking_is_refused(k):
    with pytest.raises(EvaluationError, match=f'recall@{k} needs {k} ranked references; there'):
        recall_at(HITS, (k,))


def test_recall_equals_torchmetrics_hit_rate():
    import torch
    from torchmetrics.retrieval import RetrievalHitRate

    rng = np.random.default_rng(1)
    hits = rng.random((40, 12)) < 0.1
    scores = -np.arange(12.0)[None].repeat(40, axis=0)
    for k in (1, 3, 10):
        theirs = RetrievalHitRate(top_k=k, empty_target_action='neg')(
            torch.tensor(scores.ravel()), torch.tensor(hits.ravel()),
            indexes=torch.arange(40).repeat_interleave(12))
        assert recall_at(hits, (k,))[k] == pytest.approx(float(theirs), abs=1e-6)


def test_precision_and_recall_by_hand():
    # Best matches by falling similarity: right, right, wrong, right, wrong; six revisits.
    curve = precision_recall([0.9, 0.5, 0.8, 0.7, 0.6], [1, 0, 1, 0, 1], revisits=6)
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    np.testing.assert_allclose(curve.precision, [1, 1, 2 / 3, 3 / 4, 3 / 5])
    np.testing.assert_allclose(curve.recall, [1 / 6, 2 / 6, 2 / 6, 3 / 6, 3 / 6])
    assert curve.average_precision == pytest.approx((1 + 1 + 3 / 4) / 6)
    assert curve.recall_at_full_precision == pytest.approx(2 / 6)


def test_equal_similarities_are_accepted_together():
    curve = precision_recall([0.5, 0.5, 0.4], [1, 0, 1], revisits=2)
    assert curve.thresholds.tolist() == [0.5, 0.4]
    assert curve.precision.tolist() == [0.5, 2 / 3]
    assert curve.recall_at_full_precision == 0.0


def test_a_query_without_any_match_is_never_accepted():
    curve = precision_recall([-np.inf, 0.5, -np.inf], [0, 1, 0], revisits=3)
    assert (curve.thresholds.tolist(), curve.precision.tolist()) == ([0.5], [1.0])
    assert curve.recall_at_full_precision == pytest.approx(1 / 3)


def test_the_curve_equals_scikit_learn_where_every_right_match_is_a_revisit():
    from sklearn.metrics import average_precision_score, precision_recall_curve

    rng = np.random.default_rng(2)
    scores = np.round(rng.random(300), 2)  # with ties
    right = rng.random(300) < scores
    curve = precision_recall(scores, right, revisits=int(right.sum()))
    precision, recall, thresholds = precision_recall_curve(right, scores)
    np.testing.assert_allclose(curve.precision[::-1], precision[:-1])
    np.testing.assert_allclose(curve.recall[::-1], recall[:-1])
    np.testing.assert_allclose(curve.thresholds[::-1], thresholds)
    assert curve.average_precision == pytest.approx(average_precision_score(right, scores))
    # Revisits whose best match is wrong are missed as well.
    more = precision_recall(scores, right, revisits=2 * int(right.sum()))
    assert more.average_precision == pytest.approx(average_precision_score(right, scores) / 2)


def test_average_precision_equals_torchmetrics():
    import torch
    from torchmetrics.classification import BinaryAveragePrecision

    rng = np.random.default_rng(3)
    scores, right = rng.random(200), rng.random(200) < 0.4
    theirs = BinaryAveragePrecision()(torch.tensor(scores), torch.tensor(right).int())
    ours = precision_recall(scores, right, revisits=int(right.sum())).average_precision
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_mean_average_precision_by_hand_and_against_both_libraries():
    from sklearn.metrics import average_precision_score
    import torch
    from torchmetrics.retrieval import RetrievalMAP

    assert mean_average_precision([[0.9, 0.8, 0.7, 0.6]], [[1, 0, 1, 0]]) == pytest.approx(
        (1 + 2 / 3) / 2)
    rng = np.random.default_rng(4)
    scores, relevant = rng.random((30, 50)), rng.random((30, 50)) < 0.1
    relevant[0] = False  # a query without a right reference does not count
    ours = mean_average_precision(scores, relevant)
    assert ours == pytest.approx(np.mean([
        average_precision_score(r, s) for r, s in zip(relevant[1:], scores[1:], strict=True)
        if r.any()]))
    theirs = RetrievalMAP(empty_target_action='skip')(
        torch.tensor(scores.ravel()), torch.tensor(relevant.ravel()),
        indexes=torch.arange(30).repeat_interleave(50))
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_nothing_to_find_gives_no_number_or_none():
    assert np.isnan(mean_average_precision([[0.5]], [[0]]))
    curve = precision_recall([0.5, 0.4], [0, 0], revisits=0)
    assert (curve.average_precision, curve.recall_at_full_precision) == (0.0, 0.0)
    assert quantiles([]) == {}
    assert quantiles([1.0, 2.0, 3.0])['median'] == 2.0


def test_a_thinned_curve_keeps_its_ends():
    curve = precision_recall(np.linspace(1, 0, 1000), np.arange(1000) % 3 == 0, revisits=400)
    thin = curve.thinned(50)
    assert len(thin.precision) <= 50
    assert (thin.recall[0], thin.recall[-1]) == (curve.recall[0], curve.recall[-1])
