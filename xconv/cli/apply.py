"""`xconv apply`: a file convolved into another, block by block."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import Plan, plan
from ..arguments import dtype_name
from ..errors import ArgumentError
from ..files import read, writing
from ..methods.base import Block, Limits, blocks, cut, floors, source_index, spans
from ..problem import Problem, itemsize
from .options import Options

__all__ = ["convolve_file"]

Array = np.ndarray[Any, np.dtype[Any]]


def convolve_file(
    source: str, kernel: str, target: str, output_dtype: str | None, options: Options
) -> str:
    """What was done, in a line.  The target appears when it is complete, or not at all."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    x, k = read(source), _kernel(kernel)
    keywords = options.keywords()
    whole = plan(x, k, options.op, **keywords)
    problem = whole.problem
    dtype = dtype_name(output_dtype or problem.dtype, "--output-dtype")
    started = time.perf_counter()
    progress = Progress(
        TextColumn(target), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with _terminable(), writing(target, problem.y_shape, dtype) as y, progress:
        task = progress.add_task("", total=max(y.size, 1))
        for part in _parts(x, problem, keywords["max_memory"]):
            piece = _Piece.of(x, problem, part)
            wanted = keywords | {
                "mode": piece.mode, "dtype": problem.dtype, "method": whole.method,
            }  # fmt: skip
            here = plan(piece.x, k, options.op, **wanted)
            _store(here, piece.x, y[piece.target])
            progress.advance(task, y[piece.target].size)
    return (
        f"{target}: shape {problem.y_shape}, {dtype}, by {whole.method} "
        f"in {time.perf_counter() - started:.2f} s"
    )


def _kernel(text: str) -> Any:
    """The kernel of a file, or written as nested lists."""
    if not text.lstrip().startswith("["):
        return read(text)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentError(
            f"the kernel {text!r} is no nested list of numbers: {error}; write it as [[0,1],[1,0]]"
        ) from None


@contextmanager
def _terminable() -> Iterator[None]:
    """Have a polite kill unwind the stack, so that the unfinished file is removed."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _store(here: Plan, x: Array, y: Array) -> None:
    """Compute into `y`; where it has another dtype, round and clip to it."""
    if here.problem.dtype == y.dtype.name:
        here(x, out=y)
        return
    values = here(x)
    if y.dtype.kind in "iu":
        if values.dtype.kind == "c":
            raise ArgumentError(
                f"--output-dtype={y.dtype} cannot hold a complex result; use a complex dtype"
            )
        limits = np.iinfo(y.dtype)
        with np.errstate(invalid="ignore"):  # NaN becomes 0
            values = np.nan_to_num(np.rint(values), posinf=np.inf, neginf=-np.inf)
            values = np.clip(values, limits.min, limits.max)
    y[...] = values


def _parts(x: Array, problem: Problem, most: int) -> Iterator[Block]:
    """Blocks of the result for which input and output together take at most `most` bytes.

    The axis that lies furthest apart in the file is cut first, so that each block reads long runs.
    Cuts along a convolved axis overlap in the input, and are no finer than the kernel.
    """
    batch, dims = len(problem.batch), problem.spatial
    axes = problem.x_axes[:batch] + problem.x_axes[-dims:]
    order = sorted(
        (i for i, axis in enumerate(axes) if axis.of >= 0),
        key=lambda i: -abs(x.strides[axes[i].of]),
    )

    def nbytes(shape: tuple[int, ...]) -> int:
        entries = int(np.prod(shape[:batch], dtype=object)) * problem.groups
        box = [slice(0, n) for n in shape[batch:]]
        read = int(np.prod([b - a for a, b in spans(problem, box)], dtype=object))
        written = int(np.prod(shape[batch:], dtype=object)) * problem.outputs
        return entries * (
            read * problem.inputs * itemsize(problem.x_dtype) + written * itemsize(problem.dtype)
        )

    least = (1,) * batch + floors(problem)[-dims:]
    sizes = (*problem.batch, *problem.output)
    # The files are mapped, so that a block above the target costs time but no memory.
    shape = cut(sizes, order, nbytes, Limits(1, sys.maxsize, most), most, least)
    return blocks(problem.batch, problem.output, shape)


@dataclass(frozen=True)
class _Piece:
    """What one block of the result needs: its input, the padding left to do, and its place."""

    x: Array
    mode: tuple[tuple[int, int], ...]
    target: tuple[slice, ...]

    @classmethod
    def of(cls, x: Array, problem: Problem, block: Block) -> _Piece:
        source: list[Any] = [slice(None)] * x.ndim
        target = [slice(None)] * len(problem.y_shape)
        gathered: list[tuple[int, Array]] = []
        mode = []
        for axis, place, wanted in zip(problem.x_axes, problem.y_axes, block.lead, strict=False):
            if axis.of >= 0:
                source[axis.of] = target[place.of] = wanted
        dims = problem.spatial
        for i, (start, stop) in enumerate(spans(problem, block.box)):
            axis, size, wanted = problem.x_axes[-dims:][i], problem.size[i], block.box[i]
            target[problem.y_axes[-dims:][i].of] = wanted
            if wanted == slice(0, problem.output[i]):  # the whole axis, with its own edges
                mode.append(problem.padding[i])
            elif problem.boundary == "constant" or (start >= 0 and stop <= size):
                low, high = min(max(start, 0), size), max(min(stop, size), 0)
                source[axis.of] = slice(low, high)
                before = min(max(-start, 0), stop - start)
                mode.append((before, stop - start - before - (high - low)))
            else:  # an edge that continues by other pixels of the image
                gathered.append((axis.of, source_index(start, stop, size, problem.boundary)))
                mode.append((0, 0))
        part = x[tuple(source)]
        for number, index in gathered:
            part = np.take(part, index, axis=number)
        return cls(part, tuple(mode), tuple(target))
