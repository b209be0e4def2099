"""The gradient by a kernel on the CPU: sums over positions, block by block.

    total[g, o, i, t] = sum over b, p of  conj(gy[b, g, o, p]) * xp[b, g, i, p*s + t*d]

is for every block of positions a product of the matrices conj(gy)[o, bp] and xp[bp, it].  With the
channels innermost, the taps of the last axis and the channels are one run of memory, the lanes of
the compiled kernels; the windows of all positions overlap there, and none is copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..methods.base import Block, Limits, blocks, cut, floors, gather
from ..problem import Problem

contract: Callable[[np.ndarray, np.ndarray, np.ndarray, int], None] | None
try:
    from .native import contract
except ImportError:
    contract = None

if TYPE_CHECKING:
    from .base import Backend

__all__ = ["kernel_sums"]

_VECTOR = 64
"""Bytes of the longest vector.  Shorter runs of lanes are read up to it, and the rest dropped."""
_SHARES = 2
"""Shares of the cache that a block takes: in smaller ones the calls cost more than the misses.
Measured on a Zen 3, 2026-11-25."""


def kernel_sums(
    backend: Backend, problem: Problem, x: np.ndarray, gy: np.ndarray, limits: Limits
) -> np.ndarray:
    """The total (G, O, I, taps...) as the accumulator's dtype, of canonical views of x and gy."""
    total = np.zeros(
        (problem.groups, problem.outputs, problem.inputs, *problem.kernel),
        np.dtype(problem.accumulator),
    )
    if 0 in x.shape or 0 in gy.shape:
        return total
    # Two sums of each worker, of so many kernels that they take no more than half the memory.
    one = 2 * limits.workers * total[:, 0].nbytes
    step = max(1, min(problem.outputs, limits.max_memory // 2 // one))
    memory = limits.max_memory - min(step * one, limits.max_memory // 2)
    rest = Limits(limits.workers, memory, limits.block)
    for o in range(0, problem.outputs, step):
        kernels = slice(o, min(o + step, problem.outputs))
        part = gy[(*(slice(None),) * (len(problem.batch) + 1), kernels)]
        total[:, kernels] = _Contraction(backend, problem, x, part).sums(rest)
    return total


class _Contraction:
    """The sums for all kernels of gy."""

    def __init__(self, backend: Backend, problem: Problem, x: np.ndarray, gy: np.ndarray) -> None:
        self.backend, self.problem, self.x, self.gy = backend, problem, x, gy
        self.lead = len(problem.batch)
        self.outputs = gy.shape[self.lead + 1]
        self.dtype = np.dtype(problem.accumulator)
        self.lanes = problem.kernel[-1] * problem.inputs
        self.read_lanes = max(self.lanes, _VECTOR // self.dtype.itemsize)

    def sums(self, limits: Limits) -> np.ndarray:
        p = self.problem
        sizes = (*p.batch, p.groups, *p.output)
        target = _SHARES * limits.block
        # The rest is for the compiled kernels, which may need a run of lanes for each position.
        quarter = Limits(limits.workers, limits.max_memory // 4, limits.block)
        shape = cut(sizes, range(len(sizes)), self._bytes, quarter, target, floors(p))
        todo = list(blocks(sizes[: self.lead + 1], p.output, shape))
        share = -(-len(todo) // limits.workers)

        def worker(first: int) -> np.ndarray:
            total = np.zeros((p.groups, self.outputs, *p.kernel[:-1], self.lanes), self.dtype)
            with np.errstate(all="ignore"):
                for block in todo[first : first + share]:
                    total[block.lead[-1]] += self._product(block, 3 * quarter.each)
            return total

        starts = range(0, len(todo), share)
        if len(starts) == 1:
            total = worker(0)
        else:
            with ThreadPoolExecutor(len(starts)) as pool:
                parts = pool.map(worker, starts)
                total = next(parts)
                for part in parts:
                    total += part
        return np.moveaxis(total.reshape(p.groups, self.outputs, *p.kernel, p.inputs), -1, 2)

    def _bytes(self, shape: Sequence[int]) -> int:
        """Scratch of a block: the input gathered and laid out, and gy twice."""
        p = self.problem
        box = shape[self.lead + 1 :]
        read = [(n - 1) * s + e for n, s, e in zip(box, p.stride, p.extent, strict=True)]
        last = read[-1] if p.dilation[-1] == 1 else box[-1] * p.kernel[-1]
        elements: int = p.inputs * math.prod(read[:-1]) * (read[-1] + last)
        elements += 2 * self.outputs * math.prod(box)
        return math.prod(shape[: self.lead + 1]) * elements * self.dtype.itemsize

    def _product(self, block: Block, room: int) -> np.ndarray:
        """The sums (G, O, first taps..., lanes) of a block."""
        p, lead = self.problem, self.lead
        source = gather(self.backend, p, self.x, block, p.accumulator)
        x = self._windows(source, tuple(out.stop - out.start for out in block.box))
        gy = self.gy[(*block.lead, slice(None), *block.box)]
        gy = gy.transpose(lead, lead + 1, *range(lead), *range(lead + 2, gy.ndim))
        weights = np.ascontiguousarray(gy.conj() if gy.dtype.kind == "c" else gy, self.dtype)
        weights = weights.reshape(*gy.shape[:2], x.shape[1], *gy.shape[2 + lead :])
        shape = (*gy.shape[:2], *p.kernel[:-1])
        if contract is not None and self.dtype.char in "fdFD":
            result = np.empty((*shape, x.shape[2 + p.spatial]), self.dtype)
            contract(weights, x, result, room)
            return result[..., : self.lanes]
        result = np.empty((*shape, self.lanes), self.dtype)
        weights = weights.reshape(*gy.shape[:2], -1)
        for tap in np.ndindex(p.kernel[:-1]):
            window = x[(..., slice(self.lanes), *tap)]
            window = window.reshape(gy.shape[0], -1, self.lanes)
            result[(slice(None), slice(None), *tap)] = np.matmul(weights, window)
        return result

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
        # With room for the lanes that are read behind the last window.
        memory = np.empty(source.size + self.read_lanes, self.dtype)
        memory[source.size :] = 0
        laid = memory[: source.size].reshape(source.shape)
        laid[...] = source
        laid = laid.reshape(len(laid), -1, *laid.shape[lead + 1 :])
        across = laid.strides[2 : 2 + p.spatial]
        return as_strided(
            laid,
            (*laid.shape[:2], *outputs, self.read_lanes, *p.kernel[:-1]),
            (
                *laid.strides[:2],
                *(n * step for n, step in zip(across, steps, strict=True)),
                self.dtype.itemsize,
                *(n * gap for n, gap in zip(across[:-1], p.dilation[:-1], strict=True)),
            ),
            writeable=False,
        )
