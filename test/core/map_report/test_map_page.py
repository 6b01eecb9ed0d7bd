import base64
import json
from pathlib import Path
import re

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import ConfigError
from regvpr_core.images import decode, encode_jpeg
from regvpr_core.map_report import page as map_page_module
from regvpr_core.map_report.html import label, packed, page, write_page
from regvpr_core.map_report.page import map_page, Reliability
from regvpr_core.map_report.seen import headings
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)>'
START_NS = 1_750_000_000_000_000_000
PLACES = 12


def colour(i: int) -> tuple[int, int, int]:
    """Of place i's image."""
    return 20 * i, 255 - 20 * i, 128


def looking(x: float, y: float, yaw_deg: float) -> np.ndarray:
    """Pose of a camera (optical frame) that looks level, `yaw_deg` from x."""
    T = np.eye(4)
    T[:3, :3] = (Rotation.from_euler('z', yaw_deg, degrees=True)
                 * Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])).as_matrix()
    T[:3, 3] = x, y, 1.5
    return T


def write_map(path: Path, keyframes: list[Keyframe], **more) -> Path:
    settings = {'map_id': 'abc', 'model': 'm', 'fingerprint': 'f' * 64, 'dimension': 16,
                'extrinsics': {'front': [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]}} | more
    with MapWriter.create(path, Manifest(**settings)) as writer:
        if keyframes:
            writer.append(keyframes)
    return path


def street(count: int = PLACES, **more) -> list[Keyframe]:
    """Places 10 m apart along x, each with an image of one colour; 2 and 9 look the same."""
    rows = np.random.default_rng(1).normal(size=(count, 16)).astype(np.float32)
    if count > 9:
        rows[9] = rows[2] + 0.01 * rows[9]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [Keyframe(**({
        'stamp_ns': START_NS + i * 10**9, 'camera': 'front', 'source': 'lap',
        'T_map_cam': looking(10.0 * i, 0.5 * i, 90.0), 'descriptor': rows[i],
        'thumbnail': np.full((12, 16, 3), colour(i), np.uint8)} | more)) for i in range(count)]


def make_page(path: Path, name: str = 'street', **more) -> tuple[Path, dict, object]:
    """A map's page as a file, its data and the report."""
    with PlaceMap.open(path) as place_map:
        text, report = map_page(place_map, **({
            'name': name, 'radius_m': 12.0, 'angle_rad': 0.9} | more))
    file = path.with_suffix('.html')
    write_page(file, text)
    return file, page_data(text), report


def page_data(text: str) -> dict:
    return json.loads(re.search(
        r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1])


