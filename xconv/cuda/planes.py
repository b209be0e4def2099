"""Which tiles a transform on a CUDA device takes, and what that costs: pure functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ..methods import fft
from ..methods.base import Limits, cut
from ..problem import Problem, Work, itemsize
from .direct import nominal
from .geometry import Geometry, Spatial

__all__ = [
    "OUTPUTS",
    "TILES",
    "Shape",
    "Tiles",
    "at_once",
    "choose",
    "extent",
    "good_size",
    "kernels_at_once",
    "order_of",
    "shape_of",
    "work",
]

_MOST_ELEMENTS = (1 << 31) - 1
"""Of all planes together: cuFFT's plans count in 32 bits."""
_LAUNCH = 1.5e7
"""Bytes that are moved in the time of one launch: 5 us on a card with 3 TB/s."""
_OUT_OF_CACHE = 1.5
"""How much longer a pass takes where the planes do not stay in the second-level cache."""
TILES, OUTPUTS = 4, 4
"""What a thread of the multiplication takes."""


def good_size(least: int, even: bool) -> int:
    """The smallest size of at least `least` that cuFFT likes, with factors 2, 3, 5 and 7.

    >>> good_size(121, even=False), good_size(121, even=True), good_size(1063, even=True)
    (125, 126, 1080)
    """
    return fft.good_size(least, (3, 5, 7), even)


