"""The kernels of a transform of tiles: the record that each takes as its argument, filled."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..problem import Problem
from .device import Device
from .direct import cval_of
from .geometry import OUTER, SPATIAL, Outer, filled, merged, record
from .launch import Launch, parts
from .planes import OUTPUTS, ROWS, TILES, Shape, Tiles
from .source import kernel_source
from .weights import Weights

__all__ = ["OUTERS", "launches", "passes_by_value", "row_constants", "spreading"]

OUTERS = 24
"""Most batch axes and groups."""
_BY_VALUE_BYTES = 2048
"""Most taps that are passed by value; with the rest of the argument they stay within 4096 bytes."""


def passes_by_value(weights: Weights, dtype: str) -> bool:
    """Whether launches get the taps themselves."""
    return 0 < weights.by_value * np.dtype(dtype).itemsize <= _BY_VALUE_BYTES


_WARPS = 8
"""Of a block, as in tiles.cuh."""
_ROW_THREADS, _CHUNK = 128, 12
"""Of a block of rows.cu, and most taps that one of them has in registers."""


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


def rows_fields() -> np.dtype[np.void]:
    """The struct Call of rows.cu."""
    return record(
        [
            *_named("spectra kernels products", np.uint64),
            *_named("first tiles points before", np.int64),
            *_named("rows taps groups blocks_point", np.int32),
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


def _filters(by_value: bool, total: np.dtype[Any]) -> int:
    """Room for taps passed by value."""
    return _BY_VALUE_BYTES // total.itemsize if by_value else 0


@functools.lru_cache(512)
def spreading(
    device: Device,
    shape: Shape,
    lengths: tuple[int, ...],
    planes: int,
    by_value: bool,
    number: int,
) -> Launch:
    """What puts taps into so many planes, on the device of that number."""
    plane, total = shape.plane(lengths), np.dtype(shape.dtype)
    filters = _filters(by_value, total)
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
    return Launch(kernel, blocks, (256, 1), 0, *parts(call, _SPREAD_HEAD))


def launches(
    device: Device,
    problem: Problem,
    shape: Shape,
    tiles: Tiles,
    block: int,
    repaired: int,
    by_value: bool,
    distances: tuple[Sequence[int], Sequence[int]],
) -> tuple[Launch, Launch, Launch, Launch]:
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
        scale=1 / math.prod(tiles.transformed), channels=shape.channels, outputs=shape.outputs,
        near=len(first), outers=len(outer), rows=rows, pitch=shape.pitch(lengths),
        out_rows=out_rows, outer=(*first, *rest), spatial=spatial, cval=cval_of(problem),
    )  # fmt: skip
    arrays = {
        "along": tiles.along, "length": lengths, "box": tiles.box, "read": tiles.read(spatial),
    }  # fmt: skip

    def step(
        name: str, blocks: int, shared: int, runs: int, filters: int, **constants: int | str
    ) -> Launch:
        call = fill(tiles_fields(len(spatial), total, filters), runs=runs)
        for field, numbers in arrays.items():
            call[field] = numbers
        constants |= {"SPATIAL": len(spatial), "FILTER": filters}
        kernel = device.kernel(name, kernel_source(name, problem.x_dtype, problem.dtype, constants))
        return Launch(kernel, blocks, (32, _WARPS), shared, *parts(call, _TILES_HEAD))

    def rows_of_planes(name: str, lanes: int, members: int, lines: int, columns: int) -> Launch:
        run = 64 if lanes else 512
        runs, planes = -(-columns // run), block * members
        blocks = -(-planes // 32) * lines * runs if lanes else -(-planes * lines * runs // _WARPS)
        shared = 32 * (run + 1) * total.itemsize + 128 if lanes else 4 * _WARPS
        return step(name, blocks, shared, runs, 0, LANES=lanes)

    lines = -(-out_rows * shape.outputs // _WARPS)
    slices = max(min(lines, 2048 // repaired), 1)
    filters = _filters(by_value, total)
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


def _multiplication(device: Device, shape: Shape, tiles: Tiles, block: int, before: int) -> Launch:
    complex_ = {"float32": "complex64", "float64": "complex128"}.get(shape.dtype, shape.dtype)
    if tiles.summed:
        return _sums(device, shape, tiles, block, before, complex_)
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
    rest = call.tobytes()[_MULTIPLY_HEAD.size :]
    return Launch(device.kernel("multiply", source), blocks, (256, 1), 0, _MULTIPLY_HEAD, rest)


def _sums(
    device: Device, shape: Shape, tiles: Tiles, block: int, before: int, complex_: str
) -> Launch:
    """The multiplication where only rows are transformed."""
    taps, points = shape.spatial[0].taps, shape.pitch(tiles.lengths) // (1 + shape.real)
    blocks_point = -(-points // _ROW_THREADS)
    call = filled(
        rows_fields(),
        points=points, before=before, rows=tiles.lengths[0], taps=taps, groups=shape.groups,
        blocks_point=blocks_point,
    )  # fmt: skip
    source = kernel_source("rows", complex_, complex_, row_constants(taps, complex_))
    kernel = device.kernel("rows", source)
    rest = call.tobytes()[_MULTIPLY_HEAD.size :]
    return Launch(kernel, blocks_point * block, (_ROW_THREADS, 1), 0, _MULTIPLY_HEAD, rest)


def row_constants(taps: int, dtype: str) -> dict[str, int | str]:
    """What is put in front of rows.cu."""
    chunks = -(-taps // _CHUNK)
    rows = ROWS if dtype == "complex64" else ROWS // 2
    return {"FILTER": 0, "ROWS": rows, "TAPS": -(-taps // chunks), "CHUNKS": chunks}
