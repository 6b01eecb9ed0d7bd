"""Set up .venv: real ROS 2 Jazzy, torch and the rest, as pinned in requirements.lock.

Only the standard library is used. Done again only when the lock, this file or the kind of torch
changes. Which torch: with an NVIDIA driver on the machine, PyPI's CUDA build; without one, the CPU
build if pip's sources offer it, else PyPI's, which runs on the CPU too but is large. TORCH_INDEX
names another package index for torch alone.
"""

import hashlib
import os
from pathlib import Path
import shutil
import subprocess
import sys

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
LOCK = ROOT / 'requirements.lock'
MARK = VENV / 'regvpr-ready'
PYTHON = VENV / 'bin' / 'python'

# Paths of the machine that built the ROS wheels, as their exported CMake files name them.
BUILD_MACHINE = '/opt/python/cp{tag}-cp{tag}'


def main() -> int:
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        version = f'{sys.version_info.major}.{sys.version_info.minor}'
        print(f'Python {version} is running; the ROS 2 wheels are for 3.11 and 3.12. '
              f'Use: make PYTHON=python3.12', file=sys.stderr)
        return 1
    missing = [tool for tool in ('gcc', 'g++', 'make') if not shutil.which(tool)]
    if missing:
        print(f'{", ".join(missing)} not found; install a C++ compiler and make', file=sys.stderr)
        return 1
    torch = torch_requirement()
    identity = hashlib.sha256(b'|'.join([
        LOCK.read_bytes(), Path(__file__).read_bytes(), (ROOT / 'setup.py').read_bytes(),
        ' '.join(torch).encode(), sys.version.encode()])).hexdigest()
    if MARK.is_file() and MARK.read_text() == identity:
        return 0
    if not PYTHON.is_file():
        print('making .venv', flush=True)
        subprocess.run([sys.executable, '-m', 'venv', VENV], check=True)
    install_torch(torch)
    print('installing requirements.lock', flush=True)
    pip('install', '--quiet', '-r', LOCK)
    pip('install', '--quiet', '--no-deps', '--no-build-isolation', '--editable', ROOT)
    fix_exported_paths()
    MARK.write_text(identity)
    return 0


def torch_requirement() -> list[str]:
    """What to ask pip for, best first."""
    version = next(line.split('==')[1].split()[0] for line in LOCK.read_text().splitlines()
                   if line.startswith('torch=='))
    if has_nvidia_driver():
        return [f'torch==={version}']  # the exact name: a build for the CPU is version+cpu
    return [f'torch=={version}+cpu', f'torch=={version}']


def has_nvidia_driver() -> bool:
    """True where the kernel module of an NVIDIA driver answers."""
    if Path('/proc/driver/nvidia/version').exists():
        return True
    smi = shutil.which('nvidia-smi')
    return bool(smi) and subprocess.run(
        [smi], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def install_torch(requirements: list[str]) -> None:
    """Install the first that can be had, and say which and why."""
    why = 'an NVIDIA driver is here' if len(requirements) == 1 else 'no NVIDIA driver is here'
    index = os.environ.get('TORCH_INDEX')
    extra = ['--extra-index-url', index] if index else []
    for last, requirement in ((r is requirements[-1], r) for r in requirements):
        print(f'installing {requirement} ({why})', flush=True)
        if pip('install', '--quiet', *extra, requirement, check=last) == 0:
            return
        print('that build is not offered here; the CUDA build follows, it also runs on the CPU',
              flush=True)


def fix_exported_paths() -> None:
    """Make the wheels' CMake files name this Python's headers and NumPy's."""
    tag = f'{sys.version_info.major}{sys.version_info.minor}'
    out = subprocess.run(
        [PYTHON, '-c', 'import numpy, sysconfig; print(numpy.get_include()); '
                       'print(sysconfig.get_path("include"))'],
        check=True, capture_output=True, text=True).stdout.splitlines()
    theirs = BUILD_MACHINE.format(tag=tag)
    version = f'python{sys.version_info.major}.{sys.version_info.minor}'
    swaps = ((f'{theirs}/lib/{version}/site-packages/numpy/_core/include', out[0]),
             (f'{theirs}/include/{version}', out[1]))
    for file in (VENV / 'share').rglob('*.cmake'):
        text = fixed = file.read_text()
        for old, new in swaps:
            fixed = fixed.replace(old, new)
        if fixed != text:
            file.write_text(fixed)


def pip(*arguments: object, check: bool = True) -> int:
    """Run the environment's pip; what it says is shown only where it fails and that matters."""
    run = subprocess.run([PYTHON, '-m', 'pip', '--disable-pip-version-check',
                          *map(str, arguments)], stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode and check:
        print(run.stderr, file=sys.stderr)
        run.check_returncode()
    return run.returncode


if __name__ == '__main__':
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        print(f'failed: {" ".join(map(str, error.cmd))}', file=sys.stderr)
        sys.exit(1)
