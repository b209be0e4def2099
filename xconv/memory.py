"""Memory of large NumPy arrays: on whole lines of the caches, and kept for the next result.

The system clears a page before it gives it away, which takes as long as a 3x3 convolution of what
it will hold.  So the memory of a large result stays with the process when its last array is gone,
marked as free (MADV_FREE): the system takes it back where memory is short, and the next result of
about this size does not wait for new pages where it is not.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["aligned", "free_all_blocks"]

_LINE, _WORTH_ALIGNING = 64, 1 << 16
"""Bytes of a line of the processor's caches, and of an array from which it pays."""
_PAGE = 2 << 20
"""Bytes of a large page, where the system has them."""
_WORTH_KEEPING = 32 << 20
"""Bytes of an array whose memory is kept; glibc's allocator keeps smaller ones by itself."""
_MOST = 1 << 30
"""Bytes that are kept at most."""

_kept: deque[mmap.mmap] = deque()
"""About the oldest first.  Its methods are safe while other threads, or a destructor, call them."""


def aligned(shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
    """`numpy.empty` that begins with a line of the caches.

    NumPy's own large arrays begin 16 bytes behind one, and each vector of a line's length that is
    read or written there touches two.
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _WORTH_ALIGNING:
        return np.empty(shape, dtype)
    if nbytes >= _WORTH_KEEPING and hasattr(mmap, "MADV_FREE"):
        memory = np.asarray(_Lease(nbytes))
    else:
        memory = np.empty(nbytes + _LINE, np.uint8)
    begin = -memory.__array_interface__["data"][0] % _LINE
    return np.ndarray(shape, dtype, memory, begin)


def free_all_blocks() -> None:
    """Gives the memory of results that are gone back to the system at once.

    It takes that memory by itself where it needs it; a process's resident size counts it until
    then.

    >>> import xconv.memory
    >>> xconv.memory.free_all_blocks()
    """
    _kept.clear()


class _Lease:
    """What the arrays over one block hold on to; the block is kept when the last is gone."""

    def __init__(self, nbytes: int) -> None:
        self._block = _take(nbytes)
        begin = np.frombuffer(self._block, np.uint8).ctypes.data
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (nbytes,),
            "data": (begin + -begin % _PAGE, False),
        }

    def __del__(self) -> None:
        # No block was found, the system is too old, or another thread was faster.
        with contextlib.suppress(AttributeError, OSError, IndexError):
            self._block.madvise(mmap.MADV_FREE)
            _kept.append(self._block)
            while sum(map(len, _kept.copy())) > _MOST:
                _kept.popleft()


def _take(nbytes: int) -> mmap.mmap:
    """A kept block of at most twice the size needed, or a new one."""
    for _ in range(len(_kept)):
        try:
            block = _kept.pop()
        except IndexError:  # another thread was faster
            break
        if nbytes <= len(block) - _PAGE <= 2 * nbytes:
            return block
        _kept.appendleft(block)
    try:
        block = mmap.mmap(-1, nbytes + _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(str(error)) from error
    with contextlib.suppress(AttributeError, OSError):  # a system without large pages
        block.madvise(mmap.MADV_HUGEPAGE)
    return block
