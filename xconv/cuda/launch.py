"""Calls of the kernels: the record that each takes as its one argument, filled and launched."""

from __future__ import annotations

import functools
import math
import struct
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from ..problem import itemsize
from . import strips, tiling
from .device import Device, Kernel
from .geometry import OUTER, SPATIAL, Geometry, Outer, Spatial, filled, record
from .source import kernel_source, sum_dtype
from .tiling import Roles, Tile

__all__ = [
    "ADDRESSES",
    "BY_VALUE_BYTES",
    "Launch",
    "any_refusal",
    "launch_any",
    "parts",
    "tiled_launch",
]

BY_VALUE_BYTES = 3072
"""Most weights that a call passes by value; with the rest of the argument they stay within the
4096 bytes that every device and driver takes."""
_MOST_BLOCKS = (1 << 31) - 1
_ANY_OUTER = 8
_DIVISOR = np.dtype([(name, np.uint32) for name in ("size", "multiplier", "shift", "unused")])
_NO_AXIS = Spatial(0, 0, 1, 1, low=0, taps=1, stride=1, dilation=1, boundary=0)
"""One kernel does for one to three axes, with such ones in front."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with its shape and its argument; only what changes from call to call is missing."""

    kernel: Kernel
    blocks: int
    threads: tuple[int, int]
    shared: int
    head: struct.Struct
    """What each call fills in, with which the argument begins."""
    rest: bytes
    """The argument behind it, up to the weights."""
    room: int = 0
    """Bytes for weights that are passed by value, at the end of the argument."""

    def __call__(self, *head: int, values: bytes = b"") -> None:
        """Run with these; the work is ordered on the current stream."""
        argument = self.head.pack(*head) + self.rest + values.ljust(self.room, b"\0")
        self.kernel(self.blocks, self.threads, self.shared, argument)

    def holding(self, values: bytes) -> Launch:
        """The launch with these weights, which calls need not bring any more."""
        return replace(self, rest=self.rest + values.ljust(self.room, b"\0"), room=0)

    def correlate(self, x: int, y: int, weights: int | bytes, *flags: int) -> None:
        """Run on the memory at these addresses; the weights may be passed themselves."""
        if isinstance(weights, bytes):
            self(x, y, 0, *flags, values=weights)
        else:
            self(x, y, weights, *flags)


ADDRESSES, _ADDRESSES_AND_FLAGS = struct.Struct("3Q"), struct.Struct("4Q")
"""Of x, y and the weights; and of flags."""


def any_fields(spatial: int, total: np.dtype[Any], filters: int) -> np.dtype[np.void]:
    """The struct Call of any.cu."""
    return record(
        [
            *((name, np.uint64, 0) for name in ("x", "y", "w", "skip")),
            ("outputs", np.int64, 0),
            ("x_channel", np.int64, 0),
            ("channels", np.int32, 0),
            ("outers", np.int32, 0),
            ("outer", OUTER, _ANY_OUTER),
            ("spatial", SPATIAL, spatial),
            ("order", np.int32, _ANY_OUTER + spatial),
            ("cval", total, 0),
            ("filter", total, max(filters, 1)),
        ]
    )


_EDGES = (
    "rows_in rows_out rows_low rows_boundary columns_in columns_out columns_low columns_boundary"
)


def _edges(part: Roles) -> dict[str, int]:
    """What lies in and beyond the two axes of a tile or a strip, by the names of its record."""
    axes = (part.rows, part.columns)
    values = [n for a in axes for n in (a.size, a.outputs, a.low, a.boundary)]
    return dict(zip(_EDGES.split(), values, strict=True))


