"""Convolution in the frequency domain by our kernels and cuFFT's plans.

Tiles are gathered into planes of scratch memory, transformed there, multiplied by the kernel's
spectrum, transformed back, and their valid part is scattered into the result: five launches for
as many tiles as stay in the card's second-level cache.  Nothing is asked of the device: the gather
kernel keeps the largest magnitude of each tile, and a last launch sums the taps directly where a
transform has spoilt a tile.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import MemoryLimitError
from ..methods.base import Limits
from ..problem import Problem, itemsize
from .device import Device, Kernel
from .direct import cval_of, steps
from .geometry import (
    OUTER,
    SPATIAL,
    Outer,
    filled,
    geometry,
    merged,
    record,
)
from .planes import (
    OUTPUTS,
    TILES,
    Shape,
    Tiles,
    at_once,
    choose,
    kernels_at_once,
    order_of,
    shape_of,
)
from .source import kernel_source
from .weights import Weights

__all__ = ["AXES", "OUTERS", "Correlation", "correlation"]

AXES = 3
"""Most convolved axes, which is what cuFFT's plans take."""
OUTERS = 24
"""Most batch axes and groups."""


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
class _Step:
    """A kernel of a block: what is passed with each call goes in front of the rest."""

    kernel: Kernel
    blocks: int
    threads: tuple[int, int]
    shared: int
    head: struct.Struct
    rest: bytes
    room: int = 0
    """Bytes for taps that are passed by value, behind the rest."""

    def __call__(self, *head: int, taps: bytes = b"") -> None:
        argument = self.head.pack(*head) + self.rest + taps.ljust(self.room, b"\0")
        self.kernel(self.blocks, self.threads, self.shared, argument)


_TILES_HEAD = struct.Struct("5Q2q2I")
_MULTIPLY_HEAD = struct.Struct("3Q2q")
_SPREAD_HEAD = struct.Struct("2Q")


def _named(names: str, kind: Any, length: int = 0) -> list[tuple[str, Any, int]]:
    """Fields of one kind, for `record`."""
    return [(name, kind, length) for name in names.split()]


def tiles_fields(spatial: int, total: np.dtype[Any], filters: int = 0) -> np.dtype[np.void]:
    """The struct Call of tiles.cuh."""
    return record(
        [
            *_named("x y w planes peaks", np.uint64),
            *_named("first tiles", np.int64),
            *_named("low high", np.uint32),
            *_named("x_channel y_output w_output", np.int64),
            ("scale", np.float64, 0),
            *_named("channels outputs near outers rows pitch out_rows runs", np.int32),
            ("outer", OUTER, OUTERS),
            ("spatial", SPATIAL, spatial),
            *_named("along length read box", np.int32, spatial),
            ("cval", total, 0),
            ("filter", total, max(filters, 1)),
        ]
    )


def multiply_fields() -> np.dtype[np.void]:
    """The struct Call of multiply.cu."""
    return record(
        [
            *_named("spectra kernels products", np.uint64),
            *_named("first tiles points before", np.int64),
            *_named("channels outputs groups blocks_point blocks_output", np.int32),
        ]
    )


def spread_fields(spatial: int, total: np.dtype[Any], filters: int = 0) -> np.dtype[np.void]:
    """The struct Call of spread.cu."""
    return record(
        [
            *_named("w planes", np.uint64),
            *_named("kernels", np.int64),
            *_named("pitch plane parts", np.int32),
            *_named("length count dilation", np.int32, spatial),
            ("filter", total, max(filters, 1)),
        ]
    )


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
    gather: _Step
    multiply: _Step
    scatter: _Step
    repair: _Step

    def __call__(self, weights: Weights, magnitude: float, x: Any, y: Any) -> None:
        """Order all launches on the current stream."""
        device, shape, lengths = self.device, self.shape, self.tiles.lengths
        taps, kernels = weights.kept(
            device,
            f"fft {self.order} {lengths}",
            lambda array: _spectrum(device, shape, self.order, lengths, self.block, array),
            self.dtype,
            on_host=self.by_value,
        )
        low, high = safe_peaks(shape.dtype, math.prod(lengths), magnitude)
        forward, inverse = _transforms(device, shape, lengths, self.block)
        plane = shape.plane(lengths)
        there = self.block * shape.channels * plane
        spectra = products = device.xp.empty(self.block * shape.planes() * plane, dtype=self.dtype)
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
                tiles = min(self.block, end - first)
                of_block = at_peaks + 4 * (first - begin)
                rest = of_block, first, tiles, low, high
                self.gather(at_x, at_y, 0, at_spectra, *rest)
                forward(spectra)
                self.multiply(at_spectra, at_kernels, at_products, first, tiles)
                inverse(products)
                self.scatter(at_x, at_y, 0, at_products, *rest)
            rest = at_peaks, begin, end - begin, low, high
            self.repair(at_x, at_y, at_taps, at_products, *rest, taps=values)


