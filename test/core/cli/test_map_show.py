import json
from pathlib import Path
import subprocess
import sys

import pytest

from regvpr_core.cli import main
from regvpr_core.localization.calibration import Bin, Calibration
from regvpr_core.localization.stored_calibration import to_json
from regvpr_core.maps.writer import MapWriter


def test_a_page_is_written_and_told_of(make_small_map, tmp_path, capsys):
    path, page = make_small_map(5), tmp_path / 'page.html'
    assert main(['map', 'show', str(path), '-o', str(page), '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {'page': str(page), 'keyframes': 5, 'shown': 5, 'with_picture': 0,
                    'compared': 5, 'mistaken': told['mistaken'], 'warnings': told['warnings'],
                    'size_mb': round(page.stat().st_size / 1e6, 2)}
    assert page.read_text().startswith('<!doctype html>')


def test_without_a_name_the_page_is_called_like_the_map(make_small_map, tmp_path, monkeypatch):
    path = make_small_map(2)
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    assert main(['map', 'show', str(path)]) == 0
    name = f'{path.resolve().parent.name}.html'  # a map called `map` is named by its folder
    assert [file.name for file in (tmp_path / 'here').iterdir()] == [name]
    assert sorted(file.name for file in path.iterdir() if file.suffix == '.html') == []


@pytest.mark.parametrize(('arguments', 'message'), [
    (['MAP', '-o', '.'], 'regvpr: . is a folder; name the page to write with --out FILE.html'),
    (['MAP', '--max-mb', '1'], 'regvpr: max_mb is 1.0; expected 3.0 to 500.0'),
    (['MAP', '--radius', '-2'], 'regvpr: radius_m is -2.0; expected 0.1 to 1000.0'),
    (['MAP', '-o', 'no/page.html'],
     'regvpr: cannot write no/page.html: No such file or directory; name another file'),
    (['nothing'], 'regvpr: nothing is no place map: it has no map.db; build one with')])
def test_refusals_are_one_line(make_small_map, tmp_path, monkeypatch, capsys, arguments, message):
    path = make_small_map(2)
    monkeypatch.chdir(tmp_path)
    words = [str(path) if word == 'MAP' else word for word in arguments]
    assert main(['map', 'show', *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count('\n') == 1
    assert list(tmp_path.glob('*.html')) == []


def test_no_network_and_no_weights_are_loaded_to_show_a_map(make_small_map, tmp_path):
    code = (f'import sys; from regvpr_core.cli import main; '
            f'main(["map", "show", {str(make_small_map(3))!r}, "-o", '
            f'{str(tmp_path / "p.html")!r}]); print("torch" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == 'False'


def test_a_broken_calibration_is_a_warning_not_a_refusal(make_small_map, tmp_path):
    path, page = make_small_map(12), tmp_path / 'page.html'
    with MapWriter.append_to(path) as writer:
        writer.attach('calibration', b'{"version": 99}')
    assert main(['map', 'show', str(path), '-o', str(page)]) == 0
    warnings = page_data(page)['warnings']
    assert any('the calibration of map' in w['text'] and 'cannot be used' in w['text']
               for w in warnings)
    assert page_data(page)['reliability'] is None


def test_the_stored_calibration_is_shown(make_small_map, tmp_path):
    path, page = make_small_map(12), tmp_path / 'page.html'
    stored = Calibration(2.0, 1.0, source='traverse abc', queries=80, bins=(
        Bin(predicted=0.25, true=0.5, count=30), Bin(predicted=0.75, true=1.0, count=50)))
    with MapWriter.append_to(path) as writer:
        writer.attach('calibration', to_json(stored))
    assert main(['map', 'show', str(path), '-o', str(page)]) == 0
    shown = page_data(page)['reliability']
    assert shown == {
        'predicted': [0.25, 0.75], 'observed': [0.5, 1.0], 'counts': [30, 50],
        'text': 'Stored in the map; from 80 images: traverse abc. Of these, the probabilities are '
                'off by 0.250 on average.'}


def page_data(page: Path) -> dict:
    text = page.read_text().partition('<script id="data" type="application/json">')[2]
    return json.loads(text.partition('</script>')[0])