def tiled_fields(total: np.dtype[Any], filters: int) -> np.dtype[np.void]:
    """The struct Call of tiled.cu."""
    counts = (
        f"{_EDGES} "
        "lanes channels slabs outers taps_h taps_w stride_h dilation_h m x_down y_down "
        "pitch tile_h tile_w tile_elements sources_at"
    )
    distances = "x_row x_column x_lane x_channel y_row y_column y_lane w_lane"
    return record(
        [
            *((name, np.uint64, 0) for name in ("x", "y", "w")),
            *((name, np.int64, 0) for name in distances.split()),
            *((name, np.int32, 0) for name in counts.split()),
            *((f"blocks_{name}", _DIVISOR, 0) for name in ("lane", "column", "row")),
            ("outer", OUTER, tiling.OUTER),
            ("deep", SPATIAL, tiling.DEEP),
            ("cval", total, 0),
            ("filter", total, max(filters, 1)),
        ]
    )


def strip_fields(total: np.dtype[Any], filters: int) -> np.dtype[np.void]:
    """The struct Call of strips.cu."""
    counts = f"{_EDGES} lanes positions parts strips rows outers"
    return record(
        [
            *((name, np.uint64, 0) for name in ("x", "y", "w")),
            *((name, np.int64, 0) for name in ["x_row", "x_lane", "y_row", "y_lane"]),
            *((name, np.int32, 0) for name in counts.split()),
            ("outer", OUTER, tiling.OUTER),
            ("cval", total, 0),
            ("filter", total, filters),
        ]
    )


