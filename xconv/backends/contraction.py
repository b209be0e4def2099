"""The gradient by a kernel on the CPU: sums over positions, block by block.

    total[g, o, i, t] = sum over b, p of  conj(gy[b, g, o, p]) * xp[b, g, i, p*s + t*d]

is for every block of positions a correlation of the compiled core, or without it a product of the
matrices conj(gy)[o, bp] and xp[bp, it].  For the product the channels are innermost, so that the
taps of the last axis and the channels are one run of memory and only windows of other axes are
copied.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..methods.base import Block, Limits, blocks, cut, floors, gather
from ..problem import Problem, itemsize
from .threads import share_out

try:
    from .native import position_sums
except ImportError:
    _compiled = False
else:
    _compiled = True

if TYPE_CHECKING:
    from .base import Backend

__all__ = ["kernel_sums"]

_NEAR = 320 * 1024
"""Bytes of a block of the compiled core, unless its sums are more: they stay in near caches."""
_SHARES = 4 << 20
"""Bytes of all sums that the core deals blocks to."""


def kernel_sums(
    backend: Backend, problem: Problem, x: np.ndarray, gy: np.ndarray, limits: Limits
) -> np.ndarray:
    """The total (G, O, I, taps...) as the accumulator's dtype, of canonical views of x and gy."""
    shape = (problem.groups, problem.outputs, problem.inputs, *problem.kernel)
    dtype = np.dtype(problem.accumulator)
    if 0 in x.shape or 0 in gy.shape:
        return np.zeros(shape, dtype)
    compiled = _compiled and dtype.char in "fdFD" and x.dtype.isnative
    sums = _Correlation if compiled else _Product
    size = math.prod(shape) * dtype.itemsize
    shares = sums.shares(size, limits)
    # All sums, of so many kernels that they take no more than half the memory.
    one = (shares + limits.workers) * size // problem.outputs
    step = max(1, min(problem.outputs, limits.max_memory // 2 // one))
    memory = limits.max_memory - min(step * one, limits.max_memory // 2)
    rest = Limits(limits.workers, memory, limits.block)
    if step == problem.outputs:
        return sums(backend, problem, x, gy).sums(rest, shares)
    total = np.empty(shape, dtype)
    for o in range(0, problem.outputs, step):
        kernels = slice(o, min(o + step, problem.outputs))
        part = gy[(*(slice(None),) * (len(problem.batch) + 1), kernels)]
        total[:, kernels] = sums(backend, problem, x, part).sums(rest, shares)
    return total


class _Sums:
    """The sums (G, O, I, taps...) for all kernels of gy."""

    def __init__(self, backend: Backend, problem: Problem, x: np.ndarray, gy: np.ndarray) -> None:
        self.backend, self.problem, self.x, self.gy = backend, problem, x, gy
        self.lead = len(problem.batch)
        self.outputs = gy.shape[self.lead + 1]
        self.dtype = np.dtype(problem.accumulator)

    def shape(self, limits: Limits) -> tuple[int, ...]:
        """That of a block (lead axes, then output axes)."""
        return _shape(self.nbytes, self.problem, self.outputs, self.lanes_are_positions(), limits)

    def lanes_are_positions(self) -> bool:
        return False

    @staticmethod
    def shares(size: int, limits: Limits) -> int:
        """Sums of `size` bytes that blocks are dealt to."""
        raise NotImplementedError

    def sums(self, limits: Limits, shares: int) -> np.ndarray:
        raise NotImplementedError

    @staticmethod
    def nbytes(problem: Problem, outputs: int, shape: Sequence[int]) -> int:
        """Scratch of a block of so many kernels."""
        raise NotImplementedError


@functools.lru_cache(1024)
def _shape(
    nbytes: Callable[[Problem, int, Sequence[int]], int],
    problem: Problem,
    outputs: int,
    lanes_are_positions: bool,
    limits: Limits,
) -> tuple[int, ...]:
    lead = len(problem.batch)
    sizes = (*problem.batch, problem.groups, *problem.output)
    order = [*range(lead), *range(lead + 1, len(sizes))]
    # Groups last where they may be lanes.
    order.insert(lead if lanes_are_positions else len(order), lead)
    of_block = functools.partial(nbytes, problem, outputs)
    return cut(sizes, order, of_block, limits, limits.block, floors(problem))


class _Correlation(_Sums):
    """By the compiled core, which continues images beyond their edges by itself."""

    @staticmethod
    def shares(size: int, limits: Limits) -> int:
        return min(max(4, _SHARES // size), 16)  # for any number of workers: the same bits

    def sums(self, limits: Limits, shares: int) -> np.ndarray:
        p = self.problem
        block = min(max(p.taps * self.outputs * self.dtype.itemsize, _NEAR), limits.block)
        quarter = limits.max_memory // 4
        shape = self.shape(Limits(limits.workers, quarter, block))
        rest = Limits(limits.workers, limits.max_memory - quarter, limits.block)
        x, gy = (a if self.lead else a[None] for a in (self.x, self.gy))
        shape = shape if self.lead else (1, *shape)
        # The last batch axis is summed by the core.
        return functools.reduce(
            np.add,
            (
                position_sums(p, x[index], gy[index], shape[-p.spatial - 2 :], shares, rest)
                for index in itertools.product(*map(range, p.batch[:-1]))
            ),
        )

    def lanes_are_positions(self) -> bool:
        p, item = self.problem, self.dtype.itemsize
        contiguous = self.x.strides[-1] == self.gy.strides[-1] == item
        return contiguous and p.inputs == self.outputs == p.stride[-1] == 1

    @staticmethod
    def nbytes(problem: Problem, outputs: int, shape: Sequence[int]) -> int:
        p, lead = problem, len(problem.batch) + 1
        read = [(n - 1) * s + e for n, s, e in zip(shape[lead:], p.stride, p.extent, strict=True)]
        elements = p.inputs * math.prod(read) + outputs * math.prod(shape[lead:])
        return math.prod(shape[:lead]) * elements * itemsize(p.accumulator)


class _Product(_Sums):
    """By matrix products of NumPy."""

    @staticmethod
    def shares(size: int, limits: Limits) -> int:
        return limits.workers

    def sums(self, limits: Limits, shares: int) -> np.ndarray:
        p = self.problem
        shape = self.shape(limits)
        todo = list(blocks((*p.batch, p.groups), p.output, shape))
        share = -(-len(todo) // shares)

        starts = range(0, len(todo), share)
        parts: dict[int, np.ndarray] = {}

        def worker(first: int) -> None:
            total: np.ndarray | None = None
            with np.errstate(all="ignore"):
                for block in todo[first : first + share]:
                    part = self.of_block(block)
                    if total is None:  # in the same memory order
                        total = np.zeros_like(part, shape=(p.groups, *part.shape[1:]))
                    total[block.lead[-1]] += part
            assert total is not None
            parts[first] = total

        share_out(worker, starts, len(starts))
        total = parts[0]
        for first in starts[1:]:
            total += parts[first]
        return total

    @staticmethod
    def nbytes(problem: Problem, outputs: int, shape: Sequence[int]) -> int:
        """Scratch of a block: the input gathered and laid out, and gy twice."""
        p, lead = problem, len(problem.batch) + 1
        box = shape[lead:]
        read = [(n - 1) * s + e for n, s, e in zip(box, p.stride, p.extent, strict=True)]
        last = read[-1] if p.dilation[-1] == 1 else box[-1] * p.kernel[-1]
        elements: int = p.inputs * math.prod(read[:-1]) * (read[-1] + last)
        elements += 2 * outputs * math.prod(box)
        return math.prod(shape[:lead]) * elements * itemsize(p.accumulator)

    def of_block(self, block: Block) -> np.ndarray:
        p, lead = self.problem, self.lead
        source = gather(self.backend, p, self.x, block, p.accumulator)
        x = self._windows(source, tuple(out.stop - out.start for out in block.box))
        gy = self.gy[(*block.lead, slice(None), *block.box)]
        gy = gy.transpose(lead, lead + 1, *range(lead), *range(lead + 2, gy.ndim))
        weights = np.ascontiguousarray(gy.conj(), self.dtype).reshape(*gy.shape[:2], -1)
        lanes = x.shape[2 + p.spatial]
        result = np.empty((*gy.shape[:2], *p.kernel[:-1], lanes), self.dtype)
        for tap in np.ndindex(p.kernel[:-1]):
            window = x[(..., *tap)].reshape(len(x), -1, lanes)
            result[(slice(None), slice(None), *tap)] = np.matmul(weights, window)
        return np.moveaxis(result.reshape(*gy.shape[:2], *p.kernel, p.inputs), -1, 2)

    def _windows(self, source: np.ndarray, outputs: tuple[int, ...]) -> np.ndarray:
        """The input (b..., G, I, spatial...) as (G, b, outputs..., lanes, first taps...)."""
        p, lead = self.problem, self.lead
        steps = list(p.stride)
        if p.dilation[-1] > 1:  # the taps of a window are no run: they are copied side by side
            between = source.strides[-1]
            source = as_strided(
                source,
                (*source.shape[:-1], outputs[-1], p.kernel[-1]),
                (*source.strides[:-1], between * steps[-1], between * p.dilation[-1]),
            )
            steps[-1] = 1
        source = source.transpose(lead, *range(lead), *range(lead + 2, source.ndim), lead + 1)
        laid = np.ascontiguousarray(source)
        laid = laid.reshape(len(laid), -1, *laid.shape[lead + 1 :])
        across = laid.strides[2 : 2 + p.spatial]
        return as_strided(
            laid,
            (*laid.shape[:2], *outputs, p.kernel[-1] * p.inputs, *p.kernel[:-1]),
            (
                *laid.strides[:2],
                *(n * step for n, step in zip(across, steps, strict=True)),
                self.dtype.itemsize,
                *(n * gap for n, gap in zip(across[:-1], p.dilation[:-1], strict=True)),
            ),
            writeable=False,
        )
