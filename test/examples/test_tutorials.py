"""The commands of the tutorials and the README's example run, on images made here."""

from dataclasses import replace
import json
from pathlib import Path
import re
import shlex

import pytest

from regvpr_core.cli import main
from regvpr_core.images import encode_jpeg
from regvpr_core.maps.place_map import PlaceMap

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / 'docs' / 'tutorials'


def commands(page: Path) -> list[list[str]]:
    """The `regvpr` commands of a page, as words."""
    text = re.sub(r'\\\n\s*', ' ', page.read_text(encoding='utf-8'))
    return [shlex.split(line, comments=True)[1:]
            for line in re.findall(r'^    (regvpr .*)$', text, re.MULTILINE)]


def example(page: Path) -> str:
    """The Python example of a page."""
    return re.search(r'```python\n(.*?)```', page.read_text(encoding='utf-8'), re.DOTALL)[1]


@pytest.fixture
def work(tmp_path, noise, monkeypatch) -> Path:
    """A working folder with PHOTOS, QUERIES, references, queries and places."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    images = noise(24)
    for name, chosen in (('PHOTOS', range(24)), ('references', range(24)),
                         ('QUERIES', (3, 15)), ('queries', (4, 9, 16))):
        folder = tmp_path / name
        folder.mkdir()
        rows = ['image,x,y,yaw']
        for i in chosen:
            (folder / f'{i}.jpg').write_bytes(encode_jpeg(images[i], 95))
            rows.append(f'{i}.jpg,{2 * i},0,0')
        table = 'positions.csv' if name in ('references', 'queries') else 'poses.csv'
        (folder / table).write_text('\n'.join(rows) + '\n')
    for i in range(12):
        place = tmp_path / 'places' / f'{i // 2}'
        place.mkdir(parents=True, exist_ok=True)
        (place / f'{i}.jpg').write_bytes(encode_jpeg(images[i], 95))
    return tmp_path


def with_model(words: list[str], model: Path) -> list[str]:
    """The command with the small model of the tests in place of those of the package."""
    if '--model' in words:
        return [str(model) if words[i - 1] == '--model' and i > 0 and word.startswith('regvpr')
                else word for i, word in enumerate(words)]
    return [*words, '--model', str(model)]


def test_photos_are_mapped_and_asked_as_the_tutorial_says(work, small_model, capsys, monkeypatch):
    for words in commands(TUTORIALS / 'photos.md'):
        assert main(with_model(words, small_model)) == 0
    assert (work / 'site' / 'map.html').is_file()
    assert (work / 'places.csv').read_text().count('\n') == 3
    capsys.readouterr()
    (work / 'QUERY.jpg').write_bytes((work / 'QUERIES' / '3.jpg').read_bytes())
    import regvpr_core

    load = regvpr_core.load_encoder
    monkeypatch.setattr(regvpr_core, 'load_encoder', lambda: load(small_model, 'cpu', 'fp32'))
    for page in (TUTORIALS / 'photos.md', ROOT / 'README.md'):
        exec(compile(example(page), page.name, 'exec'), {})
        answer, *pose = capsys.readouterr().out.splitlines()
        assert answer.startswith('yes ')
        x = float(re.search(r'x=(-?[\d.]+)', pose[0])[1])
        assert x == pytest.approx(6.0, abs=3.0)


def test_a_drive_with_odometry_is_localized_as_the_page_of_python_says(
    work, small_model, capsys, monkeypatch,
):
    import regvpr_core

    assert main(['quickstart', 'PHOTOS', '--out', 'site', '--model', str(small_model)]) == 0
    (work / 'PHOTOS').rename(work / 'drive')
    load = regvpr_core.load_encoder
    monkeypatch.setattr(regvpr_core, 'load_encoder', lambda: load(small_model, 'cpu', 'fp32'))
    capsys.readouterr()
    exec(compile(example(ROOT / 'docs' / 'reference' / 'python.md'), 'python.md', 'exec'), {})
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[0]: line.split()[1] for line in lines if line.startswith('drive/')}
    assert len(states) == 12
    assert states['drive/11.jpg'] == 'LOCALIZED'
    assert float(re.search(r'x (-?[\d.]+) y', lines[-1])[1]) == pytest.approx(22.0, abs=3.0)


def test_models_are_compared_as_the_tutorial_says(work, small_model, capsys):
    pytest.importorskip('matplotlib', reason='the report needs it')
    (work / 'mine.py').write_text(
        'import numpy as np\n'
        'def describe(images):\n'
        '    return np.stack([i[:4, :4].astype(float).reshape(-1) + 1 for i in images])\n')
    [words] = commands(TUTORIALS / 'compare.md')
    words = [f'{work}/mine.py:describe' if word == 'gem_vits14' else word
             for word in with_model(words, small_model)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert 'small against describe on queries on references: R@1' in out or \
        'describe against small on queries on references: R@1' in out
    assert (work / 'report' / 'report.html').is_file()


def test_a_model_is_trained_as_the_tutorial_says(work, encoder, monkeypatch, capsys):
    pytest.importorskip('pytorch_metric_learning', reason='training needs it')
    from regvpr_core.training.settings import read_train_config

    page = (TUTORIALS / 'train.md').read_text()
    (work / 'own.yaml').write_text(re.search(r'```yaml\n(.*?)```', page, re.DOTALL)[1])
    monkeypatch.delenv('XDG_CACHE_HOME')  # where `encoder` found the backbone
    trained = [words for words in commands(TUTORIALS / 'train.md') if words[0] == 'train']
    assert [words[words.index('-o') + 1] for words in trained] == ['run', 'own']
    assert main([*trained[0], '--set', 'steps=1', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['loss_at_first'] == facts['loss_at_last'] >= 0.0
    assert Path(facts['last']).is_file()
    own = read_train_config(trained[1][trained[1].index('--config') + 1], [])
    assert own.steps == 5
    assert own.data[0].folder == 'places'


def test_a_map_lives_through_a_year_as_the_tutorial_says(
    tmp_path, make_bag, frames, small_model, monkeypatch, capsys,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    whole = frames(40)
    dusk = [replace(frame, rgb=frame.rgb // 2 if frame.stamp_ns % 5 else frame.rgb)
            for frame in whole]
    for name, chosen in (('june.mcap', whole[:25]), ('dusk.mcap', dusk[:30]), ('last', whole)):
        make_bag(tmp_path / name, chosen)
    assert main(['map', 'build', 'last', '--out', 'sessions/part001', '--model',
                 str(small_model)]) == 0
    counts = [25]
    for words in commands(TUTORIALS / 'year.md'):
        verb = ' '.join(words[:2]) if words[0] == 'map' else words[0]
        if verb == 'train':
            continue  # minutes of work; test_site.py has it
        if verb == 'site-report':
            words = [*words[:words.index('--models')], '--models', str(small_model)]
        elif verb in ('quickstart', 'map update'):
            words = with_model(words, small_model)
        capsys.readouterr()
        assert main(words) == 0, words
        out = capsys.readouterr().out
        with PlaceMap.open(tmp_path / 'site' / 'map', index='none') as place_map:
            counts.append(len(place_map))
        if verb == 'map history':
            assert re.search(r'version 1 +│ 25 keyframes', out), out
        if verb == 'site-report':
            assert 'take small' in out
    # quickstart, dry run, update, session, history, undo, report
    assert counts[:3] == [25, 25, 25]
    assert counts[3] >= 29
    assert counts[4] == counts[5] >= 39
    assert counts[6] == counts[7] == counts[3]


@pytest.mark.parametrize('page', sorted(TUTORIALS.glob('*.md')), ids=lambda page: page.stem)
def test_each_regvpr_command_of_a_tutorial_is_one_that_is_there(page):
    from regvpr_core.cli import make_parser

    for words in commands(page):
        make_parser(words[0]).parse_args(words)


@pytest.mark.parametrize('page', [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
                                  *sorted((ROOT / 'docs').rglob('*.md'))],
                         ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_images_of_a_page_are_there(page):
    if {'_build', 'generated'} & set(page.parts):
        pytest.skip('written by make docs')
    for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text(encoding='utf-8')):
        target = link.partition('#')[0]
        if target and not re.match(r'[a-z]+:', target) and 'generated/' not in target:
            assert (page.parent / target).exists(), link


SLAM = sorted(page for page in (ROOT / 'docs' / 'slam').glob('*.md') if page.name != 'README.md')


def launches(page: Path) -> list[list[str]]:
    """The launch commands of this package on a page, as words after the package."""
    text = re.sub(r'\\\n\s*', ' ', page.read_text(encoding='utf-8'))
    return [shlex.split(line) for line in
            re.findall(r'^    ros2 launch regvpr_ros (.*)$', text, re.MULTILINE)]


@pytest.mark.parametrize('page', SLAM, ids=lambda page: page.stem)
def test_a_page_of_a_stack_starts_both_sides_and_says_what_to_see(page):
    text = page.read_text(encoding='utf-8')
    start, see = text.index('## Start\n'), text.index('## You should see\n')
    assert start < see
    assert len(re.findall(r'^\| ', text[see:], re.MULTILINE)) >= 4
    assert launches(page)


@pytest.mark.parametrize('page', [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))],
                         ids=lambda page: str(page.relative_to(ROOT)))
def test_launch_commands_of_a_page_use_arguments_that_are_there(page):
    for file, *arguments in launches(page):
        known = re.findall(r"^    \('(\w+)', ", (ROOT / 'launch' / file).read_text(), re.MULTILINE)
        assert {word.partition(':=')[0] for word in arguments if ':=' in word} <= set(known)
