"""`regvpr doctor`: what of this machine is ready, and what to do about the rest."""

import argparse
from collections.abc import Callable
import importlib
from importlib import metadata
import json
import os
import platform
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import cell
from regvpr_core.cli.describe import add_encoder_arguments
from regvpr_core.cli.parsing import add_command


def add_parser(commands: Any) -> None:
    """Add `doctor` to the command line."""
    parser = add_command(
        commands, 'doctor', 'what of this machine is ready, and what to do about the rest',
        'regvpr doctor', 'regvpr doctor --device cuda --precision fp16')
    parser.add_argument('--json', action='store_true', help='print JSON')
    add_encoder_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Make every check; one that is needed and fails is an error."""
    from regvpr_core.errors import ConfigError

    checks: list[tuple[str, bool, Callable[[], str]]] = [
        ('Python', True, lambda: f'{platform.python_version()}, {os.cpu_count()} processors'),
        ('torch', True, torch_facts),
        ('faiss', True, lambda: version('faiss', 'faiss-cpu')),
        ('OpenCV', True, lambda: version('cv2', 'opencv-python-headless')),
        ('model', True, lambda: model_facts(options)),
        ('bags', False, lambda: version('rosbags', 'rosbags')),
        ('ONNX export', False, lambda: version('onnx', 'onnx')),
        ('onnxruntime', False, lambda: version('onnxruntime', 'onnxruntime')),
        ('ROS 2', False, ros_facts),
    ]
    lines = [checked(*check) for check in checks]
    if options.json:
        print(json.dumps(lines, indent=1))  # noqa: T201
    else:
        table = Table('check', 'state', 'what is there, or what to do')
        for line in lines:
            table.add_row(*(cell(line[name]) for name in ('check', 'state', 'facts')))
        Console().print(table)
    failed = [line['check'] for line in lines if line['state'] == 'FAILED']
    if failed:
        raise ConfigError(f'not ready: {", ".join(failed)}')


def checked(name: str, needed: bool, check: Callable[[], str]) -> dict[str, str]:
    """One line: ok, FAILED (needed) or absent (optional)."""
    from regvpr_core.errors import RegvprError

    try:
        return {'check': name, 'state': 'ok', 'facts': check()}
    except (ImportError, OSError, RegvprError) as error:
        return {'check': name, 'state': 'FAILED' if needed else 'absent',
                'facts': ' '.join(str(error).split())}


def version(module: str, package: str) -> str:
    """The version of a package whose module can be loaded.

    Raises:
        ImportError: says what to install.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{error}; pip install {package}') from error
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return 'installed under another name'


def torch_facts() -> str:
    """Version, threads, devices."""
    import torch

    devices = ['cpu']
    devices += [f'cuda:{i} {torch.cuda.get_device_name(i)}'
                for i in range(torch.cuda.device_count())]
    devices += ['mps'] if torch.backends.mps.is_available() else []
    return f'{torch.__version__}, {torch.get_num_threads()} threads, {", ".join(devices)}'


def model_facts(options: argparse.Namespace) -> str:
    """Load the model from this machine, describe a grey image, say how long that takes."""
    import numpy as np

    from regvpr_core.models.encoder import load_encoder

    encoder = load_encoder(options.model, options.device, options.precision,
                           engine=options.engine, threads=options.threads)
    grey = np.full((480, 640, 3), 128, dtype=np.uint8)
    encoder.describe(grey)
    start = time.perf_counter()
    encoder.describe(grey)
    return (f'{encoder.notice}; on {encoder.device} in {encoder.precision}, '
            f'{1e3 * (time.perf_counter() - start):.0f} ms an image')


def ros_facts() -> str:
    """Whether the node could run here.

    Raises:
        ImportError: says what is missing.
    """
    try:
        importlib.import_module('rclpy')
    except ImportError as error:
        raise ImportError(f'{error}; needed by the node only: source ROS 2') from error
    try:
        importlib.import_module('regvpr_ros.msg')
    except ImportError as error:
        raise ImportError(f'{error}; build the package and source its setup file') from error
    return f'{os.environ.get("ROS_DISTRO", "rclpy is there")}; messages of regvpr_ros are built'
