"""Convolution in the frequency domain, in tiles (overlap-save).

A tile of n input elements per axis gives n - extent + 1 valid outputs; the kernel's spectrum for
that n is kept by the plan.  Entries of a tile that the transform could spoil (NaN, inf, values
whose sums would overflow or underflow) are computed directly.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ..problem import Problem, Work, itemsize
from .base import Block, Limits, Method, block_count, blocks, cut, gather, gathered_bytes
from .direct import correlate_block

if TYPE_CHECKING:
    from ..backends.base import Backend

__all__ = [
    "FFT", "State", "Tiles", "choose", "direct_entries", "good_size", "safe_entries",
    "valid_outputs",
]  # fmt: skip


def _most(problem: Problem, limits: Limits) -> int:
    """Bytes of a block: more than of others, as a call costs more and makes its passes in cache.

    (8 and 16 MiB were the best of 0.5 to 32 for images and signals, Zen 3 and 5, 2026-11-26.)
    """
    return (8 if problem.spatial > 1 else 16) * limits.block


def _lanes(problem: Problem) -> int:
    """Signals that fill a vector; those left over, or fewer, are transformed one by one."""
    return 32 // itemsize(problem.accumulator) or 1


@functools.lru_cache(4096)
def good_size(least: int, primes: tuple[int, ...] = (3, 5), even: bool = False) -> int:
    """The smallest size of at least `least` whose prime factors are 2 and `primes`.

    >>> good_size(121), good_size(128), good_size(1063, (3, 5, 7), even=True)
    (125, 128, 1080)
    """
    best = 1 << max(least - 1, even).bit_length()
    odds = [1]
    for prime in primes:
        for odd in odds:  # which grows meanwhile: all powers
            if odd * prime <= best:
                odds.append(odd * prime)
    return min(odd << max(-(-least // odd) - 1, even).bit_length() for odd in odds)


@dataclass(frozen=True, slots=True)
class Tiles:
    transform: tuple[int, ...]
    """Transform length per spatial axis."""
    box: tuple[int, ...]
    """Outputs of one tile per spatial axis."""
    count: int
    """Tiles of one image."""


@dataclass(frozen=True, slots=True)
class State:
    tiles: Tiles
    spectrum: Any
    weights: Any
    magnitude: float
    """Largest sum of absolute taps of any kernel."""


class FFT(Method):
    name = "fft"

    def refuses(self, problem: Problem) -> str | None:
        kind = np.dtype(problem.dtype).kind
        if kind in "iub":
            return f"{problem.dtype} is exact and a Fourier transform rounds"
        return None

    def examine(self, problem: Problem, kernel: np.ndarray) -> Any:
        return magnitude(problem, kernel)

    def work(self, problem: Problem, limits: Limits, facts: Any = None) -> Work:
        tiles = choose(problem, limits)
        points = math.prod(tiles.transform)
        entries, tile_count = problem.entries, problem.entries * tiles.count
        transforms = tile_count * (problem.inputs + problem.outputs)
        real = np.dtype(problem.accumulator).kind == "f"
        item = itemsize(problem.accumulator)
        shape = self._shape(problem, tiles, limits, None)
        runs = block_count((*problem.batch, problem.groups, *problem.output), shape)
        half = 1 if real else 4  # a complex transform is two real ones of twice the bytes
        spectral = tile_count * problem.inputs * problem.outputs * points * half
        kept = problem.groups * problem.outputs * problem.inputs * points * item
        cached = "fft" if points * item <= 1 << 20 else "fft.large"
        return Work(
            amounts=(
                (
                    f"{cached}.{problem.accumulator}",
                    transforms * points * math.log2(max(points, 2)),
                ),
                (f"spectral.{problem.accumulator}", float(spectral)),
                (f"gather.{problem.accumulator}", float(tile_count * points * problem.inputs)),
                ("calls", runs * (6.0 + 2 * problem.inputs * problem.outputs)),
                ("fft.calls", runs * (1.0 + problem.outputs)),
            ),
            scratch=self._bytes(problem, tiles, shape) * min(limits.workers, max(runs, 1)),
            kept=kept,
            note="tiles of " + "x".join(map(str, tiles.transform)) if entries else "",
        )

    def rounding(self, problem: Problem) -> float:
        # Each of the three transforms loses about eps per butterfly level (root mean square a
        # fraction of it); the longest transform is that of the whole padded image.
        whole = (
            (p - 1) * s + e
            for p, s, e in zip(problem.output, problem.stride, problem.extent, strict=True)
        )
        levels = math.log2(max(math.prod(good_size(n) for n in whole), 2))
        return 4 * levels + problem.inputs + 2

    def _bytes(self, problem: Problem, tiles: Tiles, shape: Sequence[int]) -> int:
        """Scratch of one block: the tile, its spectrum, two products and the inverse."""
        item = itemsize(problem.accumulator)
        lead = math.prod(shape[: -problem.spatial])
        points = math.prod(tiles.transform[:-1]) * (tiles.transform[-1] + 2)
        each = 2 * problem.inputs + 4
        return gathered_bytes(problem, shape) + lead * points * item * each

    def _shape(
        self, problem: Problem, tiles: Tiles, limits: Limits, order: Sequence[int] | None
    ) -> tuple[int, ...]:
        """Sizes of a block: as many entries as fit, and the tiles' box."""
        lead = (*problem.batch, problem.groups)
        axes = [a for a in (order or range(len(lead))) if a < len(lead)]
        entries = cut(
            lead,
            axes,
            lambda shape: self._bytes(problem, tiles, (*shape, *tiles.box)),
            limits,
            _most(problem, limits),
        )
        if problem.spatial == 1:  # no rows to fill vectors with
            lanes = _lanes(problem)
            entries = tuple(
                part - part % lanes if lanes < part < whole else part
                for part, whole in zip(entries, lead, strict=True)
            )
        return (*entries, *tiles.box)

    def prepare(
        self, backend: Backend, problem: Problem, weights: Any, facts: Any, limits: Limits
    ) -> State:
        tiles = choose(problem, limits)
        axes = tuple(range(3, 3 + problem.spatial))
        dilated = backend.full(
            (*weights.shape[:3], *problem.extent), 0, problem.accumulator, weights
        )
        every = tuple(slice(None, None, d) for d in problem.dilation)
        dilated = backend.assign(dilated, (slice(None),) * 3 + every, backend.flip(weights, axes))
        spectrum = backend.transform(dilated, tiles.transform, axes)
        return State(tiles, spectrum, weights, float(facts))

    def run(
        self, backend: Backend, problem: Problem, state: State, x: Any, y: Any, limits: Limits
    ) -> Any:
        lead = (*problem.batch, problem.groups)
        shape = self._shape(problem, state.tiles, limits, backend.cut_order(x, problem))
        one = functools.partial(self._tile, backend, problem, state, x)
        return backend.each(one, blocks(lead, problem.output, shape), y, limits.workers)

    def _tile(
        self, backend: Backend, problem: Problem, state: State, x: Any, block: Block
    ) -> Iterator[tuple[tuple[slice, ...], Any]]:
        lead = len(block.lead)
        source = gather(backend, problem, x, block, problem.accumulator)
        safe = safe_entries(
            backend, problem, source, state.magnitude, math.prod(state.tiles.transform)
        )
        n = state.tiles.transform
        spectrum = backend.transform(source, n, tuple(range(lead + 1, lead + 1 + problem.spatial)))
        kernels = state.spectrum[block.lead[-1], ...]
        valid = valid_outputs(problem, block)
        axes = tuple(range(lead, lead + problem.spatial))
        at = block.target()
        for o in range(problem.outputs):
            terms = (
                (spectrum[(*(slice(None),) * lead, i, ...)], kernels[:, o, i, ...])
                for i in range(problem.inputs)
            )
            total = backend.weighted_sum(terms, problem.accumulator)
            total = backend.inverse(total, n, axes, problem.accumulator)[(..., *valid)]
            total = backend.convert(total, problem.accumulator, problem.dtype)
            yield (*at[:lead], slice(o, o + 1), *at[lead + 1 :]), backend.expand(total, lead)
        yield from direct_entries(backend, problem, state.weights, x, block, safe)


