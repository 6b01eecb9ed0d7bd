"""Counters of a running node, as a diagnostic_msgs/DiagnosticStatus."""

from collections import Counter, deque
from dataclasses import dataclass, field
import time

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
import numpy as np


@dataclass(slots=True)
class Health:
    """Written by callbacks and the worker; single assignments, so no lock."""

    received: int = 0
    processed: int = 0
    localized: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    last_error: str = ''
    last_error_at: float = float('-inf')
    last_image_at: float = field(default_factory=time.monotonic)
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=300))
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=100))

    def image_arrived(self) -> None:
        """Count an image."""
        self.received += 1
        self.last_image_at = time.monotonic()
        self.arrivals.append(self.last_image_at)

    def refused(self, cause: str, message: str) -> None:
        """Count an image that could not be used, and keep why."""
        self.bad[cause] += 1
        self.last_error = message
        self.last_error_at = time.monotonic()

    def rate_hz(self) -> float:
        """Images a second that arrived lately."""
        arrivals = list(self.arrivals)
        now = time.monotonic()
        if len(arrivals) < 2 or now - arrivals[-1] > 10.0:
            return 0.0
        return (len(arrivals) - 1) / max(now - arrivals[0], 1e-9)

    def status(
        self, name: str, dropped: int, timeout_s: float, facts: dict[str, str]
    ) -> DiagnosticStatus:
        """The diagnostic: ERROR is not used while images come, WARN says what is wrong.

        Args:
            name: of the status.
            dropped: images replaced by newer ones before they were looked at.
            timeout_s: without an image for so long is a warning.
            facts: more keys to show.
        """
        silent_s = time.monotonic() - self.last_image_at
        level, text = DiagnosticStatus.OK, facts.get('state', 'running')
        if silent_s > timeout_s:
            level, text = DiagnosticStatus.WARN, f'no image for {silent_s:.1f} s'
        elif time.monotonic() - self.last_error_at < 5.0:
            level, text = DiagnosticStatus.WARN, self.last_error
        latencies = np.array(self.latencies_s) if self.latencies_s else np.zeros(1)
        values = {
            'images received': str(self.received),
            'images processed': str(self.processed),
            'images localized': str(self.localized),
            'dropped for newer ones': str(dropped),
            **{f'bad: {cause}': str(count) for cause, count in sorted(self.bad.items())},
            'bad images': str(sum(self.bad.values())),
            'image rate (Hz)': f'{self.rate_hz():.1f}',
            'latency p50 (ms)': f'{1e3 * float(np.percentile(latencies, 50)):.1f}',
            'latency p95 (ms)': f'{1e3 * float(np.percentile(latencies, 95)):.1f}',
            'last error': self.last_error,
            **facts,
        }
        return DiagnosticStatus(level=level, name=name, message=text, hardware_id='regvpr',
                                values=[KeyValue(key=k, value=v) for k, v in values.items()])
