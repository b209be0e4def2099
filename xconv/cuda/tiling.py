"""How a correlation is laid out on the tiled kernel: which axis plays which part, and the tile."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from .geometry import Geometry, Outer, Spatial

__all__ = ["Roles", "Tile", "choose", "cycles", "refusal", "roles"]

OUTER, DEEP = 8, 4
"""Most axes of each part that the kernel has room for."""
_LARGEST = 1 << 30
"""Positions along rows and columns are 32-bit."""
_UNROLLED = 4096
"""Multiply-adds that may be written out: more leaves the instruction cache."""
_CHUNK = 16
"""Most taps of a row that are read at a time."""
_ONE_ROW = Spatial(0, 0, 1, 1, low=0, taps=1, stride=1, dilation=1, boundary=0)


@dataclass(frozen=True, slots=True)
class Roles:
    """Which axis is walked how; see tiled.cu."""

    columns: Spatial
    rows: Spatial
    lane: Outer | None
    """Interleaved with the columns, since its elements are neighbours in memory."""
    deep: tuple[Spatial, ...]
    outer: tuple[Outer, ...]
    channels: int
    x_channel: int

    @property
    def x_down(self) -> bool:
        """Whether rows, not columns, are neighbours in the memory of `x`."""
        return self.lane is None and 0 < abs(self.rows.x) < abs(self.columns.x)

    @property
    def y_down(self) -> bool:
        return self.lane is None and 0 < abs(self.rows.y) < abs(self.columns.y)

    @property
    def slabs(self) -> int:
        return self.channels * math.prod(a.taps for a in self.deep)


def roles(geometry: Geometry) -> Roles:
    """The part of each axis: threads that follow each other read neighbours in memory."""
    *deep, columns = geometry.spatial
    outer = list(geometry.outer)
    near = [a for a in outer if a.x and abs(a.x) < abs(columns.x)]
    lane = min(near, key=lambda a: abs(a.x), default=None)
    if lane and not (deep and 0 < abs(deep[-1].x) < abs(lane.x)):
        outer.remove(lane)
    else:
        lane = None
    rows = _ONE_ROW
    if deep:
        rows = deep.pop()
    else:
        batch = [a for a in outer if not a.w and a.x and a.size < _LARGEST]
        if batch:
            row = max(batch, key=lambda a: a.size)
            outer.remove(row)
            rows = Spatial(row.x, row.y, row.size, row.size, 0, 1, 1, 1, 0)
    return Roles(
        columns, rows, lane, tuple(deep), tuple(outer), geometry.channels, geometry.x_channel
    )


def refusal(geometry: Geometry) -> str | None:
    """Why the tiled kernel cannot run this, in words; None if it can."""
    column = geometry.spatial[-1]
    if len(geometry.outer) > OUTER or len(geometry.spatial) > DEEP + 2:
        return "it has more axes than the tiled kernel has room for"
    if max(max(a.size, a.outputs * a.stride + a.low) for a in geometry.spatial) >= _LARGEST:
        return "an axis is longer than the tiled kernel counts"
    if column.stride > 4 or column.dilation > 4:
        return "stride or dilation along the last axis is wider than the register window"
    if geometry.taps >= _LARGEST or max((a.size for a in geometry.outer), default=0) >= _LARGEST:
        return "an axis is longer than the tiled kernel counts"
    return None


@dataclass(frozen=True, slots=True)
class Tile:
    """The shape of a block and what it is compiled for."""

    fixed: bool
    """Whether taps, lanes and pitch are literals in the kernel."""
    unrolled: bool
    """Whether the kernel is written out for all taps, not for those of one row."""
    staged: bool
    """Whether taps go through shared memory."""
    rx: int
    ry: int
    """Outputs of one thread along columns and rows."""
    chunk: int
    packed: bool
    wide: int
    """Lanes that may be copied at once."""
    m: int
    groups: int
    """Threads along the columns of one lane."""
    lines: int
    """Threads along the rows."""
    height: int
    width: int
    pitch: int
    elements: int
    """Of the input under a tile, in shared memory; the taps follow."""
    sources_at: int
    """Where the table of sources follows, in bytes."""
    shared: int
    """Bytes of all three."""

    @property
    def threads(self) -> tuple[int, int]:
        return self.groups * self.m, self.lines

    def blocks(self, part: Roles) -> tuple[int, int, int, int]:
        """Along lanes, columns and rows, and of the other axes together."""
        return (
            -(-(part.lane.size if part.lane else 1) // self.m),
            -(-part.columns.outputs // (self.groups * self.rx)),
            -(-part.rows.outputs // (self.lines * self.ry)),
            math.prod(a.outputs for a in part.deep) * math.prod(a.size for a in part.outer),
        )


@functools.lru_cache(1024)
def choose(
    part: Roles, itemsize: int, fixed: bool, by_value: bool, shared: int, processors: int
) -> Tile | None:
    """The tile with the least cost; None where the smallest needs more shared memory.

    `itemsize` is that of the sums, `fixed` whether the kernel is compiled for these taps,
    `by_value` whether they are passed with the call, and `shared` what a block may use.
    """
    best: tuple[float, Tile] | None = None
    for outputs in _outputs(part, itemsize, fixed):
        products = math.prod(outputs) * part.rows.taps * part.columns.taps
        unrolled = fixed and part.columns.taps <= _CHUNK and products <= _UNROLLED
        if unrolled and math.prod(outputs) * itemsize > 128:
            continue  # more sums were never the fastest; they leave registers for few threads
        for shape in _shapes(part, *outputs):
            tile = _tile(part, itemsize, fixed, unrolled, by_value, outputs, shape)
            if tile.shared > shared:
                continue
            cost = cycles(part, tile, itemsize, shared, processors)
            if best is None or cost < best[0]:
                best = cost, tile
    return best[1] if best else None


def _outputs(part: Roles, itemsize: int, fixed: bool) -> Iterator[tuple[int, int]]:
    """Outputs of one thread along columns and rows; few where a kernel serves many problems."""
    pack = max(16 // itemsize, 1)  # which is read at once, where there are no lanes
    rows = 8 if part.rows.outputs > 5 else 4 if part.rows.outputs > 1 else 1
    if fixed:
        for ry in (1, 2, 4, 8):
            if ry <= rows:
                yield pack, ry
                yield 2 * pack, ry
    elif part.lane:
        yield pack + pack // 2, rows
    else:
        yield pack * (2 if rows == 1 and itemsize < 16 else 1), rows


def _shapes(part: Roles, rx: int, ry: int) -> Iterator[tuple[int, int, int]]:
    """(lanes, groups, lines) of at most 256 threads, none of them idle altogether."""
    if part.lane:
        size = part.lane.size
        least = -(-size // 64)
        shares = {-(-size // n) for n in range(least, max(4 * least, 8) + 1)}
        lanes = {m for m in shares if size % m == 0}  # that leave no lane of a tile idle
        if len(lanes) < 3:
            lanes |= shares
        sizes: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64)
    else:  # powers of two, which tiled.cu counts on where rows are neighbours in memory
        lanes, sizes = {1}, (1, 2, 4, 8, 16, 32, 64, 128, 256)
    for m in sorted(lanes, reverse=True):
        for groups in sizes:
            if groups > 1 and groups // 2 * rx >= part.columns.outputs:
                break
            for lines in (1, 2, 4, 8, 16, 32):
                if lines > 1 and lines // 2 * ry >= part.rows.outputs:
                    break
                if m * groups * lines <= 256:
                    yield m, groups, lines


def _tile(
    part: Roles,
    itemsize: int,
    fixed: bool,
    unrolled: bool,
    by_value: bool,
    outputs: tuple[int, int],
    shape: tuple[int, int, int],
) -> Tile:
    (rx, ry), (m, groups, lines) = outputs, shape
    columns, rows = part.columns, part.rows
    chunk = 8 if columns.stride + columns.dilation <= 4 else 4
    if fixed:
        chunk = min(columns.taps, _CHUNK)
    chunks = -(-columns.taps // chunk)
    packed = m == 1 and part.lane is None and (chunks == 1 or chunk * columns.dilation % rx == 0)
    window = (rx - 1) * columns.stride + (chunk - 1) * columns.dilation + 1
    last = (
        (groups - 1) * rx * columns.stride * m
        + (chunks - 1) * chunk * columns.dilation * m
        + (-(-window // rx) * rx if packed else window * m)
    )
    height, width = rows.read(lines * ry), columns.read(groups * rx) * m
    pitch = -(-max(last, width, groups * rx * m) // rx) * rx
    per_pack = max(16 // itemsize, 1)
    in_row = chunks * (-(-chunk // per_pack) * per_pack)
    each_lane = part.lane is not None and part.lane.w != 0
    staged = not (unrolled and by_value) or each_lane
    taps = rows.taps * (columns.taps * m if each_lane else in_row) if staged else 0
    tile = -(-height * pitch * itemsize // 32) * 32
    sources = -(-(tile + taps * itemsize) // 32) * 32
    return Tile(
        fixed, unrolled, staged, rx, ry, chunk, packed,
        math.gcd(m, per_pack, pitch) if fixed else 1, m, groups, lines, height, width, pitch,
        elements=tile // itemsize, sources_at=sources, shared=sources + 8 * (width + height),
    )  # fmt: skip


def cycles(part: Roles, tile: Tile, itemsize: int, shared: int, processors: int) -> float:
    """Cycles of the busiest processor, about.

    Counted are a thread's instructions, wavefronts of shared memory, the time that one thread
    takes where there are few, and bytes moved.  The weights were fitted to 1,511 kernels timed on
    an H200 (2026-11-26): the cheapest by this figure took 1.06 times as long as the fastest, in the
    mean of 46 problems.
    """
    rows, columns, words = part.rows, part.columns, itemsize / 4
    threads = math.prod(tile.threads)
    warps = -(-threads // 32)
    outputs = tile.rx * tile.ry
    chunk = min(tile.chunk, columns.taps)
    chunks = -(-columns.taps // tile.chunk)
    window = (tile.rx - 1) * columns.stride + (chunk - 1) * columns.dilation + 1
    packed = -(-window // tile.rx) * tile.rx
    lines = rows.read(tile.ry) * chunks
    windows = lines * (packed * itemsize / 16 if tile.packed else window)
    taps = tile.ry * rows.taps * chunks * -(-chunk * itemsize // 16) if tile.staged else 0
    products = float(outputs * rows.taps * columns.taps)
    if tile.unrolled:  # much code leaves the instruction cache
        products *= 1 + 4e-5 * max(products - 2640, 0)
    copied = tile.height * tile.width / threads
    wide = tile.wide if part.lane and part.lane.size % tile.wide == 0 else 1
    copies = copied * (2.6 * words if tile.packed else 7.6 / wide)
    sums = products * {8: 1.9, 16: 4}.get(itemsize, 1) + 1.1 * windows + 0.7 * taps
    instructions = part.slabs * (sums + copies) + 1.7 * outputs + 480
    read = windows * (4 if tile.packed else words) + taps + copied * words
    wavefronts = 1.5 * (part.slabs * read + 2 * outputs * words)

    registers = 8 * math.ceil(min(1.54 * (outputs + packed) * words + 16, 255) / 8)
    resident = min(
        shared // (tile.shared + 1024), (1 << 16) // (registers * 32 * warps), 64 // warps, 32
    )
    blocks = math.prod(tile.blocks(part))
    resident = max(min(resident, -(-blocks // processors)), 1)

    def wave(blocks: int) -> float:
        each = max(instructions / 4, wavefronts) * warps
        return max(blocks * each, 5.45 * instructions) + 84

    full, rest = divmod(blocks, processors * resident)
    busy = full * wave(resident) + (wave(-(-rest // processors)) if rest else 0.0)
    runs = 1  # in memory, of each row of the tile
    if part.lane and tile.m < part.lane.size:
        runs = tile.width // tile.m
    sectors = tile.height * runs * (math.ceil(tile.width // runs * itemsize / 32) + 0.9)
    moved = blocks * (32 * sectors * part.slabs + threads * outputs * itemsize) / 11.5 / processors
    return max(busy, moved) + 0.75 * min(busy, moved)
