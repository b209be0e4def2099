"""Convolution in the frequency domain by our kernels and cuFFT's plans.

Tiles are gathered into planes of scratch memory, transformed there, multiplied by the kernel's
spectrum, transformed back, and their valid part is scattered into the result: five launches for
as many tiles as stay in the card's second-level cache.  Where a kernel has few rows, only rows are
transformed, and the products of their spectra are summed down the rows: that moves a third less.

Nothing is asked of the device: the gather kernel keeps the largest magnitude of each tile, and a
last launch sums the taps directly where a transform has spoilt a tile.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import MemoryLimitError
from ..methods.base import Limits
from ..problem import Problem
from .blocks import launches, spreading
from .device import Device
from .direct import steps
from .geometry import geometry
from .launch import Launch
from .planes import Shape, Tiles, at_once, choose, kernels_at_once, order_of, shape_of
from .weights import Weights

__all__ = ["AXES", "Correlation", "correlation"]

AXES = 3
"""Most convolved axes, which is what cuFFT's plans take."""


@functools.lru_cache(256)
def safe_peaks(dtype: str, points: int, magnitude: float) -> tuple[int, int]:
    """Least and largest peak, as tiles.cuh counts them, with which sums stay in the normal range.

    `magnitude` is the largest sum of absolute taps of a kernel.  With 1 for `points` it is that of
    direct sums.
    """
    info = np.finfo(dtype)
    # A complex number is up to 1.5 times as large as its larger part.
    most = float(info.max) / 8 / points / max(magnitude, 1.0)
    with np.errstate(all="ignore"):
        least = float(info.smallest_normal / info.eps) / min(magnitude, 1.0)
    # What is lost of a double lies below the unit of its upper half; float32 loses as much here.
    return _upper(dtype, least) + 1, max(_upper(dtype, most) - 1, 0)


def _upper(dtype: str, value: float) -> int:
    """The bits of a real number, or of its upper half where it is a double."""
    if dtype in ("float32", "complex64"):
        with np.errstate(over="ignore"):
            return int(np.float32(value).view(np.uint32))
    return int(np.float64(value).view(np.uint64) >> np.uint64(32))


@dataclass(frozen=True, slots=True)
class Correlation:
    """A convolution of arrays with certain strides on one device, ready to run."""

    device: Device
    dtype: np.dtype[Any]
    order: tuple[int, ...]
    tiles: Tiles
    shape: Shape
    total: int
    """Tiles in all."""
    block: int
    """Tiles at a time."""
    repaired: int
    """Tiles whose peaks are kept, for one launch of `repair`: some blocks."""
    by_value: bool
    """Whether the taps are passed by value."""
    gather: Launch
    multiply: Launch
    scatter: Launch
    repair: Launch

    def __call__(self, weights: Weights, magnitude: float, x: Any, y: Any) -> None:
        """Order all launches on the current stream."""
        device, shape, tiles = self.device, self.shape, self.tiles
        lengths = tiles.lengths
        taps, kernels = weights.kept(
            device,
            f"fft {self.order} {tiles.summed} {shape.kernel_lengths(tiles)}",
            lambda array: _spectrum(device, shape, self.order, tiles, self.block, array),
            self.dtype,
            on_host=self.by_value,
        )
        low, high = safe_peaks(shape.dtype, math.prod(lengths), magnitude)
        forward, inverse = _transforms(device, shape, tiles, self.block)
        plane = shape.plane(lengths)
        there = self.block * shape.channels * plane
        spectra = products = device.empty(self.block * shape.planes() * plane, self.dtype)
        if not shape.in_place:
            spectra, products = spectra[:there], spectra[there:]
        at_x, at_y = device.pointer(x), device.pointer(y)
        at_taps, values = (0, taps) if self.by_value else (device.pointer(taps), b"")
        at_spectra, at_products = device.pointer(spectra), device.pointer(products)
        at_kernels = device.pointer(kernels)
        for begin in range(0, self.total, self.repaired):
            end = min(begin + self.repaired, self.total)
            peaks = device.xp.zeros(end - begin, dtype=np.uint32)
            at_peaks = device.pointer(peaks)
            for first in range(begin, end, self.block):
                many = min(self.block, end - first)
                of_block = at_peaks + 4 * (first - begin)
                rest = of_block, first, many, low, high
                self.gather(at_x, at_y, 0, at_spectra, *rest)
                forward(spectra)
                self.multiply(at_spectra, at_kernels, at_products, first, many)
                inverse(products)
                self.scatter(at_x, at_y, 0, at_products, *rest)
            rest = at_peaks, begin, end - begin, low, high
            self.repair(at_x, at_y, at_taps, at_products, *rest, values=values)


