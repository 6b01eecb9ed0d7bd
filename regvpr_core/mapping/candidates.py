"""Selects keyframe candidates from frames in order: by pose, then by image quality.

A frame is compared with the last kept frame, so its selection depends on the quality of earlier
images. To decode ahead in threads, all images are first assumed to be good. If one is not, the
selection of the frames after it is repeated. The result is the same as for one frame at a time.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
import os
from typing import Any

import numpy as np

from regvpr_core.config import check_settings, setting
from regvpr_core.errors import ImageError, MapError
from regvpr_core.geometry import Array
from regvpr_core.images import encode_jpeg, RGB, thumbnail
from regvpr_core.mapping.frame_quality import measure, Measures, QualityConfig, QualityGate
from regvpr_core.maps.keyframes import KeyframeConfig, KeyframeSelector
from regvpr_core.recordings.frames import PosedFrame

NOT_DECODED = 'image cannot be decoded'
NO_KEYFRAME = 'close to the last keyframe'

DECODERS = min(8, max(2, len(os.sched_getaffinity(0))))

HELD_BYTES = 256_000_000
"""Limit on the memory of undecoded messages, bytes; one frame is always accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionConfig:
    """Settings of the selection."""

    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    ahead: int = setting(16, 'Images decoded ahead of use.', 1, 4096)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(slots=True)
class Tally:
    """Counts of frames by outcome. length_m: of the path through their poses."""

    seen: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    length_m: float = 0.0
    first_image_error: str = ''


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A decoded frame. inputs: network input. small: JPEG thumbnail."""

    inputs: Any
    measures: Measures
    small: bytes | None


@dataclass(slots=True, eq=False)
class _Waiting:
    """An undecided frame. future: its image; None if its pose excludes it."""

    frame: PosedFrame
    future: 'Future[Picture] | None' = None


class CandidateStream:
    """Iterates over (frame, image) of the kept frames; updates `tally` and `state`."""

    def __init__(
        self,
        frames: Iterable[PosedFrame],
        config: SelectionConfig,
        prepare: Callable[[RGB], Any],
        thumbnail_px: int,
    ) -> None:
        self.tally = Tally()
        self._frames = iter(frames)
        self._config = config
        self._prepare = prepare
        self._thumbnail_px = thumbnail_px
        self._selector = KeyframeSelector(config.keyframes)
        self._guess = KeyframeSelector(config.keyframes)
        self._gate = QualityGate(config.quality)
        self._last_position: dict[str, Array] = {}
        self._waiting: deque[_Waiting] = deque()
        self._held = 0

    def state(self) -> dict[str, Any]:
        """State of the selection, for JSON."""
        tally = self.tally
        return {
            'seen': tally.seen, 'dropped': dict(tally.dropped), 'length_m': tally.length_m,
            'first_image_error': tally.first_image_error, 'selector': self._selector.state(),
            'gate': self._gate.state(),
            'positions': {key: p.tolist() for key, p in self._last_position.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue after the frames that were seen when `state` was called.

        Raises:
            MapError: the state is damaged, or the source has fewer frames.
        """
        try:
            self.tally = Tally(int(state['seen']), Counter(state['dropped']),
                               float(state['length_m']), str(state['first_image_error']))
            self._selector.restore(state['selector'])
            self._guess.restore(state['selector'])
            self._last_position = {key: np.array(p) for key, p in state['positions'].items()}
            self._gate.restore(state['gate'])
        except (KeyError, TypeError, ValueError) as error:
            raise MapError(f'the state of the unfinished map is damaged: {error}') from error
        for gone in range(self.tally.seen):
            if next(self._frames, None) is None:
                raise MapError(f'the sources have {gone} images, but {self.tally.seen} had been '
                               f'seen when the build was interrupted; were they changed?')

    def __iter__(self) -> Iterator[tuple[PosedFrame, Picture]]:
        pool = ThreadPoolExecutor(DECODERS, thread_name_prefix='decode')
        try:
            while self._fill(pool):
                item = self._waiting.popleft()
                self._held -= item.frame.held_bytes
                picture = self._decide(item, pool)
                if picture is not None:
                    yield item.frame, picture
        finally:
            pool.shutdown(cancel_futures=True)

    def _fill(self, pool: ThreadPoolExecutor) -> bool:
        """Read frames until enough are being decoded; False at the end."""
        decoding = sum(item.future is not None for item in self._waiting)
        while decoding < self._config.ahead and (
                not self._waiting or self._held < HELD_BYTES):
            frame = next(self._frames, None)
            if frame is None:
                break
            item = _Waiting(frame)
            self._expect(item, pool)
            decoding += item.future is not None
            self._held += frame.held_bytes
            self._waiting.append(item)
        return bool(self._waiting)

    def _expect(self, item: _Waiting, pool: ThreadPoolExecutor) -> None:
        """Start decoding a frame that is kept if the images before it are good."""
        frame = item.frame
        if frame.T_map_cam is None or not self._is_new(self._guess, frame):
            return
        self._guess.keep(frame.camera, frame.T_map_cam, frame.stamp_ns)
        if item.future is None:
            item.future = pool.submit(self._load, frame)

    def _is_new(self, selector: KeyframeSelector, frame: PosedFrame) -> bool:
        return frame.T_map_cam is not None and (
            frame.lone or selector.is_new(frame.camera, frame.T_map_cam, frame.stamp_ns))

    def _load(self, frame: PosedFrame) -> Picture:
        rgb = frame.decode()
        small = encode_jpeg(thumbnail(rgb, self._thumbnail_px)) if self._thumbnail_px else None
        return Picture(inputs=self._prepare(rgb), measures=measure(rgb), small=small)

    def _decide(self, item: _Waiting, pool: ThreadPoolExecutor) -> Picture | None:
        """The image of a kept frame; otherwise None, and the reason is counted."""
        frame, tally = item.frame, self.tally
        tally.seen += 1
        T = frame.T_map_cam
        if T is None:
            tally.dropped[frame.refused] += 1
            return None
        self._measure_path(frame, T)
        if not self._is_new(self._selector, frame):
            tally.dropped[NO_KEYFRAME] += 1
            return None
        assert item.future is not None  # decoding was started for it
        try:
            picture = item.future.result()
            reason = self._gate.refuses(frame.camera, picture.measures)
        except ImageError as error:
            reason = NOT_DECODED
            tally.first_image_error = tally.first_image_error or str(error)
        if reason:
            tally.dropped[reason] += 1
            self._expect_anew(pool)
            return None
        self._selector.keep(frame.camera, T, frame.stamp_ns)
        self._gate.keep(frame.camera, picture.measures)
        return picture

    def _expect_anew(self, pool: ThreadPoolExecutor) -> None:
        """An image was not good: select the waiting frames after it again."""
        self._guess.restore(self._selector.state())
        for item in self._waiting:
            self._expect(item, pool)

    def _measure_path(self, frame: PosedFrame, T: Array) -> None:
        if frame.lone:
            return
        key = f'{frame.source}\n{frame.camera}'
        if key in self._last_position:
            self.tally.length_m += float(np.linalg.norm(T[:3, 3] - self._last_position[key]))
        self._last_position[key] = np.array(T[:3, 3])
