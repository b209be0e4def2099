"""Scratch, measured: how far the peak of resident memory rises above input and result."""

import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import sys
import numpy as np, xconv

def peak():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["VmHWM"].split()[0]) * 1024

method, taps, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
x = np.ones((24, 1000, 1000), "f4")
out = np.zeros((24, 1000, 1000), "f4")
out += 1  # every page is there
vector = np.hanning(taps + 2)[1:-1].astype("f4")
options = dict(mode="same", boundary="reflect", method=method, workers=workers)
plan = xconv.plan(x, np.outer(vector, vector), **options)
small = np.ones((2, 300, 300), "f4")
xconv.convolve(small, np.outer(vector, vector), **options)  # libraries and pools are there
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
before = peak()
plan(x, out=out)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("method", "taps", "workers"),
    [("direct", 3, 2), ("direct", 7, 1), ("fft", 31, 1), ("fft", 127, 2), ("separable", 31, 2)],
)
def test_scratch_stays_within_the_limit(method: str, taps: int, workers: int) -> None:
    """96 MB of images: a padded copy or a spectrum of all would not go unseen."""
    arguments = [sys.executable, "-c", MEASURE, method, str(taps), str(workers)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=300)
    # 64 MiB is the limit; the allocator's own pages and thread stacks are given 4 MiB.
    assert int(result.stdout) <= 68 << 20
