"""Time per image of models on this machine: measured once and stored in the cache.

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
    """Key of a measurement: processor, number of usable cores, and device."""
    return f'{platform.machine()} {_processor()}, {len(os.sched_getaffinity(0))} cores, {device}'


def known_speeds() -> dict[str, dict[str, float]]:
    """Measurements of this machine by model name: ms_an_image, peak_mb and threads."""
    found = _read().get(machine(), {})
    return {str(name): value for name, value in found.items()
            if isinstance(value, dict) and isinstance(value.get('ms_an_image'), int | float)}


def keep_speed(name: str, measured: dict[str, float]) -> None:
    """Store a measurement; nothing is stored if the cache is not writable."""
    everything = _read()
    everything.setdefault(machine(), {})[name] = measured
    path = _file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'{path.name}.{os.getpid()}')
        part.write_text(json.dumps(everything, indent=1, sort_keys=True), encoding='utf-8')
        part.replace(path)


def measure(encoder: Any) -> dict[str, float]:
    """Time of an encoder for one camera image, and peak memory of the process.

    Returns:
        ms_an_image: fastest of several, to reduce the effect of other programs; with resizing.
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
    """The content of the file; empty if it is damaged or too large."""
    with contextlib.suppress(OSError, ValueError):
        if _file().stat().st_size <= MAX_FILE_BYTES:
            found = json.loads(_file().read_text(encoding='utf-8'))
            if isinstance(found, dict):
                return {key: value for key, value in found.items() if isinstance(value, dict)}
    return {}


def _processor() -> str:
    """Name of the processor, from Linux."""
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            if line.startswith(('model name', 'Model')):
                return line.partition(':')[2].strip()
    return platform.processor() or 'processor'
