"""Result file of every benchmark: machine, commit, and figures with their targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
import json
import os
from pathlib import Path
import platform
import statistics
import subprocess
import time
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ('torch', 'numpy', 'faiss-cpu', 'onnxruntime')


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure.

    metric: its name. unit: `x` for a ratio. target: None if there is no target.
    scope: what was timed or counted, in a sentence.
    """

    metric: str
    value: float
    unit: str
    target: float | None = None
    higher_is_better: bool = True
    scope: str = ''

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.higher_is_better else self.value <= self.target


def write(name: str, metrics: Sequence[Metric], device: str = 'cpu') -> Path:
    """Write build/bench/NAME.json and return its path."""
    record = {
        'benchmark': name,
        'machine': machine(device),
        'commit': commit(),
        'date': datetime.now(timezone.utc).strftime('%Y-%m-%d'),
        'metrics': [
            {'metric': m.metric, 'value': m.value, 'unit': m.unit, 'target': m.target,
             'higher_is_better': m.higher_is_better, 'met': m.met, 'scope': m.scope}
            for m in metrics],
    }
    path = ROOT / 'build' / 'bench' / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')
    return path


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, memory, load, priority, versions, device."""
    return {
        'processor': processor(),
        'cores': len(os.sched_getaffinity(0)),
        'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, 1),
        'load_before': round(os.getloadavg()[0], 2),
        'real_time': os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR),
        'versions': {'python': platform.python_version()} | {
            package: version for package in PACKAGES if (version := installed(package))},
        'device': device,
    }


def processor() -> str:
    """Name of the processor as Linux knows it."""
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """Version of a package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The measured commit, with `-dirty` if files differ from it."""
    run = subprocess.run(['git', 'describe', '--always', '--dirty', '--abbrev=12', '--match=-'],
                         cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip() or 'none'


def median_seconds(*works: Callable[[], object], repeats: int = 5) -> list[float]:
    """Median times of functions, s; they are called in turn, so that the load is equal for all."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):  # the first turn warms up
        for work, seconds in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]
