"""The page, also in a real browser."""

from dataclasses import replace
from pathlib import Path
import re

import pytest

from regvpr_core.datasets.dataset import PictureFile
from regvpr_core.datasets.ground_truth import matches
from regvpr_core.evaluation.evaluator import evaluate, EvaluateConfig
from regvpr_core.evaluation.examples import best_queries, row, worst_queries
from regvpr_core.evaluation.report import write_report
from regvpr_core.evaluation.robustness import robustness
from regvpr_core.images import decode

CHROMIUM = Path('/usr/bin/chromium')
HOSTILE = '"><img src=x onerror=alert(1)><script>document.title="pwned"</script>\u202e.png'
CONFIG = EvaluateConfig()


@pytest.fixture
def browser(driver):
    """A headless Chromium."""
    if not CHROMIUM.is_file():
        pytest.skip(f'there is no browser at {CHROMIUM}')
    chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=['--no-sandbox'])
    yield chromium
    chromium.close()


@pytest.fixture
def results(line_dataset, pixel_means):
    """Two models: one finds all but the last query, the other is wrong about the first too."""
    dataset = line_dataset(25, [3, 7, 20], 'sped-607')
    dataset = replace(dataset, protocol='sped-607', positives=matches([[3], [7], [21]]))
    first = evaluate(dataset, pixel_means, CONFIG)
    other = replace(first, model='other', right=first.right & [False, True, True])
    return [first, other]


def test_queries_that_others_miss_come_first_and_sure_mistakes(results):
    assert best_queries(results) == [0, 1]
    assert worst_queries(results) == [2]
    shown = row(results, 2)
    assert [found.title for found in shown] == ['query', 'pixel_means', 'other', 'would be right']
    assert [found.right for found in shown] == [None, False, False, None]
    assert shown[1].name == 'r20.png'
    assert shown[1].detail.startswith('similarity 1.000, 0.0 m away, ')
    assert decode(shown[3].data).shape == (48, 64, 3)


def test_the_page_has_the_table_with_quoted_rows(results, tmp_path):
    write_report(tmp_path / 'r.html', results)
    text = (tmp_path / 'r.html').read_text()
    rows = re.findall(r'<tr( class="quoted")?><td>(.*?)</td>(.*?)</tr>', text)
    table = {name: re.findall(r'<td[^>]*>([\d.–]+)', cells) for _, name, cells in rows[:11]}
    assert table['pixel_means'][:2] == ['66.7', '66.7'] or table['pixel_means'][0] == '66.7'
    quoted = next(cells for mark, name, cells in rows if name.startswith('RegVPR') and mark)
    assert re.findall(r'>([\d.–]+)</td>', quoted) == ['90.2', '95.1', '96.5', '–']
    assert 'RegVPR paper, Table 1 (Yu and Fu, 2024)' in text
    assert 'http' not in re.sub(r'data:[^"]*', '', text).replace('http-equiv', '')


def test_the_same_results_give_the_same_page(results, tmp_path):
    write_report(tmp_path / 'a.html', results)
    write_report(tmp_path / 'b.html', results)
    assert (tmp_path / 'a.html').read_bytes() == (tmp_path / 'b.html').read_bytes()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_browser_shows_it_and_runs_nothing_of_a_name(
        results, pixel_means, tmp_path, browser, scheme):
    dataset = results[0].dataset
    path = tmp_path / HOSTILE.replace('/', '_')
    path.write_bytes(dataset.references[3].path.read_bytes())
    references = list(dataset.references)
    references[3] = PictureFile(HOSTILE, path)
    hostile = replace(dataset, references=references, name=f'x{HOSTILE}', protocol=HOSTILE)
    measured = [replace(r, dataset=hostile, model=f'{i}{HOSTILE}') for i, r in enumerate(results)]
    curves = robustness(hostile, pixel_means, CONFIG, None, 0.7, ('noise',))
    write_report(tmp_path / 'page.html', measured, curves)

    said = []
    page = browser.new_page(viewport={'width': 1200, 'height': 900}, color_scheme=scheme)
    page.on('console', lambda message: said.append(message.text))
    page.on('pageerror', lambda error: said.append(str(error)))
    page.on('dialog', lambda dialog: (said.append('dialog'), dialog.dismiss()))
    page.on('request', lambda request: said.append(request.url[:80]) if not request.url.startswith(
        ('data:', 'file:')) else None)
    page.goto(f'file://{tmp_path / "page.html"}')
    page.wait_for_load_state('load')
    assert said == []
    assert page.title() == 'Visual place recognition, evaluated'
    widths = page.evaluate('[...document.images].map(image => image.naturalWidth)')
    # 3 curves, 1 of robustness, 2 plans; 2 best rows of 3 images and 1 worst row of 4.
    assert len(widths) == 3 + 1 + 2 + 2 * 3 + 4
    assert min(widths) > 0
    assert 'onerror=alert(1)' in page.inner_text('body')  # it is text
    background = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert background == {'light': 'rgb(255, 255, 255)', 'dark': 'rgb(13, 17, 23)'}[scheme]
    for width in (1200, 380):
        page.set_viewport_size({'width': width, 'height': 800})
        assert page.evaluate('document.documentElement.scrollWidth') <= width


def test_the_page_names_intervals_pairs_plan_and_how_it_was_measured(results, tmp_path):
    write_report(tmp_path / 'r.html', results, about={'command': 'regvpr evaluate <x>'})
    text = (tmp_path / 'r.html').read_text()
    low, high = (100 * v for v in results[0].interval(1))
    assert f'{low:.1f}–{high:.1f}' in text
    assert "McNemar's exact test" in text
    assert 'Where queries are right and wrong' in text
    assert 'regvpr evaluate &lt;x&gt;' in text
    assert 'class="set best"' not in text  # two right of three: the intervals overlap