def _transforms(device: Device, shape: Shape, tiles: Tiles, many: int) -> tuple[Any, Any]:
    """Forward and inverse transform of so many tiles, in place."""
    lengths, each = tiles.transformed, many * tiles.each
    return (
        device.transform(lengths, each * shape.channels, shape.dtype, False),
        device.transform(lengths, each * shape.outputs, shape.dtype, True),
    )


def _of_kernels(device: Device, shape: Shape, tiles: Tiles, many: int) -> tuple[int, Any]:
    """How many kernels are transformed together where so many tiles are, and what does it."""
    together = kernels_at_once(shape, many)
    each = shape.spatial[0].taps if tiles.summed else 1
    return together, device.transform(tiles.transformed, together * each, shape.dtype, False)


def _spectrum(
    device: Device,
    shape: Shape,
    order: tuple[int, ...],
    tiles: Tiles,
    many: int,
    array: Any,
) -> tuple[Any, Any]:
    """The taps with their axes in the order of the transform, and the spectra of the kernels.

    Of a NumPy array the taps are the bytes.
    """
    xp = device.xp
    by_value = type(array) is np.ndarray
    taps = array
    if order != tuple(sorted(order)):
        turned = (0, 1, 2, *(3 + a for a in order))
        if by_value:
            taps = np.ascontiguousarray(array.transpose(turned))
        else:
            taps = xp.asarray(xp.permute_dims(array, turned), order="C", copy=True)
    lengths = shape.kernel_lengths(tiles)
    together, transform = _of_kernels(device, shape, tiles, many)
    planes = -(-shape.kernels // together) * together
    part = together * shape.plane(lengths)
    spectra = device.empty(planes * shape.plane(lengths), array.dtype)
    spread = spreading(device, shape, lengths, planes, by_value, device.number())
    if by_value:
        taps = taps.tobytes()
        spread(0, device.pointer(spectra), values=taps)
    else:
        spread(device.pointer(taps), device.pointer(spectra))
    for first in range(0, spectra.size, part):
        transform(spectra[first : first + part])
    return taps, spectra


@functools.lru_cache(2048)
def correlation(
    device: Device,
    problem: Problem,
    limits: Limits,
    by_value: bool,
    number: int,
    x_strides: tuple[int, ...],
    y_strides: tuple[int, ...],
) -> Correlation:
    """What runs the problem on arrays with these strides, on the device of that number.

    `by_value` says how launches get the taps.
    """
    distances = (
        steps(x_strides, problem.x_dtype, problem.x_axes),
        steps(y_strides, problem.dtype, problem.y_axes),
    )
    where = geometry(problem, *distances)
    shape = shape_of(problem, where)
    tiles = choose(shape, limits)
    total, block = shape.entries * tiles.count, at_once(shape, tiles, limits)
    while True:  # cuFFT says how large its work areas are when it has made a plan
        plans = {
            *_transforms(device, shape, tiles, block),
            _of_kernels(device, shape, tiles, block)[1],
        }
        areas = sum(plan.nbytes for plan in plans)
        needed = shape.bytes(tiles, block, areas)
        if needed <= limits.each:
            break
        if block == 1:
            raise MemoryLimitError(
                f"max_memory={limits.max_memory} is too small for a transform of "
                f"{'x'.join(map(str, tiles.lengths))} elements, which takes {needed} bytes with "
                'its work areas; raise max_memory, or use method="direct"'
            )
        block //= 2
    more = min(limits.each - needed, 4 * total, _PEAKS) // (4 * block)
    repaired = block * (1 + more)
    return Correlation(
        device, np.dtype(shape.dtype), order_of(where), tiles, shape, total, block, repaired,
        by_value,
        *launches(device, problem, shape, tiles, block, repaired, by_value, distances),
    )  # fmt: skip


_PEAKS = 1 << 20
"""Bytes of peaks beyond those of one block."""
