"""Kernels of rank 1, one axis after the other by the tiled kernel.

What the first passes leave is as large as stays in the card's second-level cache: some entries of
the outermost batch axis at a time, or some rows.  Values that are not finite, and sums that leave
the range, give results that are not finite: they are found afterwards, without asking the device,
and summed directly.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ..methods.base import Limits
from ..methods.separable import Factors
from ..problem import BOUNDARIES, Problem, itemsize
from . import tiling
from .device import Device
from .direct import WORTH_COMPILING, nominal_steps, steps
from .geometry import Geometry, Outer, Spatial, filled, merged, record
from .launch import BY_VALUE_BYTES, Launch, tiled_launch
from .source import kernel_source, sum_dtype

__all__ = ["Passes", "find_not_finite", "passes", "refusal", "scratch", "vectors"]


def refusal(problem: Problem, facts: Factors | None) -> str | None:
    """Why the passes cannot run on the user's arrays; None if they can."""
    if facts and facts.rank > 1:
        return "its rank is more than 1"
    if problem.inputs * problem.outputs > 1:
        return "channels are summed, or there is a bank of kernels"
    if problem.dtype != problem.accumulator:
        return "what the first passes leave would be rounded"
    if problem.boundary == "constant" and problem.cval:
        return "what lies beyond the edges is not 0"
    return None


def vectors(device: Device, problem: Problem, facts: Factors) -> list[Any]:
    """The taps (G, K) of each axis, in correlation form: bytes, or arrays where they are many."""
    found: list[Any] = []
    for vector in facts.correlating(problem):
        taps = np.ascontiguousarray(vector[0, :, 0, 0], problem.dtype)
        found.append(taps.tobytes() if taps.nbytes <= BY_VALUE_BYTES else device.xp.asarray(taps))
    return found


