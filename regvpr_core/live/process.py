"""Process settings of the node that reduce the latency of images."""

import ctypes
import platform
import sys

SWITCH_S = 0.0005
"""Switch interval of Python's threads, s. With the default of 5 ms, switching takes a large part
of the time per image that is not spent in the network."""

KEEP_BYTES = 32 << 20
"""Largest block that malloc takes from the heap and keeps, bytes. By default glibc returns larger
blocks to the system at once: an image of 2.8 MB, copied three times on its way to Python, then
causes 2,000 page faults, which take 4 of 7 ms."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def tune_process() -> None:
    """Apply the settings; call once at the start of the node's process."""
    import cv2  # here: its limits are set by the modules that decode, which are loaded by now

    sys.setswitchinterval(SWITCH_S)
    # Threads of OpenCV wait actively for their next piece of work, on the cores that other threads
    # want: with two of them the slowest images are up to 8 ms slower, and none is faster.
    cv2.setNumThreads(1)
    if platform.libc_ver()[0] == 'glibc':
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * KEEP_BYTES)