def numbers(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.fixture(scope='module')
def street_page(tmp_path_factory) -> Path:
    path = write_map(tmp_path_factory.mktemp('street') / 'street', street())
    return make_page(path, reliability=Reliability(
        predicted=np.array([0.1, 0.5, 0.9]), observed=np.array([0.0, 0.4, 1.0]),
        counts=np.array([40, 0, 5]), text='Of this test.'))[0]


# the data


def test_the_page_holds_poses_stamps_and_pictures_of_all_places(tmp_path):
    file, data, report = make_page(write_map(tmp_path / 'm', street()))
    assert (report.keyframes, report.shown, report.pictures, report.compared) == (12,) * 4
    assert report.left_out == ()
    assert report.size_bytes == file.stat().st_size
    offsets = numbers(data['offsets'], '<f4').reshape(-1, 3) + data['centre']
    np.testing.assert_allclose(
        offsets, [[10.0 * i, 0.5 * i, 1.5] for i in range(PLACES)], atol=1e-4)
    np.testing.assert_allclose(numbers(data['headings'], '<f4'), np.pi / 2, atol=1e-6)
    assert numbers(data['stamps'], '<i8').tolist() == [START_NS + i * 10**9 for i in range(PLACES)]
    for i, jpeg in enumerate(data['pictures']['jpeg']):
        np.testing.assert_allclose(decode(base64.b64decode(jpeg)).mean(axis=(0, 1)), colour(i),
                                   atol=3)


def test_the_page_says_from_where_and_when_each_place_was_seen(tmp_path):
    there = street()
    back = street(6, T_map_cam=looking(0.0, 0.0, -90.0), source='back',
                  stamp_ns=START_NS + 3 * 3_600 * 10**9)
    _, data, _ = make_page(write_map(tmp_path / 'm', there + back))
    assert numbers(data['seen']['directions'], '<u1')[[0, 5]].tolist() == [0b1000100, 0b100]
    assert numbers(data['seen']['hours'], '<u4')[[0, 5]].tolist() == [1 << 15 | 1 << 18, 1 << 15]
    assert numbers(data['seen']['drives'], '<u4')[[0, 5]].tolist() == [2, 1]
    facts = dict(data['facts'])
    assert facts['places by hour utc'] == '15 h: 100%, 18 h: 17%'


def test_far_away_coordinates_keep_their_centimetres(tmp_path):
    places = street(3)
    for i, one in enumerate(places):
        one.T_map_cam[:3, 3] = 458_123.25 + 0.01 * i, 5_428_456.75, 120.0
    _, data, _ = make_page(write_map(tmp_path / 'm', places))
    x = numbers(data['offsets'], '<f4').reshape(-1, 3)[:, 0] + data['centre'][0]
    np.testing.assert_allclose(x, 458_123.25 + 0.01 * np.arange(3), atol=1e-6)


def test_headings_are_those_of_the_optical_axis_or_of_a_body():
    yaws = np.radians([-170.0, -30.0, 0.0, 45.0, 120.0])
    cameras = np.stack([looking(0, 0, d) for d in np.degrees(yaws)])
    np.testing.assert_allclose(headings(cameras), yaws, atol=1e-9)
    bodies = np.tile(np.eye(4), (5, 1, 1))
    bodies[:, :3, :3] = Rotation.from_euler('z', yaws[:, None]).as_matrix()
    np.testing.assert_allclose(headings(bodies), yaws, atol=1e-9)


def test_places_that_nobody_can_tell_apart_are_warned_of(tmp_path):
    places = street()
    _, data, report = make_page(write_map(tmp_path / 'm', places))
    assert report.mistaken >= 2
    warning = data['warnings'][0]
    assert f'{report.mistaken} of 12 places look more like a place elsewhere' in warning['text']
    pairs = [sorted(pair) for pair in warning['places']]
    assert pairs.count([2, 9]) == 1


def test_broken_and_missing_pictures_are_counted(tmp_path):
    places = street(4, thumbnail=None)
    _, data, _ = make_page(write_map(tmp_path / 'none', places))
    assert any('stores no images' in w['text'] for w in data['warnings'])
    broken = [*street(3), *street(1, thumbnail=b'no picture')]
    _, data, report = make_page(write_map(tmp_path / 'broken', broken))
    assert report.pictures == 3
    assert any('1 stored images cannot be decoded' in w['text'] for w in data['warnings'])


def test_pictures_are_encoded_again_not_passed_through(tmp_path):
    marked = encode_jpeg(np.full((12, 16, 3), 99, np.uint8))
    marked = marked[:2] + b'\xff\xfe\x00\x12<script>alert(3)' + marked[2:]  # a JPEG comment
    assert decode(marked).shape == (12, 16, 3)
    _, data, _ = make_page(write_map(tmp_path / 'm', street(2, thumbnail=marked)))
    assert len(data['pictures']['jpeg']) == 2
    assert b'script' not in base64.b64decode(data['pictures']['jpeg'][0])


def test_a_large_picture_is_made_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    _, data, _ = make_page(write_map(tmp_path / 'm', street(2, thumbnail=noise)))
    assert decode(base64.b64decode(data['pictures']['jpeg'][0])).shape == (120, 160, 3)


def test_the_page_keeps_to_its_megabytes_and_says_what_it_left_out(tmp_path):
    rng = np.random.default_rng(0)
    rough = [encode_jpeg(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)) for _ in range(4)]
    places = [Keyframe(
        stamp_ns=START_NS + i, camera='front', T_map_cam=looking(i, 0, 0), source='lap',
        descriptor=row, thumbnail=rough[i % 4])
        for i, row in enumerate(rng.normal(size=(1500, 16)).astype(np.float32))]
    path = write_map(tmp_path / 'm', places)
    file, data, report = make_page(path, max_mb=3.0)
    assert 2.4e6 < file.stat().st_size <= 3e6
    assert 100 < report.pictures < 1500
    assert data['pictures']['side'] == 96
    assert f'{report.pictures} of 1500 places have an image here' in data['leftOut'][0]
    shown = numbers(data['pictures']['places'], '<u4')
    assert np.diff(shown).max() <= 2 * np.diff(shown).mean()  # evenly spread
    _, _, report = make_page(path, max_mb=40.0)
    assert report.pictures == 1500
    assert report.left_out == ()


