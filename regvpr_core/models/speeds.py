"""How long a model takes for an image on this machine: measured once, kept in the cache.

The file is `speeds.json` in the cache folder; reading it needs no torch.
"""

import contextlib
import json
import os
from pathlib import Path
import platform
import resource
import time
from typing import Any

import numpy as np

from regvpr_core.models.downloads import cache_folder

WARM_UP = 2
MEASURED = 8
IMAGE = (480, 640, 3)
MAX_FILE_BYTES = 1_000_000


def machine(device: str = 'auto') -> str:
    """What a speed holds for: processor, cores that this process may use, and device."""
    return f'{platform.machine()} {_processor()}, {len(os.sched_getaffinity(0))} cores, {device}'


def known_speeds() -> dict[str, dict[str, float]]:
    """Model name to ms_an_image, peak_mb and threads, as measured on this machine."""
    found = _read().get(machine(), {})
    return {str(name): value for name, value in found.items()
            if isinstance(value, dict) and isinstance(value.get('ms_an_image'), int | float)}


def keep_speed(name: str, measured: dict[str, float]) -> None:
    """Add a measurement to the file; a cache that cannot be written keeps none."""
    everything = _read()
    everything.setdefault(machine(), {})[name] = measured
    path = _file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'{path.name}.{os.getpid()}')
        part.write_text(json.dumps(everything, indent=1, sort_keys=True), encoding='utf-8')
        part.replace(path)


def measure(encoder: Any) -> dict[str, float]:
    """Time of an encoder for one camera image, and the memory of the process so far.

    Returns:
        ms_an_image: fastest of several, so that other programs count little; with resizing.
        peak_mb: largest resident size of this process, MB.
    """
    noise = np.random.default_rng(0).integers(0, 256, IMAGE, dtype=np.uint8)
    seconds = []
    for turn in range(WARM_UP + MEASURED):
        start = time.perf_counter()
        encoder.describe(noise)
        if turn >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {'ms_an_image': round(1e3 * min(seconds), 1),
            'peak_mb': round(peak_kb / 1024)}


def _file() -> Path:
    return cache_folder() / 'speeds.json'


def _read() -> dict[str, dict[str, Any]]:
    """The file's content; one that is damaged or too large counts as empty."""
    with contextlib.suppress(OSError, ValueError):
        if _file().stat().st_size <= MAX_FILE_BYTES:
            found = json.loads(_file().read_text(encoding='utf-8'))
            if isinstance(found, dict):
                return {key: value for key, value in found.items() if isinstance(value, dict)}
    return {}


def _processor() -> str:
    """Name of the processor, as Linux tells it."""
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            if line.startswith(('model name', 'Model')):
                return line.partition(':')[2].strip()
    return platform.processor() or 'processor'
