from dataclasses import replace
import json

import numpy as np
import pytest

from regvpr_core.datasets.dataset import GivenDescriptors, PictureFile
from regvpr_core.datasets.ground_truth import matches
from regvpr_core.errors import ConfigError, EvaluationError
from regvpr_core.evaluation.evaluator import evaluate, EvaluateConfig
from regvpr_core.evaluation.robustness import DEGRADATIONS, robustness
from regvpr_core.evaluation.tables import comparison, write_csv, write_json, write_queries_csv
from regvpr_core.images import decode

CONFIG = EvaluateConfig()


def test_the_same_pictures_are_found_again(line_dataset, pixel_means):
    dataset = line_dataset(25, [3, 7, 20])
    result = evaluate(dataset, pixel_means, CONFIG)
    assert result.recalls == {1: 1.0, 5: 1.0, 10: 1.0, 20: 1.0}
    assert result.ranking.references[:, 0].tolist() == [3, 7, 20]
    assert result.errors_m.tolist() == [0.0, 0.0, 0.0]
    assert result.curve.average_precision == 1.0
    assert result.curve.recall_at_full_precision == 1.0
    assert (result.without_positives, result.described) == (0, 25)  # queries show references


def test_wrong_ground_truth_gives_errors_in_metres_and_ranks(line_dataset, pixel_means):
    dataset = replace(line_dataset(25, [3, 7]), positives=matches([[4], [7]]))
    result = evaluate(dataset, pixel_means, CONFIG)
    assert result.recalls[1] == 0.5
    xy = dataset.query_xy + np.array([[30.0, 40.0], [0.0, 0.0]])
    assert evaluate(replace(dataset, query_xy=xy), pixel_means, CONFIG).errors_m.tolist() == [
        50.0, 0.0]


def test_what_a_session_has_in_common_is_taken_off_beside_the_plain_recall(line_dataset):
    rng = np.random.default_rng(0)
    places = rng.standard_normal((25, 32)).astype(np.float32)
    hour = 20 * rng.standard_normal(32).astype(np.float32)
    rows = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (
        places, places[:12] + hour + 0.3 * rng.standard_normal((12, 32)).astype(np.float32))]
    given = [GivenDescriptors(x, 'here', 'model', 'mark') for x in rows]
    dataset = replace(line_dataset(25, list(range(12))), positives=matches(
        [[i] for i in range(12)]), given_references=given[0], given_queries=given[1])
    result = evaluate(dataset, None, CONFIG)
    assert result.recalls[1] < 0.2
    assert result.centred[1] == 1.0
    assert result.figures()['recall_centred']['1'] == 1.0
    few = replace(dataset.subset(np.arange(3), np.arange(25), 'few'), given_references=given[0],
                  given_queries=replace(given[1], rows=rows[1][:3]))
    assert evaluate(few, None, CONFIG).centred == {}  # three images have no mean to speak of


def test_queries_without_a_right_reference_count_as_misses(line_dataset, pixel_means):
    dataset = replace(line_dataset(25, [1, 2, 3, 4]), positives=matches([[1], [2], [], []]))
    result = evaluate(dataset, pixel_means, CONFIG)
    assert result.recalls[20] == 0.5
    assert result.without_positives == 2
    # A match of such a query is a false one; recall is of the two that can be found.
    assert result.curve.recall[-1] == 1.0
    assert result.curve.precision[-1] == 0.5


def test_descriptors_are_kept_between_runs(line_dataset, pixel_means, tmp_path):
    dataset = line_dataset(12, [3, 7])
    first = evaluate(dataset, pixel_means, CONFIG, tmp_path / 'cache')
    done = pixel_means.described
    again = evaluate(dataset, pixel_means, CONFIG, tmp_path / 'cache')
    assert (pixel_means.described, again.described) == (done, 0)
    np.testing.assert_array_equal(first.ranking.similarities, again.ranking.similarities)
    # A picture that changes is described again, and only that one.
    dataset.references[5].path.write_bytes(dataset.references[6].path.read_bytes()[:-1] + b'\0')
    evaluate(dataset, pixel_means, CONFIG, tmp_path / 'cache')
    assert pixel_means.described == done + 1


def test_a_run_that_breaks_off_keeps_what_it_has_described(line_dataset, pixel_means, tmp_path):
    dataset = line_dataset(40, [3])

    def stop(what, done, total):
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(dataset, pixel_means, EvaluateConfig(batch=8), tmp_path / 'cache', stop)
    before = pixel_means.described
    assert before == 16
    evaluate(dataset, pixel_means, EvaluateConfig(batch=8), tmp_path / 'cache')
    assert pixel_means.described == 40


