import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from regvpr_core.cli import main
from regvpr_core.errors import CheckpointError, ImageError
from regvpr_core.images import find_images, read
from regvpr_core.models.encoder import Encoder
from regvpr_core.recordings.describing import describe_files


@pytest.fixture
def photos(tmp_path, noise):
    """Seven photos in two folders, one of them grey and one 16-bit, and a text file."""
    folder = tmp_path / 'photos'
    (folder / 'more').mkdir(parents=True)
    for i, rgb in enumerate(noise(7)):
        path = folder / ('more' if i % 2 else '') / f'{i}.png'
        pixels = {3: rgb[..., 0], 5: rgb.astype(np.uint16) * 257}.get(i, rgb)
        cv2.imwrite(str(path), pixels)
    (folder / 'notes.txt').write_text('no image')
    return folder


def test_a_folder_becomes_the_rows_that_describe_gives(photos, small_encoder, tmp_path):
    seen = []
    report = describe_files([photos], small_encoder, tmp_path / 'out.npz', 2,
                            lambda report: seen.append(report.done))
    assert (report.total, report.described, report.resumed, report.skipped) == (7, 7, 0, {})
    assert seen == [2, 4, 6, 7]
    with np.load(tmp_path / 'out.npz', allow_pickle=False) as file:
        assert file['names'].tolist() == [str(path) for path in find_images([photos])]
        assert file['names'].dtype.kind == 'U'
        assert file['descriptors'].dtype == np.float32
        assert str(file['fingerprint']) == small_encoder.fingerprint
        assert str(file['model']) == 'small'
        for name, row in zip(file['names'], file['descriptors'], strict=True):
            wanted = small_encoder.describe(read(Path(str(name))))
            np.testing.assert_allclose(row, wanted, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['out.npz', 'photos']


def test_unreadable_files_are_skipped_and_named(photos, small_encoder, tmp_path):
    (photos / 'broken.jpg').write_bytes(b'\xff\xd8 no picture')
    (photos / 'empty.png').touch()
    report = describe_files([photos], small_encoder, tmp_path / 'out.npz')
    assert (report.described, report.done) == (7, 9)
    assert sorted(report.skipped) == [str(photos / 'broken.jpg'), str(photos / 'empty.png')]
    assert 'broken.jpg' in report.skipped[str(photos / 'broken.jpg')]
    with np.load(tmp_path / 'out.npz') as file:
        assert file['skipped'].tolist() == sorted(report.skipped)
        assert len(file['descriptors']) == len(file['names']) == 7


class CutError(Exception):
    """The power goes."""


def cut_after(batches: int):
    """A progress callback that ends the run after so many batches."""
    def told(report):
        if report.described >= 2 * batches:
            raise CutError
    return told


def test_a_run_that_was_cut_off_resumes_and_gives_the_same_file(photos, small_encoder, tmp_path,
                                                                monkeypatch):
    describe_files([photos], small_encoder, tmp_path / 'whole.npz', 2)
    with pytest.raises(CutError):
        describe_files([photos], small_encoder, tmp_path / 'out.npz', 2, cut_after(2))
    assert not (tmp_path / 'out.npz').exists()
    # Cut in the middle of a row and of a line, as a crash leaves it.
    with (tmp_path / 'out.npz.rows').open('ab') as file:
        file.write(b'123')
    with (tmp_path / 'out.npz.journal').open('a') as file:
        file.write('"half a na')
    described = []
    plain = Encoder.describe_prepared
    monkeypatch.setattr(Encoder, 'describe_prepared',
                        lambda self, inputs: described.extend(inputs) or plain(self, inputs))
    report = describe_files([photos], small_encoder, tmp_path / 'out.npz', 2)
    assert (report.resumed, report.described, len(described)) == (4, 3, 3)
    with np.load(tmp_path / 'whole.npz') as whole, np.load(tmp_path / 'out.npz') as resumed:
        assert whole['names'].tolist() == resumed['names'].tolist()
        np.testing.assert_allclose(whole['descriptors'], resumed['descriptors'], atol=1e-5)
    assert not list(tmp_path.glob('out.npz.*'))


def test_rows_that_were_lost_are_described_again(photos, small_encoder, tmp_path):
    with pytest.raises(CutError):
        describe_files([photos], small_encoder, tmp_path / 'out.npz', 2, cut_after(2))
    rows = tmp_path / 'out.npz.rows'
    rows.write_bytes(rows.read_bytes()[:3 * 4 * small_encoder.dimension - 1])
    report = describe_files([photos], small_encoder, tmp_path / 'out.npz', 2)
    assert (report.resumed, report.described) == (2, 5)


def test_another_model_does_not_resume(photos, small_encoder, tmp_path):
    with pytest.raises(CutError):
        describe_files([photos], small_encoder, tmp_path / 'out.npz', 2, cut_after(1))
    journal = tmp_path / 'out.npz.journal'
    about, *names = journal.read_text().splitlines()
    other = json.loads(about) | {'model': 'other', 'fingerprint': 'e' * 64}
    journal.write_text('\n'.join([json.dumps(other), *names]) + '\n')
    with pytest.raises(CheckpointError, match=r'was begun with model other \(eeeeeeeeeeeeeeee…\)'):
        describe_files([photos], small_encoder, tmp_path / 'out.npz')


def test_of_two_runs_into_one_file_the_second_is_refused(photos, small_encoder, tmp_path):
    def told(report):
        with pytest.raises(ImageError, match=r'another run is writing .*out\.npz'):
            describe_files([photos], small_encoder, tmp_path / 'out.npz', 2)

    report = describe_files([photos], small_encoder, tmp_path / 'out.npz', 4, told)
    assert (report.described, report.resumed) == (7, 0)
    with np.load(tmp_path / 'out.npz') as out:
        assert out['descriptors'].shape == (7, small_encoder.dimension)


def test_a_folder_that_cannot_be_listed_is_no_gap_in_silence(photos, small_encoder, tmp_path,
                                                            monkeypatch):
    closed = photos / 'closed'
    closed.mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path) == closed:
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(ImageError, match='closed cannot be listed: Permission denied'):
        describe_files([photos], small_encoder, tmp_path / 'out.npz')


