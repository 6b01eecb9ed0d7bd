"""The scripts that make training data, and what is read of theirs."""

from examples.place_data import main
from regvpr_core.datasets.config import DataConfig, ValidationConfig
from regvpr_core.datasets.manifest import read_manifest
from regvpr_core.training.data_sets import validation_set


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


def test_real_drives_become_validation_sets_by_frames_along_the_way(tmp_path, picture):
    tables = {
        'campus_track': ['image,sequence,condition,pos'] + [
            f'{i}.png,d25_lap1,day,{i}' for i in range(334)] + [
            f'{i}.png,d27_dusk1,dusk,{i}' for i in range(1, 334, 37)],
        'pepper_office': ['image,sequence,pos'] + [
            f'{i}.png,map,{i - 4}' for i in range(40)] + [
            f'{i}.png,keyframes_gray,{i - 4}' for i in range(8)]}
    for name, lines in tables.items():
        for i in range(334 if name == 'campus_track' else 40):
            picture(tmp_path / name / f'{i}.png', i)
        (tmp_path / name / 'data.csv').write_text('\n'.join(lines))
    out = tmp_path / 'out'
    assert main(['drives', str(out), str(tmp_path)]) == 0
    dusk, grey = (validation_set(out / name / f'{name}.csv', ValidationConfig(
        kind='manifest', radius=radius)) for name, radius in (('campus_dusk', 10), ('pepper', 2)))
    assert (len(dusk.references), len(dusk.queries)) == (167, 2)
    # The lap is cyclic, and every second frame is a reference.
    assert list(2 * dusk.positives.of(0)) == [0, 2, 4, 6, 8, 10, 326, 328, 330, 332]
    assert (len(grey.references), len(grey.queries)) == (10, 4)
    assert [list(4 * grey.positives.of(i) - 4) for i in range(4)] == [[0], [0], [0, 4], [4]]


def test_a_town_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(['towns', str(tmp_path), '--seeds', '1', '--conditions', 'fog']) == 1
    assert capsys.readouterr().err.startswith('error: condition must be one of')