def test_models_without_a_fingerprint_keep_nothing(line_dataset, pixel_means, tmp_path):
    pixel_means.fingerprint = ''
    dataset = line_dataset(12, [3])
    for _ in range(2):
        evaluate(dataset, pixel_means, CONFIG, tmp_path / 'cache')
    assert pixel_means.described >= 2 * 12
    assert not (tmp_path / 'cache').exists()


def test_a_batch_of_one_gives_the_same(line_dataset, pixel_means):
    dataset = line_dataset(12, [3, 7])
    one = evaluate(dataset, pixel_means, EvaluateConfig(batch=1))
    many = evaluate(dataset, pixel_means, EvaluateConfig(batch=64))
    np.testing.assert_allclose(one.ranking.similarities, many.ranking.similarities, atol=1e-6)


def test_pictures_that_cannot_be_read_are_refused_or_left_out_and_said(line_dataset, pixel_means):
    dataset = line_dataset(25, [3, 7, 20])
    dataset.references[7].path.write_bytes(b'no picture')
    dataset.queries[2].path.unlink()
    with pytest.raises(EvaluationError, match=r'^2 of 28 images of line cannot be read, e\.g\. .'
                                              r'*q2\.png: cannot be read: No such file'):
        evaluate(dataset, pixel_means, CONFIG)
    result = evaluate(dataset, pixel_means, EvaluateConfig(partial=True))
    assert (len(result.dataset.queries), len(result.dataset.references)) == (2, 24)
    assert result.dataset.title == 'line (partial)'
    assert result.recalls[1] == 0.5  # the reference of the second query is gone
    assert result.without_positives == 1


def test_asking_for_more_than_there_is_is_refused(line_dataset, pixel_means):
    dataset = line_dataset(4, [3])
    assert list(evaluate(dataset, pixel_means, CONFIG).recalls) == [1]
    with pytest.raises(EvaluationError, match=r'recall@5 asks for more references than line has '
                                              r'\(4\); choose smaller numbers with --recalls'):
        evaluate(dataset, pixel_means, EvaluateConfig(recalls=(1, 5)))


@pytest.mark.parametrize('recalls', [(0,), (5, 1), (1, 1), (), (2000,)])
def test_recalls_out_of_range_are_refused(recalls):
    with pytest.raises(ConfigError, match='recalls'):
        EvaluateConfig(recalls=recalls)


def test_descriptors_of_another_model_are_refused(line_dataset, pixel_means):
    rows = np.eye(12, dtype=np.float32)
    given = GivenDescriptors(rows, 'other', 'other_model', 'map m')
    dataset = replace(line_dataset(12, [3]), given_references=given)
    with pytest.raises(EvaluationError, match='map m was built with other_model, not with pixel'):
        evaluate(dataset, pixel_means, CONFIG)
    both = replace(dataset, given_queries=GivenDescriptors(rows[[3]], 'other', 'o', 'map q'))
    assert evaluate(both, None, CONFIG).recalls[1] == 1.0
    with pytest.raises(EvaluationError, match='queries of line have no descriptors: give a model'):
        evaluate(dataset, None, CONFIG)


def test_tables_put_quoted_rows_beside_whole_data_sets_only(line_dataset, pixel_means, tmp_path):
    dataset = replace(line_dataset(25, [3]), name='sped-607', protocol='sped-607')
    whole = evaluate(dataset, pixel_means, CONFIG)
    part = evaluate(replace(dataset, partial='1 of 607 queries'), pixel_means, CONFIG)
    data, ks, rows = comparison([whole])
    assert (data, ks) == (['sped-607'], [1, 5, 10, 20])
    regvpr = next(row for row in rows if row.method == 'RegVPR')
    assert regvpr.source == 'RegVPR paper, Table 1 (Yu and Fu, 2024)'
    assert regvpr.figures == {('sped-607', 1): 90.2, ('sped-607', 5): 95.1, ('sped-607', 10): 96.5}
    assert [row.method for row in comparison([part])[2]] == ['pixel_means']

    write_json(tmp_path / 'r.json', [whole], {})
    write_csv(tmp_path / 'r.csv', [whole])
    write_queries_csv(tmp_path / 'q.csv', [whole])
    record = json.loads((tmp_path / 'r.json').read_text())
    assert record['results'][0]['recall'] == {'1': 1.0, '5': 1.0, '10': 1.0, '20': 1.0}
    assert record['results'][0]['precision_recall']['precision'] == [1.0]
    assert {row['method'] for row in record['quoted']} >= {'NetVLAD', 'RegVPR', 'SALAD, 322 px'}
    lines = (tmp_path / 'r.csv').read_text().splitlines()
    assert lines[1].startswith('pixel_means,sped-607,sped-607,,measured,1,25,1.0,1.0,1.0,1.0,1.0')
    assert 'quoted: RegVPR paper, Table 1 (Yu and Fu, 2024)' in lines[2]
    assert (tmp_path / 'q.csv').read_text().splitlines()[1].split(',')[2:] == [
        'q0.png', 'r3.png', '1.000000', '1', '1', '0.000']


