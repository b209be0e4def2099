"""Scratch, measured: how far the peak of resident memory rises above input and result; and what
is kept of results that are gone."""

import mmap
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import xconv
from xconv.memory import _MOST, _WORTH_KEEPING, _kept, aligned, free_all_blocks

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


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    if not hasattr(mmap, "MADV_FREE"):
        pytest.skip("this system cannot mark memory as free")
    free_all_blocks()
    yield
    free_all_blocks()


def address(array: np.ndarray) -> int:
    return array.ctypes.data


LARGE = _WORTH_KEEPING // 8, 8
KERNEL = np.array([2.0], "f4")


@pytest.mark.usefixtures("nothing_kept")
def test_memory_of_a_result_serves_the_next() -> None:
    x = np.ones(LARGE, "f4")
    first = xconv.convolve(x, KERNEL)
    assert type(first) is np.ndarray
    assert first.flags.writeable
    where = address(first)
    del first
    assert len(_kept) == 1
    second = xconv.convolve(x, KERNEL)
    assert address(second) == where
    assert not _kept
    np.testing.assert_array_equal(second, 2)


@pytest.mark.usefixtures("nothing_kept")
def test_memory_is_not_given_away_while_a_view_lives() -> None:
    x = np.ones(LARGE, "f4")
    view = xconv.convolve(x, KERNEL)[5:, 2]
    assert not _kept
    other = xconv.convolve(x, KERNEL)
    other[...] = 7
    np.testing.assert_array_equal(view, 2)
    buffer = memoryview(other)
    del other
    assert not _kept
    del buffer
    assert len(_kept) == 1
    del view
    assert len(_kept) == 2


@pytest.mark.usefixtures("nothing_kept")
def test_kept_memory_has_a_limit() -> None:
    arrays = [aligned((_MOST // 4,), np.uint8) for _ in range(6)]
    assert len({address(a) for a in arrays}) == 6
    arrays.clear()
    assert len(_kept) == 3  # each a page larger than a quarter
    small = aligned((_WORTH_KEEPING,), np.uint8)  # no block of more than twice its size
    assert len(_kept) == 3
    del small
    assert len(_kept) == 4
    free_all_blocks()
    assert not _kept


@pytest.mark.usefixtures("nothing_kept")
def test_small_arrays_are_left_to_numpy() -> None:
    array = aligned((_WORTH_KEEPING // 2,), np.uint8)
    assert address(array) % 64 == 0
    del array
    assert not _kept


@pytest.mark.usefixtures("nothing_kept")
def test_threads_never_share_a_block() -> None:
    def work(value: int) -> bool:
        for _ in range(20):
            array = aligned((_WORTH_KEEPING,), np.uint8)
            array[:: 1 << 16] = value
            if not (array[:: 1 << 16] == value).all():
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.usefixtures("nothing_kept")
def test_memory_that_the_system_took_back() -> None:
    """What was written is lost then, and new pages come instead of it."""
    x = np.ones(LARGE, "f4")
    result = xconv.convolve(x, KERNEL)
    del result
    _kept[0].madvise(mmap.MADV_DONTNEED)  # what a system short of memory does
    np.testing.assert_array_equal(xconv.convolve(x, KERNEL), 2)


@pytest.mark.usefixtures("nothing_kept")
def test_more_than_there_is_raises() -> None:
    with pytest.raises(MemoryError):
        aligned((1 << 62,), np.uint8)
