"""The FFT row of the CPU backend: transforms an axis at a time, in memory that each worker keeps.

An axis at a time, what a transform would only pad or throw away is left out: the rows of zeros
behind an image on the way in, the outputs that wrapped around on the way back.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from threading import local
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..layout import in_order_of
from ..methods.base import Block, gather
from ..methods.fft import FFT, State, direct_entries, safe_entries, valid_outputs
from ..problem import Problem

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

    def _computed(
        self, backend: Backend, problem: Problem, state: State, x: Any, shape: Sequence[int]
    ) -> Callable[[Block], Iterator[tuple[tuple[slice, ...], Any]]]:
        nbytes = self._bytes(problem, state.tiles, shape)
        threads = local()

        def one(block: Block) -> Iterator[tuple[tuple[slice, ...], Any]]:
            if not hasattr(threads, "kept"):
                threads.kept = _Kept(nbytes)
            threads.kept.used = 0
            return self._kept_tile(backend, problem, state, x, block, threads.kept)

        return one

    def _kept_tile(
        self, backend: Backend, problem: Problem, state: State, x: Any, block: Block, room: _Kept
    ) -> Iterator[tuple[tuple[slice, ...], Any]]:
        lead, n = len(block.lead), state.tiles.transform
        full = functools.partial(room.padded, n[-1])
        source = gather(backend, problem, x, block, problem.accumulator, full)
        safe = safe_entries(backend, problem, source, state.magnitude, math.prod(n))
        axes = range(lead, lead + problem.spatial)
        spectra = forward(source, n, [a + 1 for a in axes], room)
        kernels = state.spectrum[block.lead[-1]]
        inputs = [spectra[(slice(None),) * lead + (i,)] for i in range(problem.inputs)]
        total = inputs[0]
        if problem.outputs > 1:
            total = room(total.shape, total.dtype, total)
        term = room(total.shape, total.dtype, total) if problem.inputs > 1 else total
        used = room.used
        real = np.dtype(problem.accumulator).kind == "f"
        at = block.target()
        for o in range(problem.outputs):
            room.used = used
            np.multiply(inputs[0], kernels[:, o, 0], out=total)
            for i in range(1, problem.inputs):
                np.multiply(inputs[i], kernels[:, o, i], out=term)
                np.add(total, term, out=total)
            values = inverse(total, n, axes, real, valid_outputs(problem, block), room)
            values = backend.convert(values, problem.accumulator, problem.dtype)
            yield (*at[:lead], slice(o, o + 1), *at[lead + 1 :]), backend.expand(values, lead)
        yield from direct_entries(backend, problem, state.weights, x, block, safe)
