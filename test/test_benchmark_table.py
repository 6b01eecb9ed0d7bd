import json
from pathlib import Path
import re

import pytest

from benchmarks.chart import chart, targets
from benchmarks.report import Metric, ROOT
from benchmarks.table import (
    is_sealed,
    number,
    page,
    row,
    seal,
    section,
    sections_of,
    verdict,
)

MACHINE = {'processor': 'Test CPU', 'cores': 2, 'memory_gb': 25.3, 'load_before': 0.5,
           'versions': {'python': '3.11.7', 'torch': '2.13.0'}, 'device': 'cpu'}


def metric(**fields) -> dict:
    """A figure as `benchmarks.report` writes it."""
    m = Metric(**({'metric': 'speedup', 'value': 2.0, 'unit': 'x'} | fields))
    return {'metric': m.metric, 'value': m.value, 'unit': m.unit, 'target': m.target,
            'higher_is_better': m.higher_is_better, 'met': m.met, 'scope': m.scope}


def record(*metrics: dict, name: str = 'thing') -> dict:
    return {'benchmark': name, 'machine': MACHINE, 'commit': 'abc', 'date': '2025-01-02',
            'metrics': list(metrics)}


def test_a_record_gives_the_expected_section():
    made = section('thing', 'What it is.', record(
        metric(value=2.237, target=2.5, scope='a|b'),
        metric(metric='cosine', value=0.99999254, unit='', target=0.999),
        metric(metric='time', value=156.4055, unit='ms', higher_is_better=False)))
    assert made == """## thing

What it is.

1 of 2 targets met.

| metric | value | target | met | scope |
|---|---:|---:|---|---|
| `speedup` | 2.24 x | ≥ 2.5 x | **missed by 10.5 %** | a\\|b |
| `cosine` | 0.9999925 | ≥ 0.999 | yes |  |
| `time` | 156 ms |  |  |  |

<sub>Test CPU, 2 cores, 25.3 GB, device cpu, load 0.5; python 3.11.7, torch 2.13.0; commit abc; \
2025-01-02</sub>
"""


@pytest.mark.parametrize(('value', 'target', 'higher', 'text'), [
    (5.0, 5.0, True, 'yes'),
    (4.0, 5.0, True, '**missed by 20.0 %**'),
    (6.0, 5.0, False, '**missed by 20.0 %**'),
    (4.9999, 5.0, True, '**missed by < 0.1 %**'),
    (3.0, 0.0, False, '**missed by 3**'),
    (1e-8, 1e-5, False, 'yes')])
def test_a_missed_target_says_by_how_much(value, target, higher, text):
    assert verdict(metric(value=value, target=target, higher_is_better=higher)) == text


@pytest.mark.parametrize(('value', 'text'), [
    (0.0, '0'), (50_000.0, '50000'), (34.96, '35'), (35.115, '35.1'), (1434.77, '1435'),
    (0.97111, '0.971'), (0.999, '0.999'), (0.99999254, '0.9999925'), (1.862645e-08, '1.9e-08'),
    (1e-05, '1.0e-05'), (-0.25, '-0.25'),
    (float('nan'), 'none')])
def test_numbers_keep_three_digits(value, text):
    assert number(value) == text


def test_a_figure_of_several_lines_stays_in_its_row():
    assert row(metric(scope='one\ntwo')).count('\n') == 0


def make_programs(folder: Path) -> Path:
    folder.mkdir()
    (folder / 'beta.py').write_text('"""What beta\nmeasures.\n\nMore."""\n'
                                    "if __name__ == '__main__':\n    main()\n")
    (folder / 'alpha.py').write_text('"""Alpha."""\nif __name__ == \'__main__\':\n    main()\n')
    (folder / 'shared.py').write_text('"""No benchmark."""\n')
    (folder / 'table.py').write_text('"""Nor this."""\nif __name__ == \'__main__\':\n    0\n')
    return folder


def test_the_page_has_all_benchmarks_in_order_and_says_which_were_not_run(tmp_path):
    records = tmp_path / 'bench'
    records.mkdir()
    (records / 'beta.json').write_text(json.dumps(record(metric(), name='beta')))
    text = page(make_programs(tmp_path / 'programs'), records)
    assert [line for line in text.splitlines() if line.startswith('## ')] == ['## alpha',
                                                                              '## beta']
    assert 'Alpha.\n\nNot run on this machine: `make bench NAME=alpha`.' in text
    assert 'What beta measures.\n' in text
    assert '| `speedup` | 2 x |' in text
    assert text == page(tmp_path / 'programs', records)


def test_without_any_record_there_is_a_page(tmp_path):
    text = page(make_programs(tmp_path / 'programs'), tmp_path / 'none')
    assert text.count('Not run on this machine') == 2
    assert '| metric |' not in text


def test_a_benchmark_without_a_record_keeps_the_section_it_had_unless_somebody_edited_the_page(
    tmp_path,
):
    programs, records = make_programs(tmp_path / 'programs'), tmp_path / 'records'
    records.mkdir()
    (records / 'alpha.json').write_text(json.dumps(record(metric(), name='alpha')))
    before = page(programs, records)
    (records / 'alpha.json').rename(records / 'beta.json')
    after = page(programs, records, before)
    assert after.count('| 2 x |') == 2
    assert 'Not run on this machine' not in after
    assert after == page(programs, records, after)
    edited = before.replace('| 2 x |', '| 9 x |')
    assert page(programs, records, edited) == page(programs, records)


def test_an_edited_figure_shows():
    text = seal('| `speedup` | 2.24 x |')
    assert is_sealed(text)
    assert not is_sealed(text.replace('2.24', '2.64'))
    assert not is_sealed(text + 'more')
    assert not is_sealed('no seal at all')


def test_no_figure_of_the_page_in_docs_was_typed_by_hand():
    file = ROOT / 'docs' / 'benchmarks.md'
    assert is_sealed(file.read_text(encoding='utf-8')), f'{file} was edited: make bench-table'


def test_the_chart_marks_each_target_on_its_side_of_the_line():
    table = section('beta', 'About.', record(
        metric(value=6.0, target=3.0),
        metric(metric='wait', value=4.0, target=2.0, higher_is_better=False),
        metric(metric='errors', value=0.0, target=0.0, higher_is_better=False)))
    assert targets(table) == [('speedup', 2.0, True), ('wait', 0.5, False)]
    drawn = chart({'beta': table, 'without': 'no table'})
    assert '1 of 2 targets met' in drawn
    assert drawn.count('<circle') == drawn.count('<rect') == 1
    line = float(re.search(r'x1="(\d+)" x2="\d+" y1="\d+" y2="\d+" class="aim"', drawn)[1])
    assert float(re.search(r'cx="([\d.]+)"', drawn)[1]) > line + 5
    assert float(re.search(r'rect x="([\d.]+)"', drawn)[1]) + 10 < line
    assert 'without' not in drawn


def test_the_chart_in_docs_is_that_of_the_page():
    text = (ROOT / 'docs' / 'benchmarks.md').read_text(encoding='utf-8')
    assert (ROOT / 'docs' / 'images' / 'benchmarks.svg').read_text(encoding='utf-8') == \
        chart(sections_of(text)), 'make bench-table'
