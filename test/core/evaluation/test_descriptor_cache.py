import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation.descriptor_cache import DescriptorCache, picture_digest, trim


def rows(count: int, seed: int = 0, dimension: int = 8) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, dimension))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def digests(count: int, start: int = 0) -> list[bytes]:
    return [picture_digest(str(i).encode()) for i in range(start, start + count)]


def test_rows_are_found_again_by_picture(tmp_path):
    with DescriptorCache(tmp_path, 'f1', 'm') as cache:
        cache.append(digests(3), rows(3))
        cache.append(digests(2, 3), rows(2, 1))
    with DescriptorCache(tmp_path, 'f1', 'm') as cache:
        assert [cache.row_of(d) for d in digests(6)] == [0, 1, 2, 3, 4, None]
        np.testing.assert_array_equal(cache.matrix()[:3], rows(3))
        np.testing.assert_array_equal(cache.matrix()[3:], rows(2, 1))


def test_another_model_has_another_cache(tmp_path):
    with DescriptorCache(tmp_path, 'f1', 'm') as cache:
        cache.append(digests(1), rows(1))
        with DescriptorCache(tmp_path, 'f2', 'm') as other:
            assert other.row_of(digests(1)[0]) is None


@pytest.mark.parametrize(('name', 'cut'), [('rows.f32', 1), ('rows.f32', 40), ('journal', 1),
                                           ('journal', 40)])
def test_a_half_written_tail_is_cut_off(tmp_path, name, cut):
    with DescriptorCache(tmp_path, 'f', 'm') as cache:
        cache.append(digests(5), rows(5))
        path = cache.path / name
    with path.open('r+b') as file:
        file.truncate(path.stat().st_size - cut)
    kept = 5 - -(-cut // (32 if name == 'rows.f32' else 36))
    with DescriptorCache(tmp_path, 'f', 'm') as cache:
        assert len(cache) == kept
        cache.append(digests(1, 9), rows(1, 9))
        np.testing.assert_array_equal(cache.matrix()[kept], rows(1, 9)[0])
        np.testing.assert_array_equal(cache.matrix()[:kept], rows(5)[:kept])


def test_from_a_changed_row_on_pictures_are_described_again(tmp_path):
    """As after a power cut, when blocks of a file may be missing."""
    with DescriptorCache(tmp_path, 'f', 'm') as cache:
        cache.append(digests(3), rows(3))
        path = cache.path / 'rows.f32'
    data = bytearray(path.read_bytes())
    data[33] ^= 1
    path.write_bytes(data)
    with DescriptorCache(tmp_path, 'f', 'm') as cache:
        assert [cache.row_of(d) for d in digests(3)] == [0, None, None]
        cache.append(digests(2, 1), rows(2, 5))
    with DescriptorCache(tmp_path, 'f', 'm') as cache:
        np.testing.assert_array_equal(cache.matrix(), np.concatenate([rows(3)[:1], rows(2, 5)]))


@pytest.mark.parametrize('about', ['{', '[]', '{"format_version": 9}', '', json.dumps({
    'format_version': 1, 'fingerprint': 'f', 'dimension': 10**12})])
def test_a_record_that_says_nothing_useful_starts_anew(tmp_path, about):
    with DescriptorCache(tmp_path, 'f', 'm') as cache:
        cache.append(digests(1), rows(1))
        path = cache.path / 'about.json'
    path.write_text(about)
    with DescriptorCache(tmp_path, 'f', 'm') as cache:
        assert len(cache) == 0
        cache.append(digests(1), rows(1))
        assert cache.row_of(digests(1)[0]) == 0


def test_two_runs_cannot_fill_one_cache(tmp_path):
    with DescriptorCache(tmp_path, 'f', 'm'):
        with pytest.raises(EvaluationError, match='is being filled by another run; wait for it'):
            DescriptorCache(tmp_path, 'f', 'm')


def test_a_model_that_changes_its_length_is_refused(tmp_path):
    with DescriptorCache(tmp_path, 'f', 'm') as cache:
        cache.append(digests(1), rows(1))
        with pytest.raises(EvaluationError, match='gave 8 numbers an image before and 9 now'):
            cache.append(digests(1, 5), rows(1, 0, 9))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(EvaluationError, match='cannot be written'):
        DescriptorCache(tmp_path / 'file', 'f', 'm')


def test_the_models_used_longest_ago_are_dropped_above_a_limit(tmp_path):
    for age, name in enumerate(('new', 'middle', 'old')):
        with DescriptorCache(tmp_path, name, 'm') as cache:
            cache.append(digests(100), rows(100))  # 6,800 bytes
            os.utime(cache.path / 'about.json', (10_000 - age, 10_000 - age))
    assert trim(tmp_path, 21_000) == []
    assert len(trim(tmp_path, 10_000)) == 2
    with DescriptorCache(tmp_path, 'new', 'm') as cache:
        assert len(cache) == 100
        assert trim(tmp_path, 0) == []  # it is in use
    with DescriptorCache(tmp_path, 'old', 'm') as cache:
        assert len(cache) == 0


def test_what_is_no_cache_of_ours_is_never_dropped(tmp_path):
    mine = tmp_path / 'thesis'
    mine.mkdir()
    (mine / 'about.json').write_text('{"fingerprint": "f"}')
    (mine / 'rows.f32').write_bytes(bytes(9000))
    with DescriptorCache(tmp_path, 'f', 'm') as cache:
        cache.append(digests(2), rows(2))
        (cache.path / 'notes.txt').write_text('kept')
    assert trim(tmp_path, 0) == [cache.path.name]
    assert (mine / 'rows.f32').stat().st_size == 9000
    assert [p.name for p in cache.path.iterdir()] == ['notes.txt']


@pytest.mark.parametrize('kind', [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_where_it_stopped(tmp_path, kind):
    """The child describes images one by one, says how many it has, and is killed."""
    child = textwrap.dedent("""
        import signal, sys
        from pathlib import Path
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
        import numpy as np
        from regvpr_core.evaluation.descriptor_cache import DescriptorCache, picture_digest
        with DescriptorCache(Path(sys.argv[1]), 'f', 'm') as cache:
            i = len(cache)
            while True:
                row = np.full((1, 8), float(i), np.float32)
                cache.append([picture_digest(str(i).encode())], row)
                i += 1
                print(i, flush=True)
    """)
    done = 0
    for _ in range(2):
        with subprocess.Popen([sys.executable, '-c', child, str(tmp_path)], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            for line in process.stdout:
                if int(line) >= done + 25:
                    process.send_signal(kind)
                    break
            process.stdout.read()
        with DescriptorCache(tmp_path, 'f', 'm') as cache:
            assert len(cache) >= done + 25
            done = len(cache)
            expected = np.repeat(np.arange(done, dtype=np.float32)[:, None], 8, axis=1)
            np.testing.assert_array_equal(cache.matrix(), expected)
            assert [cache.row_of(d) for d in digests(done)] == list(range(done))