def test_of_very_many_keyframes_some_are_shown(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(map_page_module, 'PLACE_BYTES', 4500)  # 3 MB then have room for 200
    places = [Keyframe(stamp_ns=i, camera='front', T_map_cam=looking(i, 0, 0), descriptor=row)
              for i, row in enumerate(rows(1000))]
    _, data, report = make_page(write_map(tmp_path / 'm', places), max_mb=3.0)
    assert (report.keyframes, report.shown) == (1000, 200)
    assert '200 of 1000 keyframes are shown' in data['leftOut'][0]
    ids = numbers(data['ids'], '<u4')
    assert (ids[0], ids[-1]) == (0, 999)


def test_hostile_names_stay_text(tmp_path):
    places = street(3, source=HOSTILE, camera='\u202egnp.exe\x07')
    path = write_map(tmp_path / 'm', places, map_frame=HOSTILE, sources=[HOSTILE], model=HOSTILE)
    file, data, _ = make_page(path, name=HOSTILE)
    text = file.read_text()
    assert '<script>alert' not in text
    assert '<img src=x' not in text
    assert text.count('</script>') == 2  # the data's and ours
    assert data['sources'] == [HOSTILE]
    assert data['cameras'] == ['\ufffdgnp.exe\ufffd']


def test_names_are_bounded():
    assert label('x' * 1000) == 'x' * 199 + '…'
    assert label('lap\ud800 1\n2') == 'lap\ufffd 1\ufffd2'
    assert label('Prüfgelände 試験') == 'Prüfgelände 試験'


def test_settings_that_are_no_json_do_not_break_the_page(tmp_path):
    path = write_map(tmp_path / 'm', street(2), config={'a': float('nan'), 'b': 'x' * 100_000})
    file, data, _ = make_page(path)
    assert dict(data['facts'])['built with'].startswith('a NaN')
    assert file.stat().st_size < 400_000


def test_the_policy_lets_only_our_script_and_style_work():
    text = page(title='t', body='<p>', style='p{}', script='1', data={})
    policy = re.search('Content-Security-Policy" content="(.*?)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert 'unsafe' not in policy
    assert 'http' not in policy


def test_packed_arrays_are_little_endian():
    assert base64.b64decode(packed(np.array([1, 258]), '<u4')) == b'\1\0\0\0\2\1\0\0'


def test_a_page_replaces_the_old_one_or_leaves_it(tmp_path):
    file = tmp_path / 'page.html'
    write_page(file, 'old')
    write_page(file, 'new')
    assert file.read_text() == 'new'
    assert [f.name for f in tmp_path.iterdir()] == ['page.html']
    with pytest.raises(ConfigError, match=r'cannot write .*nowhere/p.html: No such file'):
        write_page(tmp_path / 'nowhere' / 'p.html', 'x')


def test_a_budget_out_of_range_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'max_mb is 1.0; expected 3.0 to 500.0'):
        make_page(write_map(tmp_path / 'm', street(2)), max_mb=1.0)


# in the browser


def state(tab, expression: str):
    return tab.page.evaluate(f'(() => {{ const {{ view, matrix, distribution }} = mapPage; '
                             f'return {expression}; }})()')


def screen(tab, place: int) -> tuple[float, float]:
    """Where a place is drawn, in pixels of the window."""
    box = tab.page.locator('#map').bounding_box()
    x, y = state(tab, f'view.screen(10 * {place} - 55, 0.5 * {place} - 2.75)')
    return box['x'] + x, box['y'] + y


def pixel(tab, selector: str) -> list[int]:
    """The colour in the middle of an image on the page."""
    return tab.page.evaluate("""async (selector) => {
        const image = document.querySelector(selector);
        await image.decode();
        const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 1;
        const context = canvas.getContext('2d');
        context.drawImage(image, -image.naturalWidth / 2, -image.naturalHeight / 2);
        return Array.from(context.getImageData(0, 0, 1, 1).data).slice(0, 3);
    }""", selector)


@pytest.fixture
def opened(tab, street_page):
    tab.page.mouse.move(2, 2)
    tab.open(street_page)
    yield tab
    tab.assert_clean()


def test_the_map_is_to_scale_with_y_up(opened):
    (x0, y0), (x1, y1) = screen(opened, 0), screen(opened, 11)
    scale = (x1 - x0) / 110.0
    assert (y0 - y1) / 5.5 == pytest.approx(scale, rel=1e-6)
    bar = state(opened, 'view.scaleBar')
    assert bar['pixels'] / bar['metres'] == pytest.approx(scale, rel=1e-6)


def test_hovering_shows_the_place(opened):
    for place in (3, 8):
        opened.page.mouse.move(*screen(opened, place))
        opened.page.wait_for_selector(f'#tip img[data-keyframe="{place}"]')
        text = opened.page.inner_text('#tip')
        assert f'keyframe #{place}' in text
        assert f'x {10 * place}.00 y {0.5 * place:.2f} z 1.50 m' in ' '.join(text.split())
        assert 'looks 90° from x' in text
        assert 'camera front' in text
        assert 'place seen from 90°; in 1 drive; at 15 h utc' in ' '.join(text.split())
        assert 'source lap' in text
        assert f'2025-06-15 15:06:{40 + place:02}.000' in text
        np.testing.assert_allclose(pixel(opened, '#tip img'), colour(place), atol=4)
    opened.page.mouse.move(2, 2)
    opened.page.wait_for_selector('#tip', state='hidden')


def test_the_picture_beside_a_place_stays_on_the_map(opened):
    frame = opened.page.locator('#map-frame').bounding_box()
    opened.page.evaluate('mapPage.view.pan(0, 150)')  # the places lie low, as at a lower edge
    for place in (0, 11):
        opened.page.evaluate(f'mapPage.view.hover({place})')
        opened.page.wait_for_function(
            "document.querySelector('#tip img').complete && document.querySelector('#tip img')"
            ".clientHeight > 100")
        opened.page.wait_for_function(
            "(bottom) => document.querySelector('#tip').getBoundingClientRect().bottom <= bottom",
            arg=frame['y'] + frame['height'])
        box = opened.page.locator('#tip').bounding_box()
        assert box['y'] >= frame['y']
        assert box['x'] >= frame['x']
        assert box['x'] + box['width'] <= frame['x'] + frame['width']


def test_clicking_pins_a_place_and_shows_what_it_is_similar_to(opened):
    opened.page.mouse.click(*screen(opened, 2))
    assert opened.page.inner_text('#place-title') == 'Place #2'
    np.testing.assert_allclose(pixel(opened, '#place-body img'), colour(2), atol=4)
    near = opened.page.locator('#place-body .strip .near')
    assert near.count() == 2  # 1 and 3, 10 m away
    far = opened.page.locator('#place-body .strip .far').first
    assert far.get_attribute('aria-label') == \
        'keyframe 9, another place, similarity 1.00, 70.1 m away'
    assert 'more similar to it than any of its own' in opened.page.inner_text('#place-body')
    far.click()
    assert opened.page.inner_text('#place-title') == 'Place #9'
    opened.page.mouse.click(*screen(opened, 9))  # again: it is let go
    assert opened.page.inner_text('#place-title') == 'No place pinned'


def test_similar_places_are_drawn_on_the_map(opened):
    before = opened.page.locator('#map').screenshot()
    opened.page.evaluate('mapPage.view.pin(2)')
    opened.page.evaluate('new Promise((done) => requestAnimationFrame('
                         '() => requestAnimationFrame(done)))')
    x1, y1 = screen(opened, 9)
    box = opened.page.locator('#map').bounding_box()
    shot = opened.page.locator('#map').screenshot()
    was, now = (cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1].astype(int)
                for data in (before, shot))
    changed = np.abs(was - now).sum(axis=2) > 60
    at_far = changed[int(y1 - box['y']) - 6:int(y1 - box['y']) + 7,
                     int(x1 - box['x']) - 6:int(x1 - box['x']) + 7]
    assert at_far.mean() > 0.2  # a triangle
    red, _, blue = now[int(y1 - box['y']), int(x1 - box['x'])]
    assert red > blue + 60  # in the colour of other places