@pytest.mark.parametrize('kind', DEGRADATIONS)
def test_degradations_come_out_the_same_again_and_get_worse(kind, noise):
    about = DEGRADATIONS[kind]
    rgb = noise(1)[0]
    changes = []
    for strength in about.strengths:
        changed = about.apply(rgb, strength, 3)
        np.testing.assert_array_equal(changed, about.apply(rgb, strength, 3))
        assert (changed.dtype, changed.ndim) == (np.uint8, 3)
        if changed.shape == rgb.shape:
            changes.append(float(np.abs(changed.astype(int) - rgb).mean()))
    assert changes == sorted(changes)
    if kind == 'crop':
        assert changed.shape == (60, 80, 3)  # half of each side of 120 x 160
    else:
        assert changes[0] > 0


def test_stated_strengths_are_what_happens():
    grey = np.full((100, 200, 3), 100, np.uint8)
    assert (DEGRADATIONS['darker'].apply(grey, 0.2, 0) == 20).all()
    assert (DEGRADATIONS['brighter'].apply(grey, 3.2, 0) == 255).all()
    black = np.zeros((100, 200, 3), np.uint8)
    covered = (DEGRADATIONS['occlusion'].apply(black, 40.0, 1) == 128).all(axis=2).mean()
    assert covered == pytest.approx(0.4, abs=0.01)
    noisy = DEGRADATIONS['noise'].apply(grey, 20.0, 0)
    assert np.std(noisy.astype(float)) == pytest.approx(20.0, rel=0.03)
    turned = {DEGRADATIONS['rotation'].apply(np.arange(60000, dtype=np.uint8).reshape(
        100, 200, 3), 10.0, i).tobytes() for i in range(12)}
    assert len(turned) == 2  # to the left or to the right


def test_robustness_starts_at_the_plain_recall_and_is_kept(line_dataset, pixel_means, tmp_path):
    dataset = line_dataset(25, list(range(0, 25, 2)))
    curves = robustness(dataset, pixel_means, CONFIG, tmp_path / 'c', 1.0, ('noise', 'crop'))
    assert [c.kind for c in curves] == ['noise', 'crop']
    assert curves[0].strengths == (0.0, 10.0, 20.0, 40.0, 80.0)
    assert curves[0].recall_at_1[0] == 1.0
    assert curves[1].recall_at_1[-1] < 0.6  # half of a wall of noise is another wall
    described = pixel_means.described
    again = robustness(dataset, pixel_means, CONFIG, tmp_path / 'c', 1.0, ('noise', 'crop'))
    assert pixel_means.described == described
    assert [c.recall_at_1 for c in again] == [c.recall_at_1 for c in curves]


def test_a_picture_larger_than_any_is_not_loaded(tmp_path):
    path = tmp_path / 'huge.jpg'
    with path.open('wb') as file:
        file.truncate(300_000_000)
    from regvpr_core.errors import ImageError

    with pytest.raises(ImageError, match='300000000 bytes; expected at most 200000000'):
        PictureFile('huge.jpg', path).encoded()


def test_robustness_reads_the_references_once_for_all_kinds(line_dataset, pixel_means):
    """Without a cache they would otherwise be described again for every kind."""
    dataset = line_dataset(30, [3, 7])
    robustness(dataset, pixel_means, CONFIG, None, 1.0, ('noise', 'crop', 'blur'))
    assert pixel_means.described == 30 + 3 * 4 * 2


def test_queries_are_compressed_as_the_map_is(line_dataset, pixel_means):
    dataset = line_dataset(12, [3, 7])
    plain = evaluate(dataset, pixel_means, CONFIG)
    matrix = np.linalg.qr(np.random.default_rng(1).normal(size=(36, 36)))[0].astype(np.float32)

    def project(rows):
        short = rows @ matrix[:, :20]
        return short / np.linalg.norm(short, axis=1, keepdims=True)

    pictures = [pixel_means.prepare(decode(p.encoded())) for p in dataset.references]
    rows = project(pixel_means.describe(pictures))
    given = GivenDescriptors(rows, 'pixel', 'pixel_means', 'map m', project)
    pixel_means.fingerprint = 'pixel-1'
    result = evaluate(replace(dataset, given_references=given), pixel_means, CONFIG)
    assert (plain.dimension, result.dimension) == (36, 20)
    assert result.ranking.similarities[:, 0] == pytest.approx(1.0, abs=1e-5)
    assert result.recalls[1] == 1.0
