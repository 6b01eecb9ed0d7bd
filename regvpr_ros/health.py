"""Counters of a running node, as a diagnostic_msgs/DiagnosticStatus."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
import resource
import time

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
import numpy as np

STUCK_S = 5.0
RECENT_S = 5.0

MISSED_IMAGES = 5
"""Number of successive images without odometry, although it is published, for a warning."""


@dataclass(slots=True)
class Health:
    """Counters, written by callbacks and the worker without a lock (single assignments)."""

    received: int = 0
    processed: int = 0
    localized: int = 0
    too_old: int = 0
    held_back: int = 0
    decoded_ahead: int = 0
    loop_closures: int = 0
    started_at: float = field(default_factory=time.monotonic)
    busy_since: float | None = None
    processed_at: float = float('-inf')
    odometry_at: float = float('-inf')
    odometry_ns: int = 0
    odometry_missed: int = 0
    odometry_ahead_s: float = 0.0
    zero_stamps: int = 0
    zero_stamp_at: float = float('-inf')
    bad: Counter[str] = field(default_factory=Counter)
    last_error: str = ''
    last_error_at: float = float('-inf')
    last_image_at: float = field(default_factory=time.monotonic)
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=300))
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    steps_s: dict[str, float] = field(default_factory=dict)

    def image_arrived(self) -> None:
        """Count an image."""
        self.received += 1
        self.last_image_at = time.monotonic()
        self.arrivals.append(self.last_image_at)

    def refused(self, cause: str, message: str) -> None:
        """Count an unusable image, and store the reason."""
        self.bad[cause] += 1
        self.last_error = message
        self.last_error_at = time.monotonic()

    def unstamped(self) -> None:
        """Count an image whose stamp is 0."""
        self.zero_stamps += 1
        self.zero_stamp_at = time.monotonic()

    def odometry_at_image(self, stamp_ns: int, known: bool) -> None:
        """Count successive images that published odometry does not cover."""
        comes = time.monotonic() - self.odometry_at < RECENT_S
        self.odometry_missed = self.odometry_missed + 1 if comes and not known else 0
        self.odometry_ahead_s = (self.odometry_ns - stamp_ns) / 1e9

    def rate_hz(self) -> float:
        """Rate of arriving images, Hz."""
        arrivals = list(self.arrivals)
        now = time.monotonic()
        if len(arrivals) < 2 or now - arrivals[-1] > 10.0:
            return 0.0
        return (len(arrivals) - 1) / max(now - arrivals[0], 1e-9)

    def looked_at(self, latency_s: float) -> None:
        """Count a processed image."""
        self.processed += 1
        self.processed_at = time.monotonic()
        self.latencies_s.append(latency_s)

    def spent(self, step: str, seconds: float) -> None:
        """Count the worker's time."""
        self.steps_s[step] = self.steps_s.get(step, 0.0) + seconds

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Measure the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent(step, time.perf_counter() - start)

    def level(self, timeout_s: float, wants_odometry: bool,
              without_intrinsics: Sequence[str] = ()) -> tuple[bytes, str]:
        """Level and reason: ERROR without any output, WARN with reduced output.

        Args:
            timeout_s: time without an image for a warning; five times this for an error.
            wants_odometry: whether odometry is needed.
            without_intrinsics: cameras whose required camera_info is missing.
        """
        now = time.monotonic()
        silent_s = now - self.last_image_at
        if self.busy_since is not None and now - self.busy_since > STUCK_S:
            return (DiagnosticStatus.ERROR,
                    f'processing one image for {now - self.busy_since:.0f} s')
        if silent_s > 5.0 * timeout_s:
            return DiagnosticStatus.ERROR, f'no image for {silent_s:.1f} s'
        if now - self.last_error_at < RECENT_S:
            all_bad = now - self.processed_at > RECENT_S
            return DiagnosticStatus.ERROR if all_bad else DiagnosticStatus.WARN, self.last_error
        if silent_s > timeout_s:
            return DiagnosticStatus.WARN, f'no image for {silent_s:.1f} s'
        if wants_odometry and self.odometry_missed >= MISSED_IMAGES:
            side = 'ahead of' if self.odometry_ahead_s > 0 else 'behind'
            return DiagnosticStatus.WARN, (
                f'odometry never covers the images: its stamps are '
                f'{abs(self.odometry_ahead_s):.1f} s {side} theirs; set one clock for both')
        if now - self.zero_stamp_at < RECENT_S:
            return DiagnosticStatus.WARN, ('the stamps of images are 0: their time of arrival is '
                                           'taken; set the clock of the camera driver')
        if wants_odometry and now - max(self.odometry_at, self.started_at) > RECENT_S:
            return DiagnosticStatus.WARN, 'no odometry: belief only spreads between images'
        if without_intrinsics and now - self.started_at > RECENT_S:
            names = ', '.join(name for name in without_intrinsics if name)
            return DiagnosticStatus.WARN, (
                f'no camera_info{" of " if names else ""}{names}: images are verified '
                f"without intrinsics, or with the map's")
        return DiagnosticStatus.OK, ''

    def values(self, dropped: int) -> dict[str, str]:
        """Counters and timings by name; `dropped`: images replaced by newer ones."""
        steps = dict(self.steps_s)
        total = max(sum(steps.values()), 1e-9)
        latencies = np.array(self.latencies_s) if self.latencies_s else np.zeros(1)
        return {
            'images received': str(self.received),
            'images processed': str(self.processed),
            'images localized': str(self.localized),
            'localized share': f'{self.localized / max(self.processed, 1):.3f}',
            'loop closures': str(self.loop_closures),
            'dropped for newer ones': str(dropped),
            'dropped as too old': str(self.too_old),
            'held back by rate or trigger': str(self.held_back),
            'decoded ahead': str(self.decoded_ahead),
            'images with a stamp of 0': str(self.zero_stamps),
            **{f'bad: {cause}': str(count) for cause, count in sorted(self.bad.items())},
            'bad images': str(sum(self.bad.values())),
            'image rate (Hz)': f'{self.rate_hz():.1f}',
            'latency p50 (ms)': f'{1e3 * float(np.percentile(latencies, 50)):.1f}',
            'latency p95 (ms)': f'{1e3 * float(np.percentile(latencies, 95)):.1f}',
            **{f'share of time: {step}': f'{seconds / total:.3f}'
               for step, seconds in steps.items()},
            'busy (ms an image)': f'{1e3 * total / max(self.processed, 1):.1f}',
            'memory (MB)': f'{resident_mb():.0f}',
            'last error': self.last_error,
        }


def diagnostic(name: str, level: bytes, text: str, values: dict[str, str]) -> DiagnosticStatus:
    """Make a DiagnosticStatus."""
    return DiagnosticStatus(level=level, name=name, message=text, hardware_id='regvpr',
                            values=[KeyValue(key=k, value=v) for k, v in values.items()])


def resident_mb() -> float:
    """Resident memory of this process, MB; its peak on systems without /proc."""
    try:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return pages * resource.getpagesize() / 1e6