def test_the_keyboard_reaches_every_place(opened):
    opened.page.focus('#map')
    opened.page.keyboard.press('Escape')
    opened.page.keyboard.press('ArrowRight')
    assert 'keyframe #0' in opened.page.inner_text('#tip')
    opened.page.keyboard.press('Shift+ArrowRight')
    assert 'keyframe #10' in opened.page.inner_text('#tip')
    opened.page.keyboard.press('ArrowLeft')
    assert opened.page.text_content('#spoken').startswith('keyframe #9, stamp 2025-06-15')
    opened.page.keyboard.press('Enter')
    assert opened.page.inner_text('#place-title') == 'Place #9'
    scale = state(opened, 'view.scale')
    opened.page.keyboard.press('+')
    assert state(opened, 'view.scale') == pytest.approx(1.4 * scale)
    opened.page.keyboard.press('0')
    assert state(opened, 'view.scale') == pytest.approx(scale)
    opened.page.keyboard.press('Escape')
    assert opened.page.inner_text('#place-title') == 'No place pinned'


def test_a_place_is_pinned_at_first_and_shift_click_measures_from_it(opened):
    title = opened.page.inner_text('#place-title')
    assert title.startswith('Place #')
    here = int(title.removeprefix('Place #'))
    there = 5 if here != 5 else 6
    opened.page.keyboard.down('Shift')
    opened.page.mouse.click(*screen(opened, there))
    opened.page.keyboard.up('Shift')
    assert opened.page.inner_text('#measure').startswith(f'From #{here} to #{there}: ')
    assert opened.page.inner_text('#place-title') == title