def _transforms(
    device: Device, shape: Shape, lengths: tuple[int, ...], tiles: int
) -> tuple[Any, Any]:
    """Forward and inverse transform of so many tiles, in place."""
    return (
        device.transform(lengths, tiles * shape.channels, shape.dtype, False),
        device.transform(lengths, tiles * shape.outputs, shape.dtype, True),
    )


def _spectrum(
    device: Device,
    shape: Shape,
    order: tuple[int, ...],
    lengths: tuple[int, ...],
    tiles: int,
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
    together = kernels_at_once(shape, tiles)
    planes = -(-shape.kernels // together) * together
    part = together * shape.plane(lengths)
    spectra = xp.empty(planes * shape.plane(lengths), dtype=array.dtype)
    spread = _spreading(device, shape, lengths, planes, by_value, device.number())
    if by_value:
        taps = taps.tobytes()
        spread(0, device.pointer(spectra), taps=taps)
    else:
        spread(device.pointer(taps), device.pointer(spectra))
    transform = device.transform(lengths, together, shape.dtype, False)
    for first in range(0, spectra.size, part):
        transform(spectra[first : first + part])
    return taps, spectra


@functools.lru_cache(512)
def _spreading(
    device: Device,
    shape: Shape,
    lengths: tuple[int, ...],
    planes: int,
    by_value: bool,
    number: int,
) -> _Step:
    """What puts taps into so many planes, on the device of that number."""
    plane, total = shape.plane(lengths), np.dtype(shape.dtype)
    filters = _BY_VALUE_BYTES // total.itemsize if by_value else 0
    call = filled(
        spread_fields(len(lengths), total, filters),
        kernels=shape.kernels, pitch=shape.pitch(lengths), plane=plane, parts=-(-plane // 256),
    )  # fmt: skip
    call["length"] = lengths
    call["count"] = [axis.taps for axis in shape.spatial]
    call["dilation"] = [axis.dilation for axis in shape.spatial]
    constants: dict[str, int | str] = {"SPATIAL": len(lengths), "FILTER": filters}
    kernel = device.kernel("spread", kernel_source("spread", shape.dtype, shape.dtype, constants))
    blocks = planes * int(call["parts"])
    return _Step(kernel, blocks, (256, 1), 0, _SPREAD_HEAD, *_behind(call, _SPREAD_HEAD))


_BY_VALUE_BYTES = 2048
"""Most taps that are passed by value; with the rest of the argument they stay within 4096 bytes."""


def passes_by_value(weights: Weights, dtype: str) -> bool:
    """Whether launches get the taps themselves."""
    return 0 < weights.by_value * np.dtype(dtype).itemsize <= _BY_VALUE_BYTES


def _behind(call: np.ndarray[Any, Any], head: struct.Struct) -> tuple[bytes, int]:
    """`rest` and `room` of a step with this record, which ends with its taps."""
    fields: Any = call.dtype.fields
    taps = fields["filter"][1]
    return call.tobytes()[head.size : taps], call.nbytes - taps


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
        kernels = kernels_at_once(shape, block)
        plans = {
            *_transforms(device, shape, tiles.lengths, block),
            device.transform(tiles.lengths, kernels, shape.dtype, False),
        }
        areas = sum(plan.nbytes for plan in plans)
        needed = shape.bytes(tiles.lengths, block, areas)
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
    launches = _steps(device, problem, shape, tiles, block, repaired, by_value, distances)
    return Correlation(
        device, np.dtype(shape.dtype), order_of(where), tiles, shape, total, block, repaired,
        by_value, *launches,
    )  # fmt: skip


_PEAKS = 1 << 20
"""Bytes of peaks beyond those of one block."""
_WARPS = 8
"""Of a block, as in tiles.cuh."""


def _steps(
    device: Device,
    problem: Problem,
    shape: Shape,
    tiles: Tiles,
    block: int,
    repaired: int,
    by_value: bool,
    distances: tuple[Sequence[int], Sequence[int]],
) -> tuple[_Step, _Step, _Step, _Step]:
    """Our kernels for blocks of so many tiles; distances in x and y by canonical axis."""
    spatial, lengths, total = shape.spatial, tiles.lengths, np.dtype(shape.dtype)
    lead = len(problem.batch) + 1
    leads = [way[:lead] for way in distances]
    of_group = problem.outputs * problem.taps
    outer = merged(
        [
            Outer(n, x, y, of_group * (a == lead - 1))
            for a, (n, x, y) in enumerate(
                zip((*problem.batch, problem.groups), *leads, strict=True)
            )
        ]
    )
    x_channel, y_output = (way[lead] for way in distances)
    x_lanes, near = _lanes([(a.size, a.x) for a in outer], spatial[-1].x, x_channel, shape.channels)
    y_lanes, y_near = _lanes([(a.size, a.y) for a in outer], spatial[-1].y, y_output, shape.outputs)
    if near is None:
        near = y_near
    elif y_lanes == 1 and y_near != near:
        y_lanes = 0
    first = [] if near is None else [outer[near]]
    rest = [axis for n, axis in reversed(list(enumerate(outer))) if n != near]
    rows, out_rows = math.prod(lengths[:-1]), math.prod(tiles.box[:-1])
    fill = functools.partial(
        filled,
        x_channel=x_channel, y_output=y_output, w_output=problem.taps,
        scale=1 / math.prod(lengths), channels=shape.channels, outputs=shape.outputs,
        near=len(first), outers=len(outer), rows=rows, pitch=shape.pitch(lengths),
        out_rows=out_rows, outer=(*first, *rest), spatial=spatial, cval=cval_of(problem),
    )  # fmt: skip
    arrays = {
        "along": tiles.along, "length": lengths, "box": tiles.box, "read": tiles.read(spatial),
    }  # fmt: skip

    def step(
        name: str, blocks: int, shared: int, runs: int, filters: int, **constants: int | str
    ) -> _Step:
        call = fill(tiles_fields(len(spatial), total, filters), runs=runs)
        for field, numbers in arrays.items():
            call[field] = numbers
        constants |= {"SPATIAL": len(spatial), "FILTER": filters}
        kernel = device.kernel(name, kernel_source(name, problem.x_dtype, problem.dtype, constants))
        behind = _behind(call, _TILES_HEAD)
        return _Step(kernel, blocks, (32, _WARPS), shared, _TILES_HEAD, *behind)

    def rows_of_planes(name: str, lanes: int, members: int, lines: int, columns: int) -> _Step:
        run = 64 if lanes else 512
        runs, planes = -(-columns // run), block * members
        blocks = -(-planes // 32) * lines * runs if lanes else -(-planes * lines * runs // _WARPS)
        shared = 32 * (run + 1) * total.itemsize + 128 if lanes else 4 * _WARPS
        return step(name, blocks, shared, runs, 0, LANES=lanes)

    lines = -(-out_rows * shape.outputs // _WARPS)
    slices = max(min(lines, 2048 // repaired), 1)
    filters = _BY_VALUE_BYTES // total.itemsize if by_value else 0
    return (
        rows_of_planes("gather", x_lanes, shape.channels, rows, lengths[-1]),
        _multiplication(device, shape, tiles, block, _before(first, rest, tiles)),
        rows_of_planes("scatter", y_lanes, shape.outputs, out_rows, tiles.box[-1]),
        step("repair", repaired * slices, 0, 1, filters, LANES=0, SLICES=slices),
    )


_WORTH_TRANSPOSING = 8
"""Least neighbours in memory along another axis than the rows: a sector of float32."""


def _lanes(
    outer: Sequence[tuple[int, int]], column: int, member: int, members: int
) -> tuple[int, int | None]:
    """LANES of tiles.cuh for an array, and which outer axis is numbered first for it.

    `outer` has sizes and distances; `column` and `member` are the distances along rows, and from
    channel to channel or output to output.
    """
    near, least = None, abs(column)
    for n, (size, distance) in enumerate(outer):
        if size >= _WORTH_TRANSPOSING and 0 < abs(distance) < least:
            near, least = n, abs(distance)
    if members >= _WORTH_TRANSPOSING and 0 < abs(member) < least:
        return 2, None
    return (0, None) if near is None else (1, near)


def _before(first: Sequence[Outer], rest: Sequence[Outer], tiles: Tiles) -> int:
    """Tiles from one group to the next, as they are numbered."""
    before = 1
    for axis in (*first, Outer(tiles.count), *rest):
        if axis.w:
            break
        before *= axis.size
    return before


def _multiplication(device: Device, shape: Shape, tiles: Tiles, block: int, before: int) -> _Step:
    complex_ = {4: "complex64", 8: "complex128"}[itemsize(shape.dtype) // (2 - shape.real)]
    outputs = min(shape.outputs, OUTPUTS)
    points = shape.plane(tiles.lengths) // (1 + shape.real)
    blocks_point, blocks_output = -(-points // 256), -(-shape.outputs // outputs)
    call = filled(
        multiply_fields(),
        points=points, before=before, groups=shape.groups,
        channels=shape.channels, outputs=shape.outputs,
        blocks_point=blocks_point, blocks_output=blocks_output,
    )  # fmt: skip
    each = -(-block // -(-block // TILES))  # so that threads have about as many
    constants: dict[str, int | str] = {"FILTER": 0, "TILES": each, "OUTPUTS": outputs}
    source = kernel_source("multiply", complex_, complex_, constants)
    blocks = blocks_point * blocks_output * -(-block // each)
    behind = call.tobytes()[_MULTIPLY_HEAD.size :]
    return _Step(device.kernel("multiply", source), blocks, (256, 1), 0, _MULTIPLY_HEAD, behind)
