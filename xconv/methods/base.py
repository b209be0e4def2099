"""The contract of a method, and how its work is cut into blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MemoryLimitError
from ..problem import Problem, Work, itemsize

if TYPE_CHECKING:
    from ..backends.base import Backend

__all__ = [
    "Block",
    "Limits",
    "Method",
    "Run",
    "blocks",
    "cut",
    "find_runs",
    "floors",
    "fold",
    "gather",
    "gathered_bytes",
    "source_index",
    "spans",
]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use: threads, and bytes of scratch for all of them together."""

    workers: int
    max_memory: int
    """Bytes, all workers together."""
    block: int
    """Bytes that a block should stay within to be fast: a share of the cache."""

    @property
    def each(self) -> int:
        """Bytes that one worker may take."""
        return self.max_memory // self.workers


class Method:
    """One row of a backend's table: an algorithm that may refuse, states its work, and runs."""

    name = ""
    """What the user writes in `method=`."""
    variant = ""
    """Which implementation, where a backend has several of one name."""
    needs_values = False
    """Whether the price depends on the kernel's values, so that a plan without them refuses."""
    on_user_axes = False
    """Whether `run` takes `x` and `y` as the user's arrays instead of canonical views."""

    def refuses(self, problem: Problem) -> str | None:
        """Why the method cannot compute the problem, in words; None if it can."""
        return None

    def examine(self, problem: Problem, kernel: np.ndarray) -> Any:
        """What the method has to know of the kernel's values; a str is a reason to refuse.

        `kernel` is canonical (G, O, I, spatial...), on the host, and as the user gave it:
        neither reversed nor conjugated.
        """
        return None

    def work(self, problem: Problem, limits: Limits, facts: Any = None) -> Work:
        """What a run costs; without `facts`, the least that it could."""
        raise NotImplementedError

    def rounding(self, problem: Problem) -> float:
        """The constant c of the method's error bound, c * eps * sum|k| * max|x in the image|."""
        raise NotImplementedError

    def prepare(
        self, backend: Backend, problem: Problem, weights: Any, facts: Any, limits: Limits
    ) -> Any:
        """What a plan keeps between calls.

        `weights` (G, O, I, spatial...) are the kernel in correlation form, as the accumulator's
        dtype, on the device of `x`.
        """
        return weights

    def run(
        self, backend: Backend, problem: Problem, state: Any, x: Any, y: Any, limits: Limits
    ) -> Any:
        """Compute the canonical view `y` from the canonical view `x`; return `y`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the result: slices of (batch..., G), and of each spatial output axis."""

    lead: tuple[slice, ...]
    box: tuple[slice, ...]

    def target(self) -> tuple[slice, ...]:
        """Index of the block in the canonical result (batch..., G, O, spatial...)."""
        return (*self.lead, slice(None), *self.box)