def test_wheel_and_drag_zoom_and_pan(opened):
    pinned = opened.page.inner_text('#place-title')
    x, y = screen(opened, 5)
    scale = state(opened, 'view.scale')
    opened.page.mouse.move(x, y)
    opened.page.mouse.wheel(0, -100)
    assert opened.page.is_visible('#wheel-hint')  # an unfocused map lets the page scroll
    assert state(opened, 'view.scale') == scale
    opened.page.focus('#map')
    opened.page.mouse.wheel(0, -100)
    opened.page.wait_for_function(f'mapPage.view.scale > {1.1 * scale}')
    assert screen(opened, 5) == pytest.approx((x, y), abs=1.0)  # stays under the pointer
    opened.page.mouse.move(x, y - 60)
    opened.page.mouse.down()
    opened.page.mouse.move(x + 30, y - 40, steps=3)
    opened.page.mouse.up()
    assert screen(opened, 5) == pytest.approx((x + 30, y + 20), abs=1.0)
    assert opened.page.inner_text('#place-title') == pinned


def test_the_matrix_shows_the_pair_under_the_pointer(opened):
    opened.page.locator('#matrix').scroll_into_view_if_needed()
    box = opened.page.locator('#matrix').bounding_box()
    plot = state(opened, 'matrix.plot()')
    cell = plot['length'] / PLACES
    opened.page.mouse.move(box['x'] + plot['left'] + 9.5 * cell,
                           box['y'] + plot['top'] + 2.5 * cell)
    text = ' '.join(opened.page.inner_text('#pair').split())
    assert text.startswith('1.000 #2 and #9, 70.1 m apart, looking 0° apart')
    np.testing.assert_allclose(pixel(opened, '#pair img[data-keyframe="2"]'), colour(2), atol=4)
    np.testing.assert_allclose(pixel(opened, '#pair img[data-keyframe="9"]'), colour(9), atol=4)
    opened.page.focus('#matrix')
    opened.page.keyboard.press('ArrowDown')
    assert '#3 and #9' in opened.page.inner_text('#pair')
    opened.page.keyboard.press('Enter')
    assert opened.page.inner_text('#place-title') == 'Place #3'


