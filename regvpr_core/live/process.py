"""Settings of the node's process that keep images from waiting."""

import ctypes
import platform
import sys

SWITCH_S = 0.0005
"""How long one of Python's threads may keep the others waiting; Python's own 5 ms would be a large
part of what an image costs besides the network."""

KEEP_BYTES = 32 << 20
"""Blocks up to this size come from memory that the process keeps. glibc gives a large one back to
the system at once, and an image of 2.8 MB that is copied thrice on its way to Python then costs
2,000 page faults: 4 ms of 7."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def tune_process() -> None:
    """Once, at the start of a process that does nothing else."""
    sys.setswitchinterval(SWITCH_S)
    if platform.libc_ver()[0] == 'glibc':
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * KEEP_BYTES)