@dataclass(frozen=True, slots=True)
class Tiles:
    """How the outputs of an entry are cut, per convolved axis."""

    lengths: tuple[int, ...]
    """Of the transform."""
    box: tuple[int, ...]
    """Outputs of one tile."""
    along: tuple[int, ...]
    """Number of tiles."""

    @property
    def count(self) -> int:
        return math.prod(self.along)

    def read(self, spatial: Sequence[Spatial]) -> list[int]:
        """Elements of a tile that come from x."""
        sizes = zip(spatial, self.box, self.lengths, strict=True)
        return [min(axis.read(box), length) for axis, box, length in sizes]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the choice of tiles depends on: the axes in the order of the transform, and sizes."""

    spatial: tuple[Spatial, ...]
    entries: int
    channels: int
    outputs: int
    groups: int
    dtype: str
    """Of the sums."""
    x_item: int
    y_item: int

    @property
    def real(self) -> bool:
        return not self.dtype.startswith("complex")

    @property
    def kernels(self) -> int:
        """Planes of the kernels' spectra."""
        return self.groups * self.outputs * self.channels

    @property
    def in_place(self) -> bool:
        """Whether the products take the place of the spectra."""
        return self.channels == self.outputs == 1

    def pitch(self, lengths: Sequence[int]) -> int:
        """Elements from one row of a plane to the next: the spectrum of real rows fits in place."""
        return 2 * (lengths[-1] // 2 + 1) if self.real else lengths[-1]

    def plane(self, lengths: Sequence[int]) -> int:
        """Elements of a plane."""
        return math.prod(lengths[:-1]) * self.pitch(lengths)

    def planes(self) -> int:
        """Planes of one tile."""
        return 1 if self.in_place else self.channels + self.outputs

    def areas(self, lengths: Sequence[int]) -> int:
        """Planes that the work areas of all transforms are assumed to be as large as, per tile.

        cuFFT takes none for axes that one kernel transforms.
        """
        item = itemsize(self.dtype) * (2 if self.real else 1)
        kernels = min(self.kernels, self.channels)  # transformed beforehand
        return self.channels + self.outputs + kernels if max(lengths) * item > 1 << 14 else 0

    def bytes(self, lengths: Sequence[int], tiles: int, areas: int | None = None) -> int:
        """Scratch for so many tiles at a time, and `areas` bytes of work areas."""
        plane = self.plane(lengths) * itemsize(self.dtype)
        if areas is None:
            areas = tiles * self.areas(lengths) * plane
        return tiles * self.planes() * plane + areas + 4 * tiles


def extent(axis: Spatial) -> int:
    return (axis.taps - 1) * axis.dilation + 1


def _least(axis: Spatial) -> int:
    """The shortest transform of a whole axis.

    Beyond both edges lies one constant, so that the positions behind may be those in front.
    """
    read = axis.read(axis.outputs)
    if axis.boundary != 0 or axis.low <= 0:
        return read
    return min(read, max(axis.low + axis.size, read - axis.low, extent(axis)))


def _slowness(length: int) -> float:
    """How much longer cuFFT takes for an axis than for one of 2^n.

    On an H100, 1.05 (192) to 1.7 (320, 384) for multiples of 32, and 1.2 (1000) to 2.7 (1050, 1080)
    for others of that size.
    """
    if length & (length - 1) == 0:
        return 1.0
    if length % 32 == 0:
        return 1.7
    return 2.7 if length > 512 else 2.0


def _length(least: int, even: bool) -> int:
    """The length of a transform: the next power of two, if it is near."""
    size, power = good_size(least, even), _power(least)
    return power if power <= 1.1 * size else size


def _power(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _options(axis: Spatial, even: bool) -> list[tuple[int, int]]:
    """(length, outputs) of tiles that cut an axis into 1, 2, 3, ... parts."""
    whole, tiles = _least(axis), 1
    found = [(n, axis.outputs) for n in sorted({_power(whole), _length(whole, even)}, reverse=True)]
    while True:
        tiles += max(tiles // 6, 1)
        part = -(-axis.outputs // tiles)
        if part <= 1 or axis.read(part) < extent(axis) * 5 // 4:
            return found
        length = _length(axis.read(part), even)
        box = min((length - extent(axis)) // axis.stride + 1, axis.outputs)
        if length < found[-1][0]:
            found.append((length, box))


@functools.lru_cache(1024)
def choose(shape: Shape, limits: Limits) -> Tiles:
    """The tiles with the fewest bytes moved, within half the memory allowed.

    The other half may have to hold a copy of `x`, if `out` overlaps it.
    """
    best: tuple[float, Tiles] | None = None
    smallest: tuple[int, Tiles] | None = None
    last = len(shape.spatial) - 1
    options = [_options(axis, shape.real and a == last) for a, axis in enumerate(shape.spatial)]
    for option in product(*options):
        lengths, box = zip(*option, strict=True)
        tiles = Tiles(
            lengths,
            box,
            tuple(-(-axis.outputs // b) for axis, b in zip(shape.spatial, box, strict=True)),
        )
        needed = shape.bytes(lengths, 1)
        if smallest is None or needed < smallest[0]:
            smallest = needed, tiles
        if 2 * needed > limits.each or shape.plane(lengths) > _MOST_ELEMENTS:
            continue
        total = shape.entries * tiles.count
        calls = 5 * -(-total // max(min(limits.block, limits.each) // needed, 1))
        slow = _OUT_OF_CACHE if needed > limits.block else 1.0
        cost = slow * total * sum(moved(shape, tiles)) + _LAUNCH * calls
        if best is None or cost < best[0]:
            best = cost, tiles
    assert smallest is not None
    return best[1] if best else smallest[1]


def moved(shape: Shape, tiles: Tiles) -> tuple[float, float]:
    """Bytes that our kernels read and write for a tile, and those of its transforms."""
    item, plane = itemsize(shape.dtype), shape.plane(tiles.lengths)
    both = shape.channels + shape.outputs
    read = math.prod(tiles.read(shape.spatial))
    box = math.prod(tiles.box)
    rounds = -(-shape.outputs // OUTPUTS)
    spectra = rounds * shape.channels + shape.outputs
    kernels = shape.channels * shape.outputs / TILES
    ours = 1.0 * shape.channels * (read * shape.x_item + plane * item)
    ours += plane * item * (spectra + kernels)
    ours += shape.outputs * box * (item + shape.y_item)
    passes = sum(map(_slowness, tiles.lengths))
    return ours, 2.0 * item * plane * both * passes


def order_of(where: Geometry) -> tuple[int, ...]:
    """Convolved axes with neighbours in the memory of x last, along which rows of planes run."""
    axes = range(len(where.spatial))
    return tuple(sorted(axes, key=lambda a: -abs(where.spatial[a].x)))


def shape_of(problem: Problem, where: Geometry) -> Shape:
    return Shape(
        tuple(where.spatial[a] for a in order_of(where)),
        problem.entries,
        problem.inputs,
        problem.outputs,
        problem.groups,
        problem.accumulator,
        itemsize(problem.x_dtype),
        itemsize(problem.dtype),
    )


def at_once(shape: Shape, tiles: Tiles, limits: Limits) -> int:
    """Tiles of one block: what stays in cache, in blocks of about one size."""
    total = max(shape.entries * tiles.count, 1)
    plane = shape.plane(tiles.lengths)
    most = _MOST_ELEMENTS // (max(shape.channels, shape.outputs) * plane)
    (block,) = cut(
        (min(total, max(most, 1)),),
        (0,),
        lambda size: shape.bytes(tiles.lengths, size[0]),
        limits,
        limits.block,
    )
    return -(-total // -(-total // block))


def kernels_at_once(shape: Shape, tiles: int) -> int:
    """Planes of kernels that are transformed together, no more than those of a block."""
    return -(-shape.kernels // -(-shape.kernels // (tiles * shape.channels)))


@functools.lru_cache(1024)
def work(problem: Problem, limits: Limits) -> Work:
    shape = shape_of(problem, nominal(problem))
    tiles = choose(shape, limits)
    block = at_once(shape, tiles, limits)
    total = shape.entries * tiles.count
    ours, transforms = moved(shape, tiles)
    item = itemsize(shape.dtype)
    plane = shape.plane(tiles.lengths) * item
    return Work(
        amounts=(
            (f"fft.{shape.dtype}", total * transforms / (2 * item)),
            ("memory", total * ours),
            ("calls", 5.0 * -(-total // block) + 2),
        ),
        scratch=shape.bytes(tiles.lengths, block),
        kept=shape.kernels * plane,
        note="tiles of " + "x".join(map(str, tiles.lengths)) if total else "",
    )