def divisor(size: int) -> np.ndarray[Any, Any]:
    """What tiled.cu divides numbers below 2^31 by `size` with.

    >>> by = divisor(7)
    >>> [(n * int(by["multiplier"]) >> 32) >> int(by["shift"]) for n in (0, 6, 7, 2**31 - 1)]
    [0, 0, 1, 306783378]
    """
    bits = (size - 1).bit_length()
    return np.array(
        (size, (1 << 31 + bits) // size + 1 if bits else 0, max(bits - 1, 0), 0), _DIVISOR
    )


def parts(argument: np.ndarray[Any, Any], head: struct.Struct) -> tuple[struct.Struct, bytes, int]:
    """`head`, `rest` and `room` of a launch with this record, which ends with the weights."""
    fields: Any = argument.dtype.fields
    filters = fields["filter"][1]
    return head, argument.tobytes()[head.size : filters], argument.nbytes - filters


def any_refusal(geometry: Geometry) -> str | None:
    """Why the kernel for every problem cannot run this; None if it can."""
    if len(geometry.spatial) > _ANY_OUTER:
        return f"it has more than {_ANY_OUTER} convolved axes"
    return None


def launch_any(
    device: Device,
    geometry: Geometry,
    x_dtype: str,
    dtype: str,
    cval: Any,
    x: int,
    y: int,
    weights: int | bytes,
    skip: int = 0,
    mend: bool = False,
) -> None:
    """The correlation with one thread per output, by addresses on the current device.

    The weights, themselves or at their address, are (groups, outputs, channels, taps...), of
    `sum_dtype(dtype)`; `cval` is a scalar of it.  With `mend`, only results that are not finite
    are written, and none where the flag at `skip` is 0.  Batch axes that do not join, beyond those
    that the kernel has room for, are looped over.
    """
    looped: list[Outer] = []
    if len(geometry.outer) > _ANY_OUTER:
        by_size = sorted(geometry.outer, key=lambda a: a.size)
        looped = by_size[:-_ANY_OUTER]
        geometry = replace(geometry, outer=tuple(by_size[-_ANY_OUTER:]))
    by_value = isinstance(weights, bytes)
    launch = any_launch(device, geometry, x_dtype, dtype, cval, by_value, mend, device.number())
    for at in product(*(range(axis.size) for axis in looped)):
        moved = [
            sum(n * getattr(axis, name) for n, axis in zip(at, looped, strict=True))
            for name in ("x", "y", "w", "skip")
        ]
        before = moved[2] * sum_dtype(dtype).itemsize
        launch.correlate(
            x + moved[0] * itemsize(x_dtype),
            y + moved[1] * itemsize(dtype),
            weights[before:] if isinstance(weights, bytes) else weights + before,
            skip + moved[3],
        )


@functools.lru_cache(2048)
def any_launch(
    device: Device,
    geometry: Geometry,
    x_dtype: str,
    dtype: str,
    cval: Any,
    by_value: bool,
    mend: bool,
    where: int,
) -> Launch:
    """The launch of `launch_any` without a loop, on the device of number `where`."""
    total = sum_dtype(dtype)
    filters = BY_VALUE_BYTES // total.itemsize if by_value else 0
    axes = (_NO_AXIS,) * (3 - len(geometry.spatial)) + geometry.spatial
    distances = [abs(a.y) for a in geometry.outer] + [abs(a.y) for a in axes]
    order = sorted(range(len(distances)), key=distances.__getitem__)
    argument = filled(
        any_fields(len(axes), total, filters),
        outputs=geometry.outputs,
        x_channel=geometry.x_channel,
        channels=geometry.channels,
        outers=len(geometry.outer),
        outer=geometry.outer,
        spatial=axes,
        cval=cval,
    )
    argument["order"][: len(order)] = order
    constants = {"SPATIAL": len(axes), "FILTER": filters, "MEND": int(mend)}
    source = kernel_source("any", x_dtype, dtype, constants)
    # Most calls that mend find nothing to do: few blocks, which go on to the next outputs.
    most = 16 * device.processors() if mend else _MOST_BLOCKS
    blocks = min(-(-geometry.outputs // 256), most)
    kernel = device.kernel("any", source)
    return Launch(kernel, blocks, (256, 1), 0, *parts(argument, _ADDRESSES_AND_FLAGS))


@functools.lru_cache(2048)
def tiled_launch(
    device: Device,
    geometry: Geometry,
    x_dtype: str,
    dtype: str,
    cval: Any,
    filters: int,
    fixed: bool,
    where: int,
) -> Launch | None:
    """The correlation with a tile or a strip of outputs per block; None where none fits the device.

    `filters` is the number of weights that are passed by value, 0 if they are on the device.
    `fixed` allows a kernel that is compiled for these taps.  `where` numbers the device.
    """
    total = sum_dtype(dtype)
    part = tiling.roles(geometry)
    room = device.shared_bytes(), device.processors()
    tile = tiling.choose(part, total.itemsize, fixed, filters > 0, *room)
    if tile is None or math.prod(tile.blocks(part)) > _MOST_BLOCKS:
        return None
    strip = strips.choose(part, total.itemsize, *room) if fixed and filters else None
    if strip and strip[0] < tiling.cycles(part, tile, total.itemsize, *room):
        return strip_launch(device, part, strip[1], x_dtype, dtype, cval)
    if filters and not tile.fixed:
        filters = BY_VALUE_BYTES // total.itemsize
    argument = _tiled_argument(part, tile, total, cval, filters)
    source = kernel_source("tiled", x_dtype, dtype, constants(part, tile, filters))
    kernel = device.kernel("tiled", source)
    blocks = math.prod(tile.blocks(part))
    return Launch(kernel, blocks, tile.threads, tile.shared, *parts(argument, ADDRESSES))


def _tiled_argument(
    part: Roles, tile: Tile, total: np.dtype[Any], cval: Any, filters: int
) -> np.ndarray[Any, Any]:
    rows, columns = part.rows, part.columns
    lane = part.lane or Outer(1)
    blocks = tile.blocks(part)
    return filled(
        tiled_fields(total, filters),
        x_row=rows.x, x_column=columns.x, x_lane=lane.x, x_channel=part.x_channel,
        y_row=rows.y, y_column=columns.y, y_lane=lane.y, w_lane=lane.w,
        **_edges(part), stride_h=rows.stride, dilation_h=rows.dilation,
        lanes=lane.size, channels=part.channels, slabs=part.slabs,
        outers=len(part.outer), taps_h=rows.taps, taps_w=columns.taps,
        m=tile.m, x_down=part.x_down, y_down=part.y_down,
        pitch=tile.pitch, tile_h=tile.height, tile_w=tile.width, tile_elements=tile.elements,
        sources_at=tile.sources_at,
        blocks_lane=divisor(blocks[0]), blocks_column=divisor(blocks[1]),
        blocks_row=divisor(blocks[2]),
        outer=part.outer[::-1], deep=part.deep[::-1], cval=cval,
    )  # fmt: skip


def constants(part: Roles, tile: Tile, filters: int) -> dict[str, int | str]:
    """What is put in front of tiled.cu."""
    rows, columns = part.rows, part.columns
    literal: dict[str, int | str] = {
        "TAPS_H": rows.taps, "TAPS_W": columns.taps, "M": tile.m,
        "PITCH": tile.pitch, "TILE_H": tile.height, "TILE_W": tile.width,
        "SLABS": part.slabs, "STRIDE_H": rows.stride, "DILATION_H": rows.dilation,
        "ACROSS": tile.threads[0], "LINES": tile.lines,
        "THREADS": math.prod(tile.threads), "X_DOWN": int(part.x_down), "Y_DOWN": int(part.y_down),
    }  # fmt: skip
    in_call: dict[str, int | str] = {
        "TAPS_H": "call.taps_h", "TAPS_W": "call.taps_w", "M": "call.m" if part.lane else 1,
        "PITCH": "call.pitch", "TILE_H": "call.tile_h", "TILE_W": "call.tile_w",
        "SLABS": "call.slabs", "STRIDE_H": "call.stride_h", "DILATION_H": "call.dilation_h",
        "ACROSS": "blockDim.x", "LINES": "blockDim.y",
        "THREADS": 256, "X_DOWN": "call.x_down", "Y_DOWN": "call.y_down",
    }  # fmt: skip
    return (literal if tile.fixed else in_call) | {
        "RX": tile.rx, "RY": tile.ry,
        "STRIDE_W": columns.stride, "DILATION_W": columns.dilation,
        "CHUNK": tile.chunk, "PACKED": int(tile.packed), "WIDE": tile.wide,
        "UNROLL": int(tile.unrolled),
        "UNROLL_CHUNKS": min(-(-columns.taps // tile.chunk), 4) if tile.fixed else 1,
        "DEEPS": len(part.deep), "FILTER": filters, "STAGED": int(tile.staged),
        "W_LANES": int(bool(part.lane and part.lane.w)),
    }  # fmt: skip


def strip_launch(
    device: Device, part: Roles, strip: strips.Strip, x_dtype: str, dtype: str, cval: Any
) -> Launch:
    """The correlation of lanes with a strip of outputs per block."""
    rows, columns, lane = part.rows, part.columns, part.lane
    assert lane is not None
    total, filters = sum_dtype(dtype), rows.taps * columns.taps
    blocks = strip.blocks(part)
    argument = filled(
        strip_fields(total, filters),
        x_row=rows.x, x_lane=lane.x, y_row=rows.y, y_lane=lane.y,
        **_edges(part), lanes=lane.size, positions=strip.positions(part),
        parts=blocks[0], strips=blocks[1], rows=strip.rows,
        outers=len(part.outer), outer=part.outer[::-1], cval=cval,
    )  # fmt: skip
    source = kernel_source("strips", x_dtype, dtype, strip_constants(part, strip))
    kernel = device.kernel("strips", source)
    threads = strips.THREADS, 1
    return Launch(kernel, math.prod(blocks), threads, strip.shared, *parts(argument, ADDRESSES))


def strip_constants(part: Roles, strip: strips.Strip) -> dict[str, int | str]:
    """What is put in front of strips.cu."""
    rows, columns = part.rows, part.columns
    return {
        "TAPS_H": rows.taps, "TAPS_W": columns.taps, "RX": strip.rx,
        "STRIDE_W": columns.stride, "DILATION_W": columns.dilation,
        "THREADS": strips.THREADS, "FILTER": rows.taps * columns.taps,
        "X_COLUMN": f"{columns.x}LL", "Y_COLUMN": f"{columns.y}LL",
    }  # fmt: skip
