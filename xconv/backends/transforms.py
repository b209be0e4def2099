"""The FFT row of the CPU backend: transforms an axis at a time, in memory that each worker keeps.

An axis at a time, what a transform would only pad or throw away is left out: the rows of zeros
behind an image on the way in, the outputs that wrapped around on the way back.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from threading import local
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..layout import in_order_of
from ..methods.base import Block, Limits, block_count, blocks, gather, gathered_bytes
from ..methods.fft import (
    FFT,
    State,
    Tiles,
    choose,
    direct_entries,
    safe_entries,
    valid_outputs,
)
from ..problem import Problem, Work, itemsize

if TYPE_CHECKING:
    from .base import Backend

__all__ = ["KeptFFT", "ducc_version", "forward", "inverse"]


@functools.cache
def ducc_version() -> str | None:
    """The version of ducc0, whose transforms are used where it is installed."""
    try:
        return metadata.version("ducc0")
    except metadata.PackageNotFoundError:
        return None


def _ducc(dtype: np.dtype[Any]) -> Any:
    """ducc0's transforms, or None where SciPy's have to do."""
    if ducc_version() is None or dtype.char not in "fdFD":
        return None
    import ducc0

    return ducc0.fft


class _Room(Protocol):
    def __call__(self, shape: Sequence[int], dtype: np.dtype[Any], like: np.ndarray) -> np.ndarray:
        """Memory for an array in the order of another; it may hold anything."""


def _new(shape: Sequence[int], dtype: np.dtype[Any], like: np.ndarray) -> np.ndarray:
    array: np.ndarray = in_order_of(like, np.empty(math.prod(shape), dtype), shape)
    return array


class _Kept:
    """The memory of one worker: new pages for every block would be cleared each time."""

    def __init__(self, nbytes: int) -> None:
        self._memory = np.empty(nbytes, np.uint8)
        self.used = 0

    def __call__(self, shape: Sequence[int], dtype: np.dtype[Any], like: np.ndarray) -> np.ndarray:
        nbytes = math.prod(shape) * dtype.itemsize
        free = self._memory[self.used : self.used + nbytes]
        if len(free) < nbytes:
            return _new(shape, dtype, like)
        self.used += -(-nbytes // 64) * 64  # whole cache lines
        array: np.ndarray = in_order_of(like, free.view(dtype), shape)
        return array

    def in_order(self, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
        """Memory for an array in C order."""
        return self(shape, dtype, np.empty((1,) * len(shape)))

    def padded(
        self, length: int, shape: Sequence[int], value: complex, dtype: str, like: np.ndarray
    ) -> np.ndarray:
        """`value` in `shape`, and zeros behind it up to a `length` of the last axis."""
        array = self((*shape[:-1], length), np.dtype(dtype), like)
        array[..., : shape[-1]] = value
        array[..., shape[-1] :] = 0
        return array


def _with(sizes: Sequence[int], axis: int, part: slice) -> tuple[slice, ...]:
    """The first elements, `sizes` of them, along every axis but one."""
    return tuple(part if a == axis else slice(n) for a, n in enumerate(sizes))


def forward(x: np.ndarray, n: Sequence[int], axes: Sequence[int], room: _Room = _new) -> np.ndarray:
    """The Fourier transform of `x` padded by zeros to lengths `n`; half of it if `x` is real."""
    import scipy.fft

    real = x.dtype.kind == "f"
    *others, (last, length) = zip(axes, n, strict=True)
    ducc = _ducc(x.dtype)
    if ducc is None:
        found: np.ndarray = (scipy.fft.rfft if real else scipy.fft.fft)(x, length, last)
        for axis, size in reversed(others):
            found = scipy.fft.fft(found, size, axis, overwrite_x=True)
        return found
    if x.shape[last] < length:
        padded = room(_replaced(x.shape, last, length), x.dtype, x)
        padded[_with(x.shape, last, slice(x.shape[last]))] = x
        padded[_with(x.shape, last, slice(x.shape[last], None))] = 0
        x = padded
    sizes = _replaced(x.shape, last, length // 2 + 1 if real else length)
    whole = functools.reduce(lambda shape, at: _replaced(shape, *at), others, sizes)
    spectrum = room(whole, np.result_type(x.dtype, np.complex64), x)
    part = spectrum[tuple(map(slice, sizes))]
    (ducc.r2c if real else ducc.c2c)(x, axes=(last,), out=part)
    for axis, size in reversed(others):
        spectrum[_with(sizes, axis, slice(sizes[axis], None))] = 0
        sizes = _replaced(sizes, axis, size)
        part = spectrum[tuple(map(slice, sizes))]
        ducc.c2c(part, axes=(axis,), out=part)
    return spectrum


def inverse(
    x: np.ndarray,
    n: Sequence[int],
    axes: Sequence[int],
    real: bool,
    keep: Sequence[slice],
    room: _Room = _new,
) -> np.ndarray:
    """What `keep` selects of the inverse of `forward`; `x` may be overwritten."""
    import scipy.fft

    ducc = _ducc(x.dtype)
    for axis, size, kept in zip(axes, n, keep, strict=True):
        to_real = real and axis == axes[-1]
        if ducc is None:
            x = (scipy.fft.irfft if to_real else scipy.fft.ifft)(x, size, axis, overwrite_x=True)
        elif to_real:
            out = room(_replaced(x.shape, axis, size), x.real.dtype, x)
            x = ducc.c2r(x, axes=(axis,), lastsize=size, forward=False, inorm=2, out=out)
        else:
            x = ducc.c2c(x, axes=(axis,), forward=False, inorm=2, out=x)
        x = x[(slice(None),) * axis + (kept,)]
    return x


def _replaced(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


class KeptFFT(FFT):
    """FFT on NumPy arrays."""

    def work(self, problem: Problem, limits: Limits, facts: Any = None) -> Work:
        """For arrays in C order."""
        work = super().work(problem, limits, facts)
        tiles = choose(problem, limits)
        axes = problem.x_axes[: -problem.spatial - 1] + problem.x_axes[-problem.spatial :]
        order = sorted(range(len(axes)), key=lambda a: (axes[a].of, -axes[a].step))
        shape, copied, nbytes = self._cut(problem, tiles, limits, order)
        count = block_count((*problem.batch, problem.groups, *problem.output), copied or shape)
        threads = min(limits.workers, max(count, 1))
        amounts = work.amounts
        if copied:
            copies = tiles.count * problem.entries / math.prod(copied[: -problem.spatial])
            amounts += (("fft.copies", copies * _copied_bytes(problem, tiles, copied)),)
        serial = (("threads", 1.0),) if threads > 1 else ()
        return replace(work, amounts=amounts, serial=serial, scratch=nbytes * threads)

    def _cut(
        self, problem: Problem, tiles: Tiles, limits: Limits, order: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...] | None, int]:
        """The block that is transformed at a time, that which is copied if any, and their bytes."""
        shape = self._shape(problem, tiles, limits, order)
        nbytes = self._bytes(problem, tiles, shape)
        copied = _copied(problem, tiles, shape, order, limits.each - nbytes)
        return shape, copied, nbytes + (_copied_bytes(problem, tiles, copied) if copied else 0)

    def run(
        self, backend: Backend, problem: Problem, state: State, x: Any, y: Any, limits: Limits
    ) -> Any:
        lead, tiles = (*problem.batch, problem.groups), state.tiles
        order = backend.cut_order(x, problem)
        shape, copied, nbytes = self._cut(problem, tiles, limits, order)
        threads = local()

        def one(block: Block) -> Iterator[tuple[tuple[slice, ...], Any]]:
            if not hasattr(threads, "kept"):
                threads.kept = _Kept(nbytes)
            threads.kept.used = 0
            kept = threads.kept
            return self._block(backend, problem, state, x, block, kept, shape if copied else None)

        return backend.each(one, blocks(lead, problem.output, copied or shape), y, limits.workers)

    def _block(
        self,
        backend: Backend,
        problem: Problem,
        state: State,
        x: Any,
        block: Block,
        room: _Kept,
        parts: Sequence[int] | None,
    ) -> Iterator[tuple[tuple[slice, ...], Any]]:
        """The results of a block; where `parts` are given, of a copy of it, so many entries at a
        time."""
        lead, n = len(block.lead), state.tiles.transform
        full = functools.partial(room.padded, n[-1])
        source = gather(backend, problem, x, block, problem.accumulator, full)
        if parts is not None:
            ordered = room.in_order(source.shape, source.dtype)
            ordered[...] = source
            source = ordered
        safe = safe_entries(backend, problem, source, state.magnitude, math.prod(n))
        kernels = state.spectrum[block.lead[-1]]
        at = block.target()
        if parts is None:
            for o, values in self._products(backend, problem, block, n, source, kernels, room):
                values = backend.convert(values, problem.accumulator, problem.dtype)
                yield (*at[:lead], slice(o, o + 1), *at[lead + 1 :]), backend.expand(values, lead)
        else:
            sizes = [part.stop - part.start for part in (*block.lead, *block.box)]
            found = room.in_order(
                (*sizes[:lead], problem.outputs, *sizes[lead:]), np.dtype(problem.accumulator)
            )
            used = room.used
            for part in blocks(sizes[:lead], (), parts[:lead]):
                room.used = used
                some, theirs = source[part.lead], kernels[part.lead[-1]]
                for o, values in self._products(backend, problem, block, n, some, theirs, room):
                    found[(*part.lead, slice(o, o + 1))] = backend.expand(values, lead)
            yield at, backend.convert(found, problem.accumulator, problem.dtype)
        yield from direct_entries(backend, problem, state.weights, x, block, safe)

    def _products(
        self,
        backend: Backend,
        problem: Problem,
        block: Block,
        n: tuple[int, ...],
        source: np.ndarray,
        kernels: Any,
        room: _Kept,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The results of gathered entries, one output after the other."""
        lead = len(block.lead)
        axes = range(lead, lead + problem.spatial)
        spectra = forward(source, n, [a + 1 for a in axes], room)
        inputs = [spectra[(slice(None),) * lead + (i,)] for i in range(problem.inputs)]
        total = inputs[0]
        if problem.outputs > 1:
            total = room(total.shape, total.dtype, total)
        term = room(total.shape, total.dtype, total) if problem.inputs > 1 else total
        used = room.used
        real = np.dtype(problem.accumulator).kind == "f"
        for o in range(problem.outputs):
            room.used = used
            np.multiply(inputs[0], kernels[:, o, 0], out=total)
            for i in range(1, problem.inputs):
                np.multiply(inputs[i], kernels[:, o, i], out=term)
                np.add(total, term, out=total)
            yield o, inverse(total, n, axes, real, valid_outputs(problem, block), room)


_LINES = 128
"""Bytes along the batch that are copied at a time where it lies innermost."""


def _copied(
    problem: Problem, tiles: Tiles, shape: Sequence[int], order: Sequence[int], most: int
) -> tuple[int, ...] | None:
    """The block that is copied, to be transformed in parts of `shape`, where these would read and
    write a few elements of each line of the caches."""
    lead = (*problem.batch, problem.groups)
    inner = next((a for a in reversed(order) if (*lead, *problem.size)[a] > 1), len(lead))
    if inner >= len(lead):
        return None
    widest = max(min(_LINES // itemsize(problem.x_dtype), lead[inner]), shape[inner])
    for many in range(widest, shape[inner] - 1, -1):
        copied = (*shape[:inner], many, *shape[inner + 1 :])
        if _copied_bytes(problem, tiles, copied) <= most:
            return copied
    return None


def _copied_bytes(problem: Problem, tiles: Tiles, shape: Sequence[int]) -> int:
    """The gathered block, as it comes and in order, and its results."""
    each = problem.inputs * math.prod(tiles.transform) + problem.outputs * math.prod(tiles.box)
    entries = math.prod(shape[: -problem.spatial])
    return gathered_bytes(problem, shape) + entries * each * itemsize(problem.accumulator)