def valid_outputs(problem: Problem, block: Block) -> tuple[slice, ...]:
    """The elements of a tile's inverse transform that are results."""
    return tuple(
        slice(extent - 1, extent + (out.stop - out.start - 1) * stride, stride)
        for extent, out, stride in zip(problem.extent, block.box, problem.stride, strict=True)
    )


def direct_entries(
    backend: Backend, problem: Problem, weights: Any, x: Any, block: Block, safe: np.ndarray | None
) -> Iterator[tuple[tuple[slice, ...], Any]]:
    """Direct results for the entries of a block that are not safe; None means all are."""
    if safe is None:
        return
    for entry in np.argwhere(~safe):
        lead = tuple(
            slice(part.start + int(i), part.start + int(i) + 1)
            for part, i in zip(block.lead, entry, strict=True)
        )
        yield from correlate_block(backend, problem, weights, x, Block(lead, block.box))


def magnitude(problem: Problem, kernel: np.ndarray) -> float | str:
    """Largest sum of absolute taps of any kernel, or why no transform can keep the bound."""
    wide = np.abs(kernel.astype(np.complex128 if kernel.dtype.kind == "c" else np.float64))
    if not np.isfinite(wide).all():
        return "the kernel holds NaN or inf, which a transform would spread"
    total = float(wide.sum(axis=tuple(range(2, kernel.ndim))).max())
    info = np.finfo(problem.accumulator)
    low, high = float(info.smallest_normal / info.eps), float(min(info.max, np.finfo(float).max))
    if not low <= total <= high * float(info.eps):
        return f"the kernel's sum of absolute taps, {total:g}, is outside the safe range"
    return total


