"""The gradient by a kernel on the CPU: sums over positions, block by block.

    total[g, o, i, t] = sum over b, p of  conj(gy[b, g, o, p]) * xp[b, g, i, p*s + t*d]

is for every block of positions a product of the matrices conj(gy)[o, bp] and xp[bp, it].  The taps
of the last axes and the channels are laid side by side, as lanes for the compiled kernels; those
of the first axes are overlapping windows of the same memory.  A depthwise layer, which has too few
lanes, takes one dot product per tap instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..methods.base import Block, Limits, blocks, cut, floors, gather, spans
from ..problem import Problem, itemsize

contract: Callable[[np.ndarray, np.ndarray, np.ndarray, int], None] | None
try:
    from .native import contract
except ImportError:
    contract = None

if TYPE_CHECKING:
    from .base import Backend

__all__ = ["kernel_sums"]

# Measured on a Zen 3 with AVX2, 2026-11-25.
_LANES = 16
"""Fewer lanes than this leave most of a vector, or its latency, unused."""
_DOTS = 6
"""Up to so many kernels times lanes, dot products are faster than compiled kernels."""
_RUN = 8192
"""Elements of a dot product: longer ones may start the threads of the BLAS library."""
_SHARES = 2
"""Shares of the cache that a block takes: in smaller ones the calls cost more than the misses."""


def kernel_sums(
    backend: Backend, problem: Problem, x: np.ndarray, gy: np.ndarray, limits: Limits
) -> np.ndarray:
    """The total (G, O, I, taps...) as the accumulator's dtype, of canonical views of x and gy."""
    item = itemsize(problem.accumulator)
    total = np.zeros(
        (problem.groups, problem.outputs, problem.inputs, *problem.kernel),
        np.dtype(problem.accumulator),
    )
    if 0 in x.shape or 0 in gy.shape:
        return total
    # Two sums of each worker, of so many kernels that they take no more than half the memory.
    one = 2 * limits.workers * total[:, 0].size * item
    step = max(1, min(problem.outputs, limits.max_memory // 2 // one))
    memory = limits.max_memory - min(step * one, limits.max_memory // 2)
    rest = Limits(limits.workers, memory, limits.block)
    for o in range(0, problem.outputs, step):
        kernels = slice(o, min(o + step, problem.outputs))
        part = _Contraction(backend, problem, x, gy, kernels)
        total[:, kernels] = part.sums(rest)
    return total


class _Contraction:
    """The sums of some kernels of the bank."""

    def __init__(
        self, backend: Backend, problem: Problem, x: np.ndarray, gy: np.ndarray, kernels: slice
    ) -> None:
        self.backend, self.problem, self.x, self.gy = backend, problem, x, gy
        self.kernels = kernels
        self.outputs = kernels.stop - kernels.start
        self.lead = len(problem.batch)
        self.dtype = np.dtype(problem.accumulator)
        # The first axis whose taps are lanes.
        self.first = problem.spatial - 1
        while self.first and self.inner < _LANES:
            self.first -= 1
        # The channels go inside of the taps where they are so in memory or make the longer run.
        inside = x.strides[self.lead + 1] <= x.strides[-1] or problem.inputs >= problem.kernel[-1]
        self.channels = 2 + (problem.spatial if inside else self.first)  # their axis in the sums
        self.narrow = problem.kernel[-1] * problem.inputs * self.outputs <= _DOTS

    @property
    def inner(self) -> int:
        """The lanes: taps that are laid side by side, and channels."""
        return math.prod(self.problem.kernel[self.first :]) * self.problem.inputs

    def sums(self, limits: Limits) -> np.ndarray:
        p = self.problem
        sizes = (*p.batch, p.groups, *p.output)
        shape = cut(
            sizes, range(len(sizes)), self._bytes, limits, _SHARES * limits.block, floors(p)
        )
        self.room = limits.each - self._bytes(shape)
        todo = list(blocks(sizes[: self.lead + 1], p.output, shape))
        share = -(-len(todo) // limits.workers)

        one = self._dots if self.narrow else self._products

        def worker(first: int) -> np.ndarray:
            total = np.zeros(
                (p.groups, self.outputs, *p.kernel[: self.first], self.inner), self.dtype
            )
            with np.errstate(all="ignore"):
                for block in todo[first : first + share]:
                    total[block.lead[-1]] += one(block)
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
        order = list(p.kernel)
        order.insert(self.channels - 2, p.inputs)
        return np.moveaxis(total.reshape(p.groups, self.outputs, *order), self.channels, 2)

    def _bytes(self, shape: Sequence[int]) -> int:
        """Scratch of a block: what is gathered, and what is laid out from it and from gy."""
        p = self.problem
        box = shape[self.lead + 1 :]
        read = [(n - 1) * s + e for n, s, e in zip(box, p.stride, p.extent, strict=True)]
        if self.narrow:
            laid = self.outputs * math.prod(r // s + 1 for r, s in zip(read, p.stride, strict=True))
            laid += p.inputs * math.prod(read)
        else:
            # gy twice, and a vector and two offsets for each position in the compiled kernels.
            laid = math.prod(read[: self.first]) * math.prod(box[self.first :]) * self.inner
            laid += (2 * self.outputs + _LANES + 4) * math.prod(box)
        elements: int = p.inputs * math.prod(read) + laid
        return math.prod(shape[: self.lead + 1]) * elements * self.dtype.itemsize

    def _read(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (b..., G, I, spatial...) and conj(gy) (G, O, b..., outputs...) of a block."""
        p, lead = self.problem, self.lead
        source = gather(self.backend, p, self.x, block, p.accumulator)
        gy = self.gy[(*block.lead, self.kernels, *block.box)]
        gy = gy.transpose(lead, lead + 1, *range(lead), *range(lead + 2, gy.ndim))
        return source, (gy.conj() if gy.dtype.kind == "c" else gy)

    def _products(self, block: Block) -> np.ndarray:
        """The sums (G, O, first taps..., lanes) of a block as a product of matrices."""
        p, lead, first = self.problem, self.lead, self.first
        source, gy = self._read(block)
        groups, size = source.shape[lead], math.prod(source.shape[:lead])
        last = slice(first, None)
        x = _windows(source, p.extent[last], p.stride[last], p.dilation[last], lead + 2 + first)
        positions, taps = np.split(np.arange(lead + 2, x.ndim), [p.spatial])
        lanes = np.insert(taps, self.channels - 2 - first, lead + 1)
        x = x.transpose(lead, *range(lead), *positions, *lanes)
        x = np.ascontiguousarray(x).reshape(
            groups, size, *source.shape[lead + 2 : lead + 2 + first], *gy.shape[2 + lead + first :],
            self.inner,
        )  # fmt: skip
        x = _windows(x, p.extent[:first], p.stride[:first], p.dilation[:first], 2)
        weights = np.ascontiguousarray(gy, self.dtype)
        weights = weights.reshape(groups, self.outputs, size, *gy.shape[2 + lead :])
        result = np.empty((groups, self.outputs, *p.kernel[:first], self.inner), self.dtype)
        if contract is not None and self.dtype.char in "fdFD":
            contract(weights, x, result, self.room)
            return result
        weights = weights.reshape(groups, self.outputs, -1)
        for tap in np.ndindex(p.kernel[:first]):
            window = x[(..., *tap)].reshape(groups, -1, self.inner)
            result[(slice(None), slice(None), *tap)] = np.matmul(weights, window)
        return result

    def _dots(self, block: Block) -> np.ndarray:
        """As `_products`, as dot products of gy and an image shifted by the tap.

        Both are laid on one grid, where gy has zeros between its rows, so that a shift is one of
        memory; with a stride there is a grid for each residue of the input's position.
        """
        p, lead = self.problem, self.lead
        source, gy = self._read(block)
        groups, size = source.shape[lead], math.prod(source.shape[:lead])
        read = (b - a for a, b in spans(p, block.box))
        grid = [-(-n // s) for n, s in zip(read, p.stride, strict=True)]
        points = size * math.prod(grid)
        steps = [math.prod(grid[a + 1 :]) for a in range(p.spatial)]

        def laid(values: np.ndarray) -> np.ndarray:
            """(G, O or I, b..., spatial...) on the grid, flat."""
            if values.shape[lead + 2 :] == tuple(grid):
                return values.reshape(groups, -1, points)
            on_grid = np.zeros((*values.shape[: lead + 2], *grid), self.dtype)
            at: Any = (..., *(slice(n) for n in values.shape[lead + 2 :]))
            on_grid[at] = values
            return on_grid.reshape(groups, -1, points)

        flat, images = laid(gy), dict[tuple[int, ...], np.ndarray]()
        source = source.transpose(lead, lead + 1, *range(lead), *range(lead + 2, source.ndim))
        result = np.zeros((groups, self.outputs, *p.kernel, p.inputs), self.dtype)
        for tap in np.ndindex(p.kernel):
            at = [t * d for t, d in zip(tap, p.dilation, strict=True)]
            phase = tuple(n % s for n, s in zip(at, p.stride, strict=True))
            if phase not in images:
                every = (slice(r, None, s) for r, s in zip(phase, p.stride, strict=True))
                index: Any = (..., *every)
                images[phase] = laid(source[index])
            shift = sum(n // s * step for n, s, step in zip(at, p.stride, steps, strict=True))
            sums = result[(slice(None), slice(None), *tap)]
            for a in range(0, points - shift, _RUN):
                b = min(a + _RUN, points - shift)
                image = images[phase][:, :, a + shift : b + shift]
                sums += np.matmul(flat[:, :, a:b], image.transpose(0, 2, 1))
        if not np.isfinite(result).all():
            return self._products(block)  # a NaN or infinity times zero is not zero
        result = np.moveaxis(result, -1, self.channels)
        return result.reshape(groups, self.outputs, *p.kernel[: self.first], self.inner)


def _windows(
    x: np.ndarray,
    extent: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    axis: int,
) -> np.ndarray:
    """A view of the windows along the axes from `axis` on: positions there, taps behind all."""
    shape, strides = list(x.shape), list(x.strides)
    for a, (e, s, d) in enumerate(zip(extent, stride, dilation, strict=True), axis):
        shape.append((e - 1) // d + 1)
        strides.append(strides[a] * d)
        shape[a] = (shape[a] - e) // s + 1
        strides[a] *= s
    return as_strided(x, shape, strides, writeable=False) if extent else x
