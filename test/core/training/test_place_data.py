"""The scripts that make training data, and what is read of theirs."""

from examples.place_data import main
from regvpr_core.datasets.config import DataConfig
from regvpr_core.datasets.manifest import read_manifest


def test_rendered_laps_of_two_conditions_meet_in_places(tmp_path):
    assert main(['towns', str(tmp_path), '--seeds', '21', '--conditions', 'day', 'dusk',
                 '--step-m', '50']) == 0
    places = read_manifest(tmp_path / 'manifest.csv', DataConfig(kind='manifest', apart=10))
    assert len(places.paths) == 16
    assert all(path.is_file() for path in places.paths)
    assert set(places.groups) == {'town21'}
    assert places.positions.shape == (len(places.members), 3)


def test_numbered_files_become_places_of_n(tmp_path, picture):
    for i in range(7):
        picture(tmp_path / 'photos' / f'image{i:02d}.png', i)
    out = tmp_path / 'out'
    assert main(['numbered', str(out), str(tmp_path / 'photos'), '--each', '3']) == 0
    places = read_manifest(out / 'manifest.csv', DataConfig(kind='manifest'))
    assert [[places.names[i] for i in m] for m in places.members] == [
        ['image00.png', 'image01.png', 'image02.png'],
        ['image03.png', 'image04.png', 'image05.png'], ['image06.png']]


def test_a_town_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(['towns', str(tmp_path), '--seeds', '1', '--conditions', 'fog']) == 1
    assert capsys.readouterr().err.startswith('error: condition must be one of')