def test_the_distribution_tells_what_a_threshold_lets_in(opened):
    paths = opened.page.locator('#distribution path.edge')
    assert paths.count() == 2  # same pass, other places
    opened.page.select_option('#counted', 'all')
    opened.page.focus('#distribution')
    for _ in range(30):
        opened.page.keyboard.press('Shift+ArrowLeft')
    told = opened.page.inner_text('#threshold')
    assert '100.0 % of same place, same pass; 100.0 % of another place' in told
    for _ in range(30):
        opened.page.keyboard.press('Shift+ArrowRight')
    told = opened.page.inner_text('#threshold')
    assert told.startswith('At 1.00 and above: 0.0 % of same place')


def test_the_reliability_diagram_has_a_point_for_each_bin_with_pairs(opened):
    points = opened.page.locator('#reliability circle')
    assert points.count() == 2
    assert points.nth(1).locator('title').text_content() == 'said 90.0 %, true 100.0 %, 5 matches'
    assert opened.page.inner_text('#reliability-text').startswith('Of this test.')


def test_a_warning_leads_to_its_places(opened):
    either = re.compile('#2 and #9|#9 and #2')
    opened.page.locator('#warnings button', has_text=either).first.click()
    title = opened.page.inner_text('#place-title')
    assert title in ('Place #2', 'Place #9')
    assert state(opened, 'view.marked') == [11 - int(title[-1])]


def test_dark_mode_follows_the_system_and_the_button(opened):
    def brightness() -> float:
        shot = opened.page.screenshot()
        return float(cv2.imdecode(np.frombuffer(shot, np.uint8), 1).mean())

    opened.page.emulate_media(color_scheme='light')
    assert brightness() > 190
    opened.page.emulate_media(color_scheme='dark')
    assert brightness() < 80
    opened.page.click('#theme')
    assert opened.page.inner_text('#theme') == 'Theme: light'
    assert brightness() > 190
    opened.page.emulate_media(color_scheme='light')


def test_every_colouring_has_a_legend_with_shapes(opened):
    assert '2025-06-15' in opened.page.inner_text('#legend')
    opened.page.select_option('#colour', 'source')
    assert 'lap (12)' in opened.page.inner_text('#legend')
    opened.page.select_option('#colour', 'directions')
    assert '1 direction (12)' in opened.page.inner_text('#legend')
    opened.page.select_option('#colour', 'hours')
    assert '1 hour of the day (12)' in opened.page.inner_text('#legend')
    opened.page.select_option('#colour', 'told')
    assert 'another place is more alike' in opened.page.inner_text('#legend')
    shapes = [bucket['shape'] for bucket in state(opened, 'view.buckets')]
    assert len(set(shapes[:4])) == 4


def test_controls_have_names_and_text_has_contrast(opened):
    nameless = opened.page.evaluate("""() => Array.from(
        document.querySelectorAll('button, select, input, canvas[tabindex], img')).filter((e) =>
            !(e.textContent.trim() || e.getAttribute('aria-label') || e.alt
              || e.closest('label'))).length""")
    assert nameless == 0
    for theme in ('light', 'dark'):
        opened.page.emulate_media(color_scheme=theme)
        lightness = opened.page.evaluate("""() => ['--card', '--text', '--quiet', '--near',
            '--again', '--far'].map((name) => {
                const hex = getComputedStyle(document.documentElement).getPropertyValue(name);
                const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.trim().slice(i, i + 2), 16)
                    / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            })""")
        card, *others = lightness
        ratios = [(max(card, v) + 0.05) / (min(card, v) + 0.05) for v in others]
        assert min(ratios) > 4.5, (theme, ratios)  # WCAG AA
    opened.page.emulate_media(color_scheme='light')


