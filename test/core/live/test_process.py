import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from regvpr_core.live.process import tune_process
{}
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    kept = [bytearray(2_764_800) for _ in range(3)]
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def faults(*before: str) -> int:
    run = subprocess.run([sys.executable, '-c', PROGRAM.format('\n'.join(before))],
                         capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc is told to keep memory')
def test_memory_of_images_is_kept_instead_of_fetched_anew_for_each():
    assert faults('tune_process()') < 0.2 * faults()


def test_threads_of_python_give_way_within_a_millisecond_and_opencv_has_one():
    program = 'import sys\nfrom regvpr_core.live.process import tune_process\ntune_process()\n' \
              'import cv2\nprint(sys.getswitchinterval(), cv2.getNumThreads())'
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True,
                         check=True)
    interval_s, threads = run.stdout.split()
    assert float(interval_s) == pytest.approx(0.0005)
    assert int(threads) == 1