def test_no_more_than_two_batches_are_decoded_ahead(photos, small_encoder, tmp_path, monkeypatch):
    prepared, described, ahead = [], [], []
    plain = Encoder.describe_prepared

    def describe(self, inputs):
        described.extend(inputs)
        ahead.append(len(prepared) - len(described))
        return plain(self, inputs)

    prepare = Encoder.prepare
    monkeypatch.setattr(Encoder, 'prepare',
                        lambda self, rgb: prepared.append(1) or prepare(self, rgb))
    monkeypatch.setattr(Encoder, 'describe_prepared', describe)
    describe_files([photos], small_encoder, tmp_path / 'out.npz', 1)
    assert len(described) == 7
    assert max(ahead) <= 2


def test_what_cannot_be_described_is_refused(small_encoder, tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'bad.jpg').write_text('no')
    (tmp_path / 'there.npz').touch()
    for paths, output, message in (
            ([tmp_path / 'absent'], 'out.npz', 'absent does not exist'),
            ([tmp_path / 'empty'], 'out.npz', r'no image \(\.bmp, .* in .*empty'),
            ([tmp_path / 'bad.jpg'], 'out.npz', 'none of 1 files can be read as an image'),
            ([tmp_path / 'bad.jpg'], 'out.csv', r'must end in \.npz'),
            ([tmp_path / 'bad.jpg'], 'there.npz', 'exists already')):
        with pytest.raises(ImageError, match=message):
            describe_files(paths, small_encoder, tmp_path / output)


def test_the_command_describes_and_names_what_it_skips(photos, small_model, tmp_path, capsys):
    (photos / 'broken.jpg').write_bytes(b'no picture')
    output = tmp_path / 'out.npz'
    arguments = ['describe', str(photos), '-o', str(output), '--model', str(small_model),
                 '--device', 'cpu', '--batch', '3', '--json']
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert (facts['images'], facts['described'], facts['skipped']) == (8, 7, 1)
    assert 'broken.jpg: 10 bytes that are no image' in err
    assert main(arguments) == 1
    assert 'exists already' in capsys.readouterr().err
    assert main([*arguments, '--batch', '0']) == 1
    assert '--batch is 0; expected 1 to 4096' in capsys.readouterr().err
