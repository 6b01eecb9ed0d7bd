"""JSON record of a run: config, data, versions and curve."""

from collections.abc import Sequence
import contextlib
import functools
from importlib import metadata
import json
from pathlib import PurePath
import platform
from typing import Any

import torch

from regvpr_core import __version__
from regvpr_core.config import to_mapping
from regvpr_core.datasets.dataset import Dataset
from regvpr_core.datasets.place_set import PlaceSet
from regvpr_core.models.backbones import BackboneWeights
from regvpr_core.training.config import TrainConfig
from regvpr_core.training.run_state import Progress

PACKAGES = ('torch', 'numpy', 'kornia', 'pytorch-metric-learning', 'opencv-python-headless')
NAMED_UNREADABLE = 100


def run_record(
    *, status: str, config: TrainConfig, places: PlaceSet, digest: str,
    datasets: Sequence[Dataset], backbone: BackboneWeights, device: torch.device, precision: str,
    processes: int, steps: int, progress: Progress, unreadable: dict[str, str],
) -> dict[str, Any]:
    """The record. status: running, stopped or finished. Seconds are those of steps alone."""
    return {
        'status': status,
        'name': config.name,
        'config': json.loads(json.dumps(to_mapping(config))),
        'seed': config.seed,
        'backbone': {'origin': backbone.source.origin, 'sha256': backbone.source.sha256},
        'data': {'name': places.name, 'sha256': digest, 'pictures': len(places.paths),
                 'places': len(places.members), 'groups': len(set(places.groups)),
                 'dropped_places': places.dropped},
        'validation': [{'name': d.title, 'protocol': d.protocol, 'rule': d.rule,
                        'queries': len(d.queries), 'references': len(d.references)}
                       for d in datasets],
        'unreadable': {'count': len(unreadable),
                       'pictures': dict(sorted(unreadable.items())[:NAMED_UNREADABLE])},
        'versions': versions(),
        'device': device_name(device),
        'precision': precision,
        'processes': processes,
        'threads': torch.get_num_threads(),
        'steps': steps,
        'step': progress.step,
        'seconds': round(progress.seconds, 1),
        'best': {'step': progress.best_step, 'mean_recall_at_1': progress.best}
        if progress.best >= 0 else None,
        'curve': progress.curve,
    }


def checkpoint_record(record: dict[str, Any]) -> dict[str, Any]:
    """The part of the record that a checkpoint keeps: no curve, and no paths of this machine."""
    config = {key: value for key, value in record['config'].items()
              if key not in ('model', 'data_root', 'backbone_path', 'start', 'workers')}
    if config['tokens']:
        config['tokens'] = config['tokens'] | {'folder': ''}
    for key in ('data', 'validation'):
        config[key] = [one | {'folder': PurePath(one['folder']).name} for one in config[key]]
    left_out = ('status', 'config', 'curve', 'unreadable', 'name', 'seed')
    return {key: value for key, value in record.items() if key not in left_out} | {
        'recipe': config}


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the package, of Python and of the installed packages of `PACKAGES`."""
    found = {'regvpr': __version__, 'python': platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def device_name(device: torch.device) -> str:
    """The device, with the GPU's name."""
    if device.type == 'cuda':
        return f'{device} ({torch.cuda.get_device_name(device)})'
    return str(device)
