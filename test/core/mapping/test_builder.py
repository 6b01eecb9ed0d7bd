from pathlib import Path

import numpy as np
import pytest

from regvpr_core.errors import ConfigError, ImageError, MapError
from regvpr_core.mapping.builder import build_map, BuildConfig, BuildOptions
from regvpr_core.maps.keyframes import KeyframeConfig
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.recordings.frames import PosedFrame, PosedSource
from regvpr_core.recordings.sources import SourceOptions


def posed(images, *, spacing_m: float = 1.0, camera: str = 'front') -> list[PosedFrame]:
    frames = []
    for i, rgb in enumerate(images):
        T = np.eye(4)
        T[0, 3] = i * spacing_m
        frames.append(PosedFrame(stamp_ns=i, camera=camera, T_map_cam=T, source='lap',
                                 decode=lambda rgb=rgb: rgb))
    return frames


def build(frames, encoder, path: Path, config: BuildConfig | None = None,
          progress=lambda report: None):
    """Build a map of frames; gives the report of the finished map."""
    reports = []

    def told(report):
        reports.append(report)
        progress(report)

    source = PosedSource(name='lap', poses='', world='', frames=lambda: iter(frames), total=0,
                         extrinsics={'front': [0, 0, 0, 0, 0, 0, 1]})
    options = BuildOptions(out=path, config=config or BuildConfig(),
                           sources=SourceOptions(map_frame='world'))
    build_map([source], options, encoder, told).close()
    return reports[-1]


def undecodable() -> np.ndarray:
    raise ImageError('the image is torn')


def test_frames_become_a_map_that_finds_them(small_encoder, tmp_path, noise):
    images = noise(9)
    told = []
    report = build(posed(images), small_encoder, tmp_path / 'map', BuildConfig(batch=4),
                   progress=lambda r: told.append((r.seen, r.kept)))
    assert (report.seen, report.kept, dict(report.dropped)) == (9, 9, {})
    assert told == [(4, 4), (8, 8), (9, 9), (9, 9)]  # the last is that of the finished map
    files = {p.name: p.stat().st_size for p in (tmp_path / 'map').iterdir()
             if not p.name.startswith('map.db-')}  # SQLite's own, of the map that was opened
    assert sorted(files) == ['descriptors.f16', 'map.db']
    assert report.size_bytes == sum(files.values())
    assert [p.name for p in tmp_path.iterdir()] == ['map']
    assert report.length_m == pytest.approx(8.0)
    with PlaceMap.open(tmp_path / 'map', small_encoder.fingerprint) as place_map:
        for i, rgb in enumerate(images):
            assert place_map.search(small_encoder.describe(rgb), 1)[1].tolist() == [i]
        assert place_map.thumbnail(3).shape == (120, 160, 3)
        manifest = place_map.manifest
        assert (manifest.map_frame, manifest.sources) == ('world', ['lap'])
        assert manifest.extrinsics == {'front': [0, 0, 0, 0, 0, 0, 1]}
        assert manifest.preprocessing['height'] == 56
        assert manifest.config['keyframes']['distance_m'] == 1.0


@pytest.mark.parametrize(('distance_m', 'kept'), [(0.0, 12), (0.5, 12), (1.0, 6), (2.6, 2)])
def test_keyframes_are_as_far_apart_as_wanted(small_encoder, tmp_path, noise, distance_m, kept):
    config = BuildConfig(keyframes=KeyframeConfig(distance_m=distance_m, rotation_rad=3.2))
    report = build(posed(noise(12), spacing_m=0.5), small_encoder, tmp_path / 'map', config)
    assert (report.seen, report.kept) == (12, kept)
    assert report.dropped['close to the last keyframe'] == 12 - kept
    assert report.length_m == pytest.approx(5.5)


def test_frames_that_cannot_be_used_are_counted_by_reason(small_encoder, tmp_path, noise):
    frames = posed(noise(6))
    frames[1] = PosedFrame(stamp_ns=1, camera='front', T_map_cam=None, decode=undecodable)
    frames[3] = PosedFrame(stamp_ns=3, camera='front', T_map_cam=frames[3].T_map_cam,
                           decode=undecodable)
    report = build(frames, small_encoder, tmp_path / 'map')
    assert (report.seen, report.kept) == (6, 4)
    assert report.dropped == {'no pose at its stamp': 1, 'image cannot be decoded': 1}
    assert report.first_image_error == 'the image is torn'


