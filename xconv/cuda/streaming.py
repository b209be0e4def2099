"""NumPy arrays through the device, block by block: copies there and back run beside the work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ..layout import in_order_of
from ..methods.base import (
    Block,
    Limits,
    Method,
    Run,
    block_count,
    blocks,
    cut,
    find_runs,
    floors,
    spans,
)
from ..problem import Axis, Problem, Work, itemsize
from .device import Device

if TYPE_CHECKING:
    from ..backends.cuda import CUDABackend

__all__ = ["Streamed"]

_IN_FLIGHT = 2
"""Blocks that are under way at a time, each on a stream of its own: while one is computed, the
other is fetched and sent.  They are computed one after the other, since the plan of a transform has
one work area for all streams."""


class Streamed(Method):
    """A row of the CUDA backend on canonical views of NumPy arrays.

    Half the memory allowed holds the blocks, on the device and in page-locked memory on the host;
    the other half is the row's own.
    """

    def __init__(self, card: CUDABackend, row: Method) -> None:
        self.card, self.row = card, row
        self.name, self.variant, self.needs_values = row.name, row.variant, row.needs_values

    def refuses(self, problem: Problem) -> str | None:
        return self.row.refuses(_whole(problem))

    def examine(self, problem: Problem, kernel: np.ndarray) -> Any:
        return self.row.examine(problem, kernel)

    def rounding(self, problem: Problem) -> float:
        return self.row.rounding(problem)

    def prepare(
        self, backend: Any, problem: Problem, weights: Any, facts: Any, limits: Limits
    ) -> Any:
        return self.row.prepare(self.card, problem, weights, facts, _of_row(limits))

    def work(self, problem: Problem, limits: Limits, facts: Any = None) -> Work:
        lead, box = _shape(problem, limits, range(len(problem.batch) + 1 + problem.spatial))
        whole = (*problem.batch, problem.groups, *problem.output)
        count = block_count(whole, (*lead, *box))
        if count == 0:
            return Work(())
        block = Block(*(tuple(slice(0, n) for n in sizes) for sizes in (lead, box)))
        work = self.row.work(_part(problem, block).problem, _of_row(limits), facts)
        amounts = {name: count * amount for name, amount in work.amounts}
        amounts["transfer"] = float(count * _bytes(problem, lead, box))
        return replace(
            work,
            amounts=tuple(amounts.items()),
            scratch=min(count, _IN_FLIGHT) * (2 * _bytes(problem, lead, box) + work.scratch),
            note=f"{count} block{'s' * (count > 1)} through the device; {work.note}",
        )

    def run(
        self, backend: Any, problem: Problem, state: Any, x: Any, y: Any, limits: Limits
    ) -> Any:
        if 0 in y.shape:
            return y
        device = self.card.device
        lead, box = _shape(problem, limits, backend.cut_order(x, problem))
        before = device.mark()  # the kernel may come from the caller's stream
        slots: list[_Slot] = []
        try:
            whole = (*problem.batch, problem.groups)
            for n, block in enumerate(blocks(whole, problem.output, (*lead, *box))):
                with device.stream(n % _IN_FLIGHT):
                    if n < _IN_FLIGHT:
                        slots.append(_Slot(device, problem, lead, box))
                    slot = slots[n % _IN_FLIGHT]
                    slot.store(y)
                    part = _part(problem, block)
                    source, target = slot.send(part, block, x, y)
                    device.wait(before)
                    self.row.run(self.card, part.problem, state, source, target, _of_row(limits))
                    before = device.mark()
                    slot.fetch()
            for slot in slots:
                slot.store(y)
        finally:  # memory goes back to its pools only when no copy is under way
            for slot in slots:
                slot.wait()
        return y


def _of_row(limits: Limits) -> Limits:
    return Limits(1, limits.max_memory // (2 * _IN_FLIGHT), limits.block)


def _shape(
    problem: Problem, limits: Limits, order: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of a block along (batch..., G) and the outputs; groups are kept together."""
    batch = len(problem.batch)

    def nbytes(shape: tuple[int, ...]) -> int:
        """Of all blocks under way, on both sides, and as much again for the row."""
        return 4 * _IN_FLIGHT * _bytes(problem, (*shape[:batch], problem.groups), shape[batch:])

    least = floors(problem)
    shape = cut(
        (*problem.batch, *problem.output),
        [a - (a > batch) for a in order if a != batch],
        nbytes,
        replace(limits, workers=1),
        2 * limits.block,
        (*least[:batch], *least[batch + 1 :]),
    )
    return (*shape[:batch], problem.groups), shape[batch:]


