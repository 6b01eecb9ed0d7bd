"""`regvpr quickstart`: from a recording to a map with figures and a node command."""

import json
from pathlib import Path

import pytest

from regvpr_core.cli import main, quickstart
from regvpr_core.cli.quickstart import launch_command
from regvpr_core.images import encode_jpeg
from regvpr_core.mapping.expectation import Expectation
from regvpr_core.maps.place_map import PlaceMap


def test_a_bag_becomes_a_map_a_page_parameters_and_a_command(
    make_bag, frames, small_model, tmp_path, capsys, monkeypatch,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('shutil.which', lambda name: f'/bin/{name}')
    bag = make_bag(tmp_path / 'drive', frames(30), compressed=True)
    assert main(['quickstart', str(bag), '--out', 'site', '--model', str(small_model),
                 '--json']) == 0
    record = json.loads(capsys.readouterr().out)
    expected = record['expectation']
    with PlaceMap.open(Path('site/map')) as place_map:
        assert expected['queries'] + expected['references'] == len(place_map) > 20
        assert place_map.attachment('calibration') is not None
    assert expected['queries'] == len(place_map) // 2
    # Each image shows four fifths of the one before, so the nearest is a neighbour.
    assert expected['recall_at_1'] > 0.9
    assert 0.0 <= expected['localized'] <= 1.0
    assert expected['one_way'] == 1.0
    assert json.loads(Path('site/expectation.json').read_text()) == record
    parameters = Path('site/params.yaml').read_text()
    assert f'map: "{tmp_path / "site" / "map"}"' in parameters
    assert record['command'] == (
        f'ros2 launch regvpr_ros localize.launch.py map:={tmp_path}/site/map '
        f'params_file:={tmp_path}/site/params.yaml image_topic:=/camera/image_raw '
        f'compressed:=true odom_topic:=/odom')
    monkeypatch.setattr('shutil.which', lambda name: None if name == 'ros2' else name)
    assert launch_command(Path('site/map'), Path('site/params.yaml'), record) == (
        f'localize --ros-args --params-file {tmp_path}/site/params.yaml -p compressed:=true '
        f'-r image/compressed:=/camera/image_raw/compressed -r odom:=/odom')
    monkeypatch.setattr('shutil.which', lambda name: None)
    assert launch_command(Path('site/map'), Path('site/params.yaml'), record) == record['command']
    assert Path('site/map.html').read_text().startswith('<!')


def test_a_bag_with_several_pose_topics_is_answered_with_a_list(
    make_bag, frames, tmp_path, capsys, monkeypatch,
):
    from regvpr_core.recordings import bags

    real = bags.Bag.topics

    def doubled(bag, *types):
        found = real(bag, *types)
        return found + [bags.Topic('/slam_pose', t.type, t.count) for t in found
                        if t.name == '/odom']

    monkeypatch.setattr(bags.Bag, 'topics', doubled)
    bag = make_bag(tmp_path / 'drive', frames(3))
    assert main(['quickstart', str(bag), '--out', str(tmp_path / 'site')]) == 1
    err = capsys.readouterr().err
    assert 'has 2 pose topics; choose one with --pose-topic: /odom (3), /slam_pose (3)' in err
    assert not (tmp_path / 'site').exists()
    assert main(['quickstart', str(bag), '--out', str(tmp_path / 'site'),
                 '--pose-topic', '/odm']) == 1
    assert "no pose topic '/odm'; did you mean '/odom'?" in capsys.readouterr().err


def test_a_folder_of_images_becomes_a_map_without_a_node_command(
    noise, small_model, tmp_path, capsys,
):
    photos = tmp_path / 'photos'
    photos.mkdir()
    rows = ['image,x,y,yaw']
    for i, rgb in enumerate(noise(24)):
        (photos / f'{i}.jpg').write_bytes(encode_jpeg(rgb, 95))
        rows.append(f'{i}.jpg,{i},0,0')
    (photos / 'poses.csv').write_text('\n'.join(rows))
    out = tmp_path / 'site'
    assert main(['quickstart', str(photos), '--out', str(out), '--model', str(small_model)]) == 0
    shown, said = capsys.readouterr()
    assert 'recall@1' in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if '│' in line)
    assert said.splitlines()[-1].startswith('next: regvpr localize ')
    assert not (out / 'params.yaml').exists()
    assert main(['quickstart', str(photos), '--out', str(out)]) == 1
    assert 'exists; choose another folder with --out DIR' in capsys.readouterr().err


@pytest.mark.parametrize(('drive', 'localized', 'advice'), [
    (False, 0.0, 'take images more densely, or ask a drive as a whole: regvpr localize MAP'),
    (True, 0.0, 'its keyframes lie too far apart; take images more densely'),
    (False, 0.1, None), (True, 0.1, None)])
def test_where_nothing_is_answered_it_is_said_why_and_what_to_do(
    drive, localized, advice, tmp_path, capsys,
):
    expectation = Expectation(
        how='every third', queries=10, references=20, radius_m=2.0, recall_at_1=0.5,
        localized=localized, precision=None, unsure=0.0, unsure_right=None, error_m=None,
        look_alike=0, compared=20, one_way=0.0)
    quickstart._print(tmp_path, expectation, drive=drive)
    out = capsys.readouterr().out
    assert ('no pose was given: ' in out) == (advice is not None)
    assert advice is None or advice in out


@pytest.mark.parametrize(('arguments', 'message'), [
    ([], 'give a bag or a folder of images, or --record-s SECONDS'),
    (['--record-s', '5'], '--record-s needs --image-topic and --pose-topic'),
    (['nowhere.bag'], 'nowhere.bag does not exist')])
def test_what_is_missing_is_asked_for(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['quickstart', *arguments]) == 1
    assert message in capsys.readouterr().err