def test_hostile_names_are_inert_in_the_browser(tab, tmp_path):
    places = street(4, source=HOSTILE, camera=HOSTILE)
    path = write_map(tmp_path / 'm', places, map_frame=HOSTILE, model=HOSTILE)
    tab.open(make_page(path, name=HOSTILE)[0])
    tab.page.evaluate('mapPage.view.pin(1); mapPage.view.hover(2)')
    for mode in ('source', 'camera'):
        tab.page.select_option('#colour', mode)
    assert tab.page.inner_text('#name') == HOSTILE
    assert HOSTILE in tab.page.inner_text('#tip')
    assert HOSTILE in tab.page.inner_text('#legend')
    assert tab.page.locator('script').count() == 2
    assert tab.page.locator('img[src="x"]').count() == 0
    tab.assert_clean()


def test_an_empty_map_has_a_page_too(tab, tmp_path):
    tab.open(make_page(write_map(tmp_path / 'm', []))[0])
    assert tab.page.is_visible('#empty')
    assert 'The map holds no keyframe' in tab.page.inner_text('#warnings')
    for key in ('ArrowRight', 'Enter', '0', '+', 'Escape'):
        tab.page.press('#map', key)
        tab.page.press('#matrix', key)
    tab.assert_clean()


def test_one_keyframe_and_absurd_poses_have_pages(tab, tmp_path):
    places = street(3)
    places[1].T_map_cam[:3, 3] = 1e12
    places = [*places[:2], Keyframe(stamp_ns=-2**62, camera='', source='',
                                    T_map_cam=looking(0, 0, 0), descriptor=places[2].descriptor)]
    for count in (1, 3):
        tab.open(make_page(write_map(tmp_path / f'm{count}', places[:count]))[0])
        tab.page.evaluate(f'mapPage.view.pin({count - 1}); mapPage.view.hover(0)')
        assert tab.page.inner_text('#place-title') == f'Place #{count - 1}'
        tab.assert_clean()


def test_several_cameras_and_a_gps_origin(tab, tmp_path):
    places = []
    for i in range(6):
        for camera, yaw in (('front', 0.0), ('rear', 180.0)):
            rng = np.random.default_rng(len(places))
            places.append(Keyframe(
                stamp_ns=START_NS + i, camera=camera, source=f'day {i % 2}',
                T_map_cam=looking(100.0 * i, 50.0 * i, yaw),
                descriptor=rng.normal(size=16).astype(np.float32)))
    path = write_map(tmp_path / 'm', places,
                     origin={'lat_deg': 60.0, 'lon_deg': 10.0, 'alt_m': 5.0})
    tab.open(make_page(path)[0])
    tab.page.evaluate('mapPage.view.pin(10)')
    # 500 m east, 250 m north; a degree is 111 412 m of latitude, 55 800 m of longitude there
    found = re.search(r'lat, lon\s+([\d.]+)°, ([\d.]+)°', tab.page.inner_text('#place'))
    lat, lon = found.groups()
    assert float(lat) == pytest.approx(60.0 + 250.0 / 111_412, abs=2e-6)
    assert float(lon) == pytest.approx(10.0 + 500.0 / 55_800, abs=5e-6)
    tab.page.select_option('#camera', label='rear')
    tab.page.focus('#map')
    for _ in range(4):
        tab.page.keyboard.press('ArrowLeft')
    assert 'camera rear' in tab.page.inner_text('#tip')
    tab.page.select_option('#source', label='day 1')
    assert tab.page.evaluate('Array.from({length: 12}, (_, i) => i)'
                             '.filter((i) => mapPage.view.visible(i))') == [3, 7, 11]
    tab.assert_clean()


def test_a_narrow_screen_needs_no_sideways_scrolling(opened):
    opened.page.set_viewport_size({'width': 390, 'height': 800})
    opened.page.evaluate('mapPage.view.pin(2)')
    assert opened.page.evaluate('document.documentElement.scrollWidth') == 390
    assert opened.page.locator('#map').bounding_box()['width'] > 300
    opened.page.set_viewport_size({'width': 1400, 'height': 900})
