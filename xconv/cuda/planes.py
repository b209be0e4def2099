"""Which tiles a transform on a CUDA device takes, and what that costs: pure functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from ..methods import fft
from ..methods.base import Limits, cut
from ..problem import Problem, Work, itemsize
from .direct import nominal
from .geometry import Geometry, Spatial

__all__ = [
    "MOST_SUMMED",
    "OUTPUTS",
    "ROWS",
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
_BLOCK = 2e7
"""Bytes that are moved in the time of the launches of a block which does not pass beside work."""
_OUT_OF_CACHE = 1.5
"""How much longer a pass takes where the planes do not stay in the second-level cache."""
TILES, OUTPUTS = 4, 4
"""What a thread of the multiplication takes."""
ROWS, MOST_SUMMED = 32, 32
"""What one takes where rows alone are transformed, and most taps down the rows there."""
_SUMMED_ROWS = 64, 128
"""Rows of outputs of such a tile: more leave threads without work, fewer read rows twice."""
_PRODUCT = {"float32": 0.08, "float64": 0.28}
"""Bytes moved in the time of one of `products`."""


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
    summed: bool = False
    """Whether the taps along the first of two axes are summed, and only rows are transformed."""

    @property
    def transformed(self) -> tuple[int, ...]:
        """Lengths of the axes that are transformed."""
        return self.lengths[1:] if self.summed else self.lengths

    @property
    def each(self) -> int:
        """Transforms of one plane."""
        return self.lengths[0] if self.summed else 1

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
    def summed_in(self) -> str:
        """The dtype of real numbers."""
        return {"complex64": "float32", "complex128": "float64"}.get(self.dtype, self.dtype)

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

    def kernel_lengths(self, tiles: Tiles) -> tuple[int, ...]:
        """Lengths of the planes of kernels."""
        if tiles.summed:
            return self.spatial[0].taps, *tiles.transformed
        return tiles.lengths

    def may_sum(self) -> bool:
        """Whether rows.cu can sum the taps along the first axis."""
        axis = self.spatial[0]
        return (
            len(self.spatial) == 2
            and self.in_place
            and axis.stride == axis.dilation == 1
            and axis.taps <= MOST_SUMMED
        )

    def areas(self, lengths: Sequence[int]) -> int:
        """Planes that the work areas of all transforms are assumed to be as large as, per tile.

        cuFFT takes none for axes that one kernel transforms.
        """
        item = itemsize(self.dtype) * (2 if self.real else 1)
        kernels = min(self.kernels, self.channels)  # transformed beforehand
        return self.channels + self.outputs + kernels if max(lengths) * item > 1 << 14 else 0

    def bytes(self, tiles: Tiles, many: int, areas: int | None = None) -> int:
        """Scratch for so many tiles at a time, and `areas` bytes of work areas."""
        plane = self.plane(tiles.lengths) * itemsize(self.dtype)
        if areas is None:
            areas = many * self.areas(tiles.transformed) * plane
        return many * self.planes() * plane + areas + 4 * many


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
    """How much longer an axis takes than one of 2^n elements does for each of them.

    On an H100 (2026-11-26), with all that is done to the planes: 1.0 to 1.1 for 100, 108 and 112,
    1.4 for 320 and 384, 2.2 for 1050.
    """
    if length & (length - 1) == 0:
        return 1.0
    if length <= 128:
        return 1.1
    if length % 32 == 0:
        return 1.4
    return 2.2 if length > 512 else 1.7


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


def _candidates(shape: Shape) -> Iterator[Tiles]:
    last = len(shape.spatial) - 1
    options = [_options(axis, shape.real and a == last) for a, axis in enumerate(shape.spatial)]

    def tiles(option: Sequence[tuple[int, int]], summed: bool) -> Tiles:
        lengths, box = zip(*option, strict=True)
        parts = (-(-axis.outputs // b) for axis, b in zip(shape.spatial, box, strict=True))
        return Tiles(lengths, box, tuple(parts), summed)

    for option in product(*options):
        yield tiles(option, False)
    if shape.may_sum():
        axis = shape.spatial[0]
        boxes = {-(-axis.outputs // -(-axis.outputs // rows)) for rows in _SUMMED_ROWS}
        for row, columns in product(sorted(boxes), options[-1]):
            yield tiles(((row + axis.taps - 1, row), columns), True)


@functools.lru_cache(1024)
def choose(shape: Shape, limits: Limits) -> Tiles:
    """The tiles with the fewest bytes moved, within half the memory allowed.

    The other half may have to hold a copy of `x`, if `out` overlaps it.
    """
    best: tuple[float, Tiles] | None = None
    smallest: tuple[int, Tiles] | None = None
    for tiles in _candidates(shape):
        needed = shape.bytes(tiles, 1)
        if smallest is None or needed < smallest[0]:
            smallest = needed, tiles
        if 2 * needed > limits.each or shape.plane(tiles.lengths) > _MOST_ELEMENTS:
            continue
        total = shape.entries * tiles.count
        blocks = -(-total // max(min(limits.block, limits.each) // needed, 1))
        slow = _OUT_OF_CACHE if needed > limits.block else 1.0
        sums = _PRODUCT[shape.summed_in] * products(shape, tiles)
        cost = total * (slow * sum(moved(shape, tiles)) + sums) + _BLOCK * blocks
        if best is None or cost < best[0]:
            best = cost, tiles
    assert smallest is not None
    return best[1] if best else smallest[1]


def moved(shape: Shape, tiles: Tiles) -> tuple[float, float]:
    """Bytes that count for a tile, of memory and of transforms in place.

    What our kernels read and write of the planes, which stay in cache, is counted with the
    transforms, but for what more than one channel or output adds.  The weights of this, of
    `products` and of their rates were fitted to 130 convolutions timed on an H100 (2026-11-26).
    """
    item, plane = itemsize(shape.dtype), shape.plane(tiles.lengths)
    channels, outputs = shape.channels, shape.outputs
    read, box = math.prod(tiles.read(shape.spatial)), math.prod(tiles.box)
    images = channels * read * shape.x_item + outputs * box * shape.y_item
    rounds = -(-outputs // OUTPUTS)
    more = rounds * channels + outputs + channels * outputs / TILES
    more -= (1 + 1 / (2 * TILES)) * (channels + outputs)
    passes = sum(map(_slowness, tiles.transformed))
    return 1.2 * images + more * plane * item, 2.0 * item * plane * (channels + outputs) * passes


def products(shape: Shape, tiles: Tiles) -> float:
    """Multiply-adds of real numbers that take as long as those that sum the taps of a tile.

    Direct convolutions read less for each, and are 2.5 times as fast.
    """
    if not tiles.summed:
        return 0.0
    points = shape.pitch(tiles.lengths) / (1 + shape.real)
    return 2.5 * 4.0 * points * tiles.box[0] * shape.spatial[0].taps


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
        lambda size: shape.bytes(tiles, size[0]),
        limits,
        limits.block,
    )
    return -(-total // -(-total // block))


def kernels_at_once(shape: Shape, tiles: int) -> int:
    """Planes of kernels that are transformed together, no more than those of a block."""
    return -(-shape.kernels // -(-shape.kernels // (tiles * shape.channels)))


def _note(tiles: Tiles) -> str:
    tiles_of = "tiles of " + "x".join(map(str, tiles.lengths))
    return tiles_of + (", rows transformed" if tiles.summed else "")


@functools.lru_cache(1024)
def work(problem: Problem, limits: Limits) -> Work:
    shape = shape_of(problem, nominal(problem))
    tiles = choose(shape, limits)
    block = at_once(shape, tiles, limits)
    total = shape.entries * tiles.count
    ours, transforms = moved(shape, tiles)
    item = itemsize(shape.dtype)
    return Work(
        amounts=(
            (f"fft.{shape.dtype}", total * transforms / (2 * item)),
            ("memory", total * ours),
            (f"direct.{shape.summed_in}", total * products(shape, tiles)),
            ("calls", 7.0 + -(-total // block)),
        ),
        scratch=shape.bytes(tiles, block),
        kept=shape.kernels * shape.plane(shape.kernel_lengths(tiles)) * item,
        note=_note(tiles) if total else "",
    )
