"""`regvpr doctor`: check the installation, and say how to install what is missing."""

import argparse
from collections.abc import Callable
import importlib
from importlib import metadata
from importlib.util import find_spec
import json
import os
import platform
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import cell, say
from regvpr_core.cli.describe import add_encoder_arguments
from regvpr_core.cli.parsing import add_command
from regvpr_core.config import DEFAULT_MODEL


def add_parser(commands: Any) -> None:
    """Add `doctor` to the command line."""
    parser = add_command(
        commands, 'doctor', 'check the installation, and say how to complete it',
        'regvpr doctor', 'regvpr doctor --device cuda --json > report.json',
        description='Check the installation, and say how to complete it. With --device cuda, also '
        'run a self-test of about a minute: every precision and engine is compared with float32, '
        'and times, memory and a training step are measured. Please send its report (--json) to '
        'the developers, who had no such device.')
    parser.add_argument('--json', action='store_true', help='print JSON')
    add_encoder_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run all checks; the command fails if a required one fails."""
    from regvpr_core.errors import ConfigError

    # Without torch the default model cannot be loaded, but an .onnx file can.
    needs_model = find_spec('torch') is not None or options.model != DEFAULT_MODEL
    checks: list[tuple[str, bool, Callable[[], str]]] = [
        ('Python', True, lambda: f'{platform.python_version()}, {os.cpu_count()} processors'),
        ('torch', find_spec('onnxruntime') is None, torch_facts),
        ('faiss', True, lambda: version('faiss', 'faiss-cpu')),
        ('OpenCV', True, lambda: version('cv2', 'opencv-python-headless')),
        ('model', needs_model, lambda: model_facts(options)),
        ('bags', False, lambda: version('rosbags', 'rosbags')),
        ('ONNX export', False, lambda: version('onnx', 'onnx')),
        ('onnxruntime', False, lambda: version('onnxruntime', 'onnxruntime')),
        ('ROS 2', False, ros_facts),
    ]
    if not options.json:
        say(Console(stderr=True), 'checking this machine: the model, which is loaded and run, '
                                  'takes longest', 'dim')
    lines = [checked(*check) for check in checks]
    if options.device.startswith('cuda'):
        lines += tested(options)
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


def tested(options: argparse.Namespace) -> list[dict[str, str]]:
    """Lines of the self-test of a device; none if the device is absent."""
    from regvpr_core.errors import RegvprError
    from regvpr_core.models.encoder import choose_device
    from regvpr_core.models.self_test import self_test

    try:
        device = choose_device(options.device)
        return [{'check': line.pop('part'), 'state': 'FAILED' if 'failed' in line else 'ok',
                 'facts': ', '.join(f'{key} {value}' for key, value in line.items())}
                for line in self_test(options.model, device)]
    except (RegvprError, ImportError) as error:
        return [{'check': 'self-test', 'state': 'FAILED', 'facts': str(error)}]


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
    """Load the default model, describe a grey image and report the time."""
    import numpy as np

    from regvpr_core.models.encoder import load_encoder

    encoder = load_encoder(options.model, options.device, options.precision,
                           engine=options.engine, threads=options.threads)
    grey = np.full((480, 640, 3), 128, dtype=np.uint8)
    encoder.describe(grey)
    start = time.perf_counter()
    encoder.describe(grey)
    return (f'{encoder.name} [{encoder.fingerprint[:12]}] on {encoder.device} in '
            f'{encoder.precision}, {1e3 * (time.perf_counter() - start):.0f} ms an image')


def ros_facts() -> str:
    """Check that the packages of the ROS node can be imported.

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