def _elements(problem: Problem, lead: Sequence[int], box: Sequence[int]) -> tuple[int, int]:
    """Most elements of a block's input, and of its result."""
    read = [
        size if out == whole else (out - 1) * stride + extent
        for out, stride, extent, size, whole in zip(
            box, problem.stride, problem.extent, problem.size, problem.output, strict=True
        )
    ]
    entries = math.prod(lead)
    return (
        entries * problem.inputs * math.prod(read),
        entries * problem.outputs * math.prod(box),
    )


def _bytes(problem: Problem, lead: Sequence[int], box: Sequence[int]) -> int:
    sources, results = _elements(problem, lead, box)
    return sources * itemsize(problem.x_dtype) + results * itemsize(problem.dtype)


@dataclass(frozen=True, slots=True)
class _Part:
    """A block as a problem of its own, and where its input comes from, per spatial axis."""

    problem: Problem
    runs: tuple[tuple[Run, ...], ...]


def _part(problem: Problem, block: Block) -> _Part:
    """An axis that is not cut keeps its border; beyond a constant edge nothing is copied."""
    axes, padding, sizes = [], [], []
    for (start, stop), out, whole, size, pad in zip(
        spans(problem, block.box),
        block.box,
        problem.output,
        problem.size,
        problem.padding,
        strict=True,
    ):
        if out == slice(0, whole):
            found, size = [Run(slice(0, size), slice(0, size))], size
        else:
            found = find_runs(start, stop, size, problem.boundary)
            size, pad = stop - start, (0, 0)
            if problem.boundary == "constant":
                at = found[0].at if found else slice(0, 0)
                pad, size = (at.start, size - at.stop), at.stop - at.start
                found = [replace(run, at=slice(0, size)) for run in found]
        axes.append(tuple(found))
        padding.append(pad)
        sizes.append(size)
    lead = [s.stop - s.start for s in block.lead]
    box = [s.stop - s.start for s in block.box]
    return _Part(
        _canonical(
            problem, (*lead, problem.inputs, *sizes), (*lead, problem.outputs, *box), padding
        ),
        tuple(axes),
    )


def _canonical(
    problem: Problem, x_shape: tuple[int, ...], y_shape: tuple[int, ...], padding: Any
) -> Problem:
    """The problem for canonical arrays of these shapes."""
    return replace(
        problem,
        x_shape=x_shape,
        y_shape=y_shape,
        x_axes=tuple(Axis(n, of) for of, n in enumerate(x_shape)),
        y_axes=tuple(Axis(n, of) for of, n in enumerate(y_shape)),
        padding=tuple(padding),
    )


def _whole(problem: Problem) -> Problem:
    x_shape, y_shape = (tuple(a.size for a in axes) for axes in (problem.x_axes, problem.y_axes))
    return _canonical(problem, x_shape, y_shape, problem.padding)


class _Slot:
    """Memory for one block on its way, on the device and page-locked on the host."""

    def __init__(
        self, device: Device, problem: Problem, lead: Sequence[int], box: Sequence[int]
    ) -> None:
        elements = _elements(problem, lead, box)
        dtypes = np.dtype(problem.x_dtype), np.dtype(problem.dtype)
        self._device = device
        self._host = [device.pinned(n, t) for n, t in zip(elements, dtypes, strict=True)]
        self._there = [device.empty(n, t) for n, t in zip(elements, dtypes, strict=True)]
        self._pending: Any = None
        self._index: tuple[slice, ...] = ()
        self._result: Any = None

    def send(self, part: _Part, block: Block, x: Any, y: Any) -> tuple[Any, Any]:
        """The arrays of the device for a block: its input on the way, and room for its result.

        They have the memory order of `x` and `y`.
        """
        shapes = part.problem.x_shape, part.problem.y_shape
        source, result = map(in_order_of, (x, y), self._host, shapes)
        lead = (*block.lead, slice(None))
        for pieces in product(*part.runs):
            values = x[(*lead, *(run.source for run in pieces))]
            step = tuple(slice(None, None, -1 if run.reverse else 1) for run in pieces)
            source[(..., *(run.at for run in pieces))] = values[(..., *step)]
        self._device.send(self._host[0][: source.size], self._there[0][: source.size])
        self._pending = self._device.mark()
        self._index, self._result = block.target(), result
        there = map(in_order_of, (x, y), self._there, shapes)
        return next(there), next(there)

    def fetch(self) -> None:
        n = self._result.size
        self._device.fetch(self._there[1][:n], self._host[1][:n])
        self._pending = self._device.mark()

    def store(self, y: Any) -> None:
        """Wait for the result that is on its way, if one is, and write it to `y`."""
        self.wait()
        if self._result is not None:
            y[self._index] = self._result
            self._result = None

    def wait(self) -> None:
        if self._pending is not None:
            self._device.finish(self._pending)
            self._pending = None