def test_an_image_that_is_no_keyframe_is_never_decoded(small_encoder, tmp_path, noise):
    frames = posed(noise(2), spacing_m=0.1)
    frames[1] = PosedFrame(stamp_ns=1, camera='front', T_map_cam=frames[1].T_map_cam,
                           decode=undecodable)
    assert build(frames, small_encoder, tmp_path / 'map').dropped == {
        'close to the last keyframe': 1}


def test_the_batch_changes_nothing(small_encoder, tmp_path, noise):
    rows = []
    for batch in (1, 3, 64):
        build(posed(noise(7)), small_encoder, tmp_path / f'map{batch}', BuildConfig(batch=batch))
        with PlaceMap.open(tmp_path / f'map{batch}') as place_map:
            rows.append(place_map.descriptors())
    for other in rows[1:]:
        np.testing.assert_allclose(other, rows[0], atol=1e-3)  # one step of half precision


def test_thumbnails_can_be_left_out(small_encoder, tmp_path, noise):
    build(posed(noise(2)), small_encoder, tmp_path / 'map', BuildConfig(thumbnail_px=0))
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert place_map.thumbnail(0) is None


@pytest.mark.parametrize(('frames', 'message'), [
    ([], r'no keyframe for map .*map: 0 images seen; the source holds no image'),
    ([PosedFrame(stamp_ns=0, camera='c', T_map_cam=None, decode=undecodable)] * 3,
     r'3 images seen; dropped: 3 × no pose at its stamp'),
    ([PosedFrame(stamp_ns=i, camera='c', T_map_cam=np.eye(4), decode=undecodable)
      for i in range(2)],
     r'dropped: 2 × image cannot be decoded \(the image is torn\)')])
def test_no_keyframe_is_no_map_and_says_why(small_encoder, tmp_path, frames, message):
    with pytest.raises(MapError, match=message):
        build(frames, small_encoder, tmp_path / 'map')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError, MapError])
def test_nothing_is_left_of_a_build_that_was_broken_off_before_its_first_batch(
        small_encoder, tmp_path, noise, error):
    def broken():
        yield from posed(noise(3))
        raise error('stop')

    with pytest.raises(error):
        build(broken(), small_encoder, tmp_path / 'map', BuildConfig(batch=4))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(small_encoder, tmp_path, noise):
    (tmp_path / 'map').mkdir()
    with pytest.raises(MapError, match=r'map exists; choose a new folder for the map or remove'):
        build(posed(noise(2)), small_encoder, tmp_path / 'map')
    assert [p.name for p in tmp_path.rglob('*')] == ['map']


def test_what_an_earlier_crash_left_is_cleared_away(small_encoder, tmp_path, noise):
    (tmp_path / '.map.partial').mkdir()
    (tmp_path / '.map.partial' / 'map.db').write_bytes(b'half')
    assert build(posed(noise(2)), small_encoder, tmp_path / 'map').kept == 2
    assert [p.name for p in tmp_path.iterdir()] == ['map']


def test_output_that_cannot_be_written_is_refused(small_encoder, tmp_path, noise):
    (tmp_path / 'file').write_text('in the way')
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
    for where in (tmp_path / 'file' / 'map', Path('/proc/map')):
        with pytest.raises(MapError, match='cannot write map'):
            build(posed(noise(2)), small_encoder, where)
    with pytest.raises(MapError, match='link exists; choose a new folder'):
        build(posed(noise(2)), small_encoder, tmp_path / 'link')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'link']


@pytest.mark.parametrize(('settings', 'message'), [
    ({'batch': 0}, 'batch is 0; expected 1 to 1024'),
    ({'thumbnail_px': 5000}, 'thumbnail_px is 5000; expected 0 to 1024'),
    ({'max_pose_gap_s': float('nan')}, 'max_pose_gap_s is nan')])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        BuildConfig(**settings)