@dataclass(frozen=True, slots=True)
class _Pass:
    """A launch, and where it reads and writes: 0 is x, 1 is y, 2 and 3 are scratch; and bytes from
    their beginnings."""

    axis: int
    launch: Launch
    source: int
    source_at: int
    target: int
    target_at: int


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes over arrays with certain strides on one device, ready to run."""

    dtype: np.dtype[Any]
    parts: tuple[int, ...]
    """Elements of each part of the scratch."""
    launches: tuple[_Pass, ...]

    def __call__(self, device: Device, taps: Sequence[Any], x: Any, y: Any) -> None:
        """Order all launches on the current stream."""
        scratch = [device.empty(n, self.dtype) for n in self.parts]
        at = [device.pointer(a) for a in (x, y, *scratch)]
        given = [w if isinstance(w, bytes) else device.pointer(w) for w in taps]
        for step in self.launches:
            step.launch.correlate(
                at[step.source] + step.source_at,
                at[step.target] + step.target_at,
                given[step.axis],
            )


@functools.lru_cache(512)
def passes(
    device: Device,
    problem: Problem,
    limits: Limits,
    number: int,
    x_strides: tuple[int, ...],
    y_strides: tuple[int, ...],
) -> Passes | None:
    """What runs the problem on arrays with these strides, on the device of that number.

    None where the tiled kernel does not take them, `y` has gaps, or too little memory is allowed.
    """
    x_steps = steps(x_strides, problem.x_dtype, problem.x_axes)
    y_steps = steps(y_strides, problem.dtype, problem.y_axes)
    order = _order(problem, x_steps)
    cut = _cut(problem, order, x_steps, limits)
    if cut is None or not _dense(problem, y_steps):
        return None
    found: list[_Pass] = []
    parts = [0, 0]
    for chunk in _chunks(problem, order[0], *cut):
        for step, elements in _of_chunk(device, problem, number, order, x_steps, y_steps, chunk):
            if step is None:
                return None
            found.append(step)
            if step.target > 1:
                parts[step.target - 2] = max(parts[step.target - 2], elements)
    return Passes(np.dtype(problem.dtype), tuple(n for n in parts if n), tuple(found))


def _order(problem: Problem, x_steps: Sequence[int]) -> list[int]:
    """Spatial axes, the outermost in the memory of x first."""
    behind = len(problem.batch) + 2
    return sorted(range(problem.spatial), key=lambda a: -abs(x_steps[behind + a]))


def _dense(problem: Problem, y_steps: Sequence[int]) -> bool:
    """Whether the result lies in one piece of memory."""
    sizes = (*problem.batch, problem.groups, problem.outputs, *problem.output)
    axes = sorted((abs(s), n) for n, s in zip(sizes, y_steps, strict=True) if n > 1)
    apart = 1
    for step, size in axes:
        if step != apart:
            return False
        apart *= size
    return all(step >= 0 for step in y_steps)


def scratch(problem: Problem, limits: Limits) -> int | None:
    """Bytes that the passes over contiguous arrays need; None where more than is allowed."""
    x_steps = nominal_steps(problem.x_shape, problem.x_axes)
    order = _order(problem, x_steps)
    cut = _cut(problem, order, x_steps, limits)
    return cut and _bytes(problem, order, *cut[1:])


def _bytes(problem: Problem, order: Sequence[int], entries: int, rows: int) -> int:
    """Of scratch for so many entries and rows of outputs along the first axis."""
    sizes, widest = [*problem.size], 0
    sizes[order[0]] = rows
    for axis in order[1:]:
        widest = max(widest, math.prod(sizes))
        sizes[axis] = problem.output[axis]
    return entries * widest * itemsize(problem.dtype) * min(len(order) - 1, 2)


def _cut(
    problem: Problem, order: Sequence[int], x_steps: Sequence[int], limits: Limits
) -> tuple[int, int, int] | None:
    """(batch axis that is cut, entries together, rows of outputs together): what stays in cache.

    The outermost axis in memory is cut first; -1 where that is the axis of the first pass.  None
    where one row takes more memory than is allowed.
    """
    lead, rows = len(problem.batch) + 1, problem.output[order[0]]
    sizes = (*problem.batch, problem.groups)
    entries = math.prod(sizes)
    room = min(limits.block, limits.each)
    batch = [a for a in range(lead - 1) if sizes[a] > 1]  # groups have taps of their own
    far = max(batch, key=lambda a: abs(x_steps[a]), default=-1)
    if far >= 0 and abs(x_steps[far]) >= abs(x_steps[lead + 1 + order[0]]):
        entries //= sizes[far]
        together = room // max(_bytes(problem, order, entries, rows), 1)
        if together:
            together = min(together, sizes[far])
            return far, together * entries, rows
    else:
        far = -1
    each = _bytes(problem, order, entries, 1)
    if each > limits.each:
        return None
    return far, entries, min(max(room // max(each, 1), 1), rows)


def _chunks(
    problem: Problem, first: int, cut: int, together: int, rows: int
) -> Iterator[tuple[int, slice, slice]]:
    """(batch axis that is cut, or 0; its part, the part of the rows)."""
    sizes = (*problem.batch, problem.groups)
    axis = max(cut, 0)
    size = sizes[axis]
    step = size if cut < 0 else together * size // math.prod(sizes)
    for begin, row in product(range(0, size, step), range(0, problem.output[first], rows)):
        yield (
            axis,
            slice(begin, min(begin + step, size)),
            slice(row, min(row + rows, problem.output[first])),
        )


def _of_chunk(
    device: Device,
    problem: Problem,
    number: int,
    order: Sequence[int],
    x_steps: Sequence[int],
    y_steps: Sequence[int],
    chunk: tuple[int, slice, slice],
) -> Iterator[tuple[_Pass | None, int]]:
    """The passes over a chunk, and how many elements each leaves."""
    cut, entries, rows = chunk
    lead = len(problem.batch) + 1
    leads, sizes = [*problem.batch, problem.groups], [*problem.size]
    leads[cut] = entries.stop - entries.start
    given = [*x_steps[:lead], *x_steps[lead + 1 :]]
    wanted = [*y_steps[:lead], *y_steps[lead + 1 :]]
    inner = sorted(range(len(given)), key=lambda a: abs(given[a]))
    item = itemsize(problem.dtype)
    place, at, dtype = 0, entries.start * x_steps[cut] * itemsize(problem.x_dtype), problem.x_dtype
    for n, axis in enumerate(order):
        low, outputs = problem.padding[axis][0], problem.output[axis]
        if n == 0:
            low -= rows.start * problem.stride[axis]
            outputs = rows.stop - rows.start
        read = sizes[axis]
        sizes[axis] = outputs
        target, target_at, taken = 2 + n % 2, 0, [0] * len(given)
        if n + 1 == len(order):
            target, taken = 1, wanted
            target_at = entries.start * y_steps[cut] + rows.start * wanted[lead + order[0]]
        else:
            apart = 1
            for a in inner:
                taken[a] = apart
                apart *= (*leads, *sizes)[a]
        outer = [
            Outer(size, given[a], taken[a], problem.kernel[axis] if a == lead - 1 else 0)
            for a, size in enumerate((*leads, *sizes))
            if a != lead + axis
        ]
        line = Spatial(
            given[lead + axis], taken[lead + axis], read, outputs, low, problem.kernel[axis],
            problem.stride[axis], problem.dilation[axis], BOUNDARIES.index(problem.boundary),
        )  # fmt: skip
        where = Geometry(merged(sorted(outer, key=lambda a: -abs(a.x))), (line,))
        launch = None
        if not tiling.refusal(where):
            weights = problem.groups * problem.kernel[axis]
            by_value = weights * item <= BY_VALUE_BYTES
            fixed = device.specialise and where.outputs * where.taps >= WORTH_COMPILING
            zero = sum_dtype(problem.dtype).type(0)
            launch = tiled_launch(
                device, where, dtype, problem.dtype, zero, weights * by_value, fixed, number
            )
        elements = math.prod(leads) * math.prod(sizes)
        step = _Pass(axis, launch, place, at, target, target_at * item) if launch else None
        yield step, elements
        given, place, at, dtype = taken, target, 0, problem.dtype


_EACH = 16
"""Elements that a thread of scan.cu has on their way at a time."""
_SCAN_HEAD = struct.Struct("2Q")


@functools.lru_cache(64)
def _scan(device: Device, dtype: str, count: int, number: int) -> Launch:
    fields = record([("y", np.uint64, 0), ("flag", np.uint64, 0), ("count", np.int64, 0)])
    rest = filled(fields, count=count).tobytes()[_SCAN_HEAD.size :]
    source = kernel_source("scan", dtype, dtype, {"FILTER": 0, "EACH": _EACH})
    blocks = min(-(-count // (256 * _EACH)), 1 << 16)
    return Launch(device.kernel("scan", source), blocks, (256, 1), 0, _SCAN_HEAD, rest)


def find_not_finite(device: Device, dtype: str, count: int, y: int) -> Any:
    """One byte on the device that is not 0 if one of so many elements is not finite."""
    flag = device.xp.zeros(1, dtype=np.uint8)
    _scan(device, dtype, count, device.number())(y, device.pointer(flag))
    return flag
