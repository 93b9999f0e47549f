"""What a process keeps of freed memory: seen in a process of its own, as glibc's settings last."""

import subprocess
import sys

import pytest

CODE = """
import numpy, sys
from concurrent.futures import ThreadPoolExecutor
from wbc_common import memory
getattr(memory, sys.argv[1])()
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4096
def come_and_go(number):
    held = [numpy.ones(200_000) for _ in range(20)]  # 1.6 MB each
    return [numpy.ones(100) for _ in held]  # small ones between them stay
before = resident()
with ThreadPoolExecutor(4) as pool:
    left = list(pool.map(come_and_go, range(8)))
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_arrays_are_kept_for_the_next_step_or_handed_back_at_once() -> None:
    kept, handed_back = (
        int(subprocess.run([sys.executable, "-c", CODE, name], capture_output=True, check=True, text=True).stdout)
        for name in ("keep_freed_memory", "hand_back_freed_memory")
    )
    assert handed_back < 4 * 2**20 < 16 * 2**20 < kept