def cut(
    sizes: Sequence[int],
    order: Sequence[int],
    nbytes: Callable[[tuple[int, ...]], int],
    limits: Limits,
    target: int,
    least: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """The largest block of at most `target` bytes, its axes cut in the order given.

    Each worker shall have two blocks at least, where they still are of `limits.block` bytes.  To
    reach that or the target no axis is cut below `least` (1 unless given); to stay within the
    memory of a worker, axes are cut to 1.

    >>> limits = Limits(workers=2, max_memory=10**6, block=800)
    >>> cut((10, 100), (0, 1), lambda s: 8 * s[0] * s[1], limits, target=800)
    (1, 100)
    >>> cut((10, 100), (0, 1), lambda s: 8 * s[0] * s[1], limits, target=10**5)
    (2, 100)
    >>> cut((10, 100), (0, 1), lambda s: 8 * s[0] * s[1], limits, target=800, least=(4, 50))
    (4, 50)
    """
    block = [max(size, 1) for size in sizes]
    ones = [1] * len(block)
    if limits.workers > 1:  # smaller blocks are not worth waking another thread
        share = nbytes(tuple(block)) // (2 * limits.workers)
        target = min(target, max(share, limits.block))
    for floor, most in ((least or ones, min(target, limits.each)), (ones, limits.each)):
        for axis in order:
            if nbytes(tuple(block)) <= most:
                break
            low, high = min(floor[axis], block[axis]), block[axis]
            while low < high:  # the largest size that fits, or the least where none does
                block[axis] = (low + high + 1) // 2
                if nbytes(tuple(block)) <= most:
                    low = block[axis]
                else:
                    high = block[axis] - 1
            block[axis] = low
    needed = nbytes(tuple(block))
    if needed > limits.each:
        raise MemoryLimitError(
            f"max_memory={limits.max_memory} is too small for {limits.workers} workers whose "
            f"smallest block takes {needed} bytes each; raise max_memory to "
            f"{needed * limits.workers} or more, or use fewer workers"
        )
    return tuple(block)


def floors(problem: Problem) -> tuple[int, ...]:
    """Sizes (lead axes, then output axes) below which a block repeats more input than it saves."""
    return (1,) * (len(problem.batch) + 1) + tuple(max(e, 8) for e in problem.extent)


def blocks(lead: Sequence[int], box: Sequence[int], shape: Sequence[int]) -> Iterator[Block]:
    """The blocks of `shape` (sizes of lead axes, then of output axes) that cover the result."""
    sizes = (*lead, *box)
    starts = [range(0, size, step) for size, step in zip(sizes, shape, strict=True)]
    for corner in product(*starts):
        slices = tuple(
            slice(at, min(at + step, size))
            for at, step, size in zip(corner, shape, sizes, strict=True)
        )
        yield Block(slices[: len(lead)], slices[len(lead) :])


def block_count(sizes: Sequence[int], shape: Sequence[int]) -> int:
    """How many blocks of `shape` cover `sizes`."""
    return math.prod(-(-size // step) for size, step in zip(sizes, shape, strict=True))


def source_index(start: int, stop: int, size: int, boundary: str) -> np.ndarray:
    """Which element of an axis of `size` each of the positions start, ..., stop - 1 repeats.

    >>> source_index(-2, 5, 3, "mirror").tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    at = np.arange(start, stop)
    if boundary == "nearest":
        return np.clip(at, 0, size - 1)
    if boundary == "wrap":
        return at % size
    if boundary == "reflect":
        at = at % (2 * size)
        return np.minimum(at, 2 * size - 1 - at)
    at = at % max(2 * size - 2, 1)  # mirror
    return np.minimum(at, 2 * size - 2 - at)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive positions of a block that repeat consecutive elements of the image."""

    at: slice
    source: slice
    reverse: bool = False


def find_runs(start: int, stop: int, size: int, boundary: str) -> list[Run]:
    """The positions start, ..., stop - 1 as runs; those beyond a constant edge are left out."""
    if boundary == "constant" or (start >= 0 and stop <= size):
        low, high = min(max(start, 0), size), max(min(stop, size), 0)
        return [Run(slice(low - start, high - start), slice(low, high))] if low < high else []
    index = source_index(start, stop, size, boundary)
    step = np.diff(index)
    runs, first = [], 0
    while first < len(index):
        last = first
        while last + 1 < len(index) and step[last] == step[first] and abs(step[first]) <= 1:
            last += 1
        low, high = sorted((int(index[first]), int(index[last])))
        runs.append(
            Run(slice(first, last + 1), slice(low, high + 1), bool(index[last] < index[first]))
        )
        first = last + 1
    return runs


_MANY_RUNS = 16
"""Beyond this many runs per axis (an image far smaller than its padding) index arrays are used."""


def spans(problem: Problem, box: Sequence[slice]) -> list[tuple[int, int]]:
    """First and last-plus-one position, per spatial axis, that a box of the result reads."""
    return [
        (out.start * stride - low, (out.stop - 1) * stride - low + extent)
        for out, stride, extent, (low, _) in zip(
            box, problem.stride, problem.extent, problem.padding, strict=True
        )
    ]


def gather(
    backend: Backend,
    problem: Problem,
    x: Any,
    block: Block,
    dtype: str,
    full: Callable[..., Any] | None = None,
) -> Any:
    """The input that a block of the result reads, continued beyond the edges, as `dtype`.

    Shape (lead..., I, spatial...).  A view of `x` where the block lies inside the image and
    the dtype is right, else new memory: the backend's, or what `full` gives, which may be longer.
    """
    first = len(block.lead) + 1
    read = spans(problem, block.box)
    part = x[(*block.lead, slice(None), *(slice(None),) * problem.spatial)]
    axes: list[list[Run]] = []
    for axis, ((a, b), n) in enumerate(zip(read, problem.size, strict=True), first):
        runs = find_runs(a, b, n, problem.boundary)
        if len(runs) > _MANY_RUNS:
            part = backend.take(part, source_index(a, b, n, problem.boundary), axis)
            runs = [Run(slice(0, b - a), slice(0, b - a))]
        axes.append(runs)
    lead = (slice(None),) * first

    def piece(runs: Sequence[Run]) -> Any:
        source = part[(*lead, *(run.source for run in runs))]
        reverse = tuple(axis for axis, run in enumerate(runs, first) if run.reverse)
        return backend.convert(
            backend.flip(source, reverse) if reverse else source,
            problem.x_dtype,
            problem.dtype,
            dtype,
        )

    shape = tuple(b - a for a, b in read)
    if all(
        len(runs) == 1
        and runs[0].at == slice(0, n)
        and runs[0].source.stop - runs[0].source.start == n
        for runs, n in zip(axes, shape, strict=True)
    ):
        return piece([runs[0] for runs in axes])
    padded = (full or backend.full)((*part.shape[:first], *shape), problem.cval, dtype, like=part)
    for pieces in product(*axes):
        padded = backend.assign(padded, (*lead, *(run.at for run in pieces)), piece(pieces))
    return padded


def fold(backend: Backend, problem: Problem, padded: Any) -> Any:
    """The adjoint of continuing an image: what lies beyond the edges is added where it came from.

    `padded` has the spatial sizes low + S + high, the result S.
    """
    first = len(padded.shape) - problem.spatial
    for axis, ((low, high), n) in enumerate(zip(problem.padding, problem.size, strict=True), first):
        before = (slice(None),) * axis
        total = padded[(*before, slice(low, low + n), ...)]
        for start, stop in ((-low, 0), (n, n + high)):
            for run in find_runs(start, stop, n, problem.boundary):
                at = slice(run.at.start + start + low, run.at.stop + start + low)
                part = padded[(*before, at, ...)]
                source = (*before, run.source, ...)
                if run.source.stop - run.source.start < at.stop - at.start:  # nearest
                    part = backend.namespace(part).sum(part, axis=axis, keepdims=True)
                elif run.reverse:
                    part = backend.flip(part, (axis,))
                total = backend.assign(total, source, total[source] + part)
        padded = total
    return padded


def gathered_bytes(problem: Problem, shape: Sequence[int]) -> int:
    """Most bytes that `gather` takes for a block of this shape (lead sizes, then box sizes)."""
    converts = problem.x_dtype != problem.accumulator
    if not converts and not any(map(any, problem.padding)):
        return 0  # views
    at = len(shape) - problem.spatial
    read = [
        (out - 1) * stride + extent
        for out, stride, extent in zip(shape[at:], problem.stride, problem.extent, strict=True)
    ]
    elements = math.prod(shape[:at]) * problem.inputs * math.prod(read)
    return elements * itemsize(problem.accumulator) * (1 + converts)