def safe_entries(
    backend: Backend, problem: Problem, source: Any, kernel_sum: float, points: int
) -> np.ndarray | None:
    """Which entries (lead...) of a gathered block keep the error bound; None means all do.

    Safe is all zero, or finite with no sum of the transforms out of the dtype's normal range.
    """
    axes = tuple(range(len(source.shape) - problem.spatial - 1, len(source.shape)))
    peak = backend.peak(source, axes)
    info = np.finfo(problem.accumulator)
    low = float(info.smallest_normal / info.eps)
    high = float(min(info.max, np.finfo(float).max)) / 4 / points
    with np.errstate(all="ignore"):
        product = peak * max(kernel_sum, 1.0)
        floor = peak * min(kernel_sum, 1.0)
        safe = ((product <= high) & (floor >= low)) | (peak == 0)
    return None if safe.all() else safe


def _lengths(size: int, extent: int, stride: int) -> list[int]:
    """Transform lengths that cut `size` outputs of one axis into 1, 2, 3, ... equal tiles."""
    lengths, tiles = set[int](), 1
    while True:
        box = -(-max(size, 1) // tiles)
        lengths.add(good_size((box - 1) * stride + extent))
        if box == 1 or (box - 1) * stride < extent // 4:
            return sorted(lengths)
        tiles += max(tiles // 6, 1)


@functools.lru_cache(1024)
def choose(problem: Problem, limits: Limits) -> Tiles:
    """The tile with the least arithmetic for the whole image within half the memory allowed.

    The other half may have to hold a copy of `x`, if `out` overlaps it.
    """
    options = [
        _lengths(size, extent, stride)
        for size, extent, stride in zip(problem.output, problem.extent, problem.stride, strict=True)
    ]
    item = itemsize(problem.accumulator)
    best: tuple[float, Tiles] | None = None
    smallest: tuple[int, Tiles] | None = None
    for transform in product(*options):
        box = tuple(
            min((n - e) // s + 1, max(p, 1))
            for n, e, s, p in zip(
                transform, problem.extent, problem.stride, problem.output, strict=True
            )
        )
        count = block_count(problem.output, box)
        tiles = Tiles(transform, box, count)
        points = math.prod(transform)
        needed = points * item * (3 * problem.inputs + 4)
        # Measured on a Zen 3 with 512 KiB of L2 (2026-11-25): a transform out of cache is slower;
        # gather, product and crop cost as much as 8 levels, the calls of a block as 30,000 points.
        # SciPy takes several signals at once, and so holds more of them than of images' rows.
        held = points * item * (2 if problem.spatial > 1 else 4)
        slow = 1.0 if held <= limits.block else 1.25 if points < 1 << 19 else 1.5
        at_once = min(max(problem.entries, 1), max(_most(problem, limits) // needed, 1))
        if problem.spatial == 1 and at_once < _lanes(problem):
            slow *= 1.5
        price = count * points * (math.log2(max(points, 2)) * slow + 8)
        price += 8e5 * count / at_once
        if 2 * needed <= limits.each and (best is None or price < best[0]):
            best = price, tiles
        if smallest is None or needed < smallest[0]:
            smallest = needed, tiles
    assert smallest is not None
    return best[1] if best else smallest[1]
