"""Correlations of lanes on the kernel that goes down the rows: the shape of its strips."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from .tiling import OUTER, Roles

__all__ = ["THREADS", "Strip", "choose"]

THREADS = 128
_MOST = 1 << 30
"""Threads of a row of strips, and blocks, are 32-bit."""
_LEAST_LANES = 16
"""Neighbours in memory below which a warp's reads are scattered."""


@dataclass(frozen=True, slots=True)
class Strip:
    """The shape of a block and what it is compiled for; see strips.cu."""

    rx: int
    """Columns of outputs of a thread."""
    rows: int
    """Rows of outputs of a block."""
    window: int
    """Columns under the outputs of a thread."""
    height: int
    """Rows under those of a block."""

    @property
    def shared(self) -> int:
        """Bytes for where rows and columns lie, which strips at an edge look up."""
        return 4 * (self.height + self.window * THREADS)

    def positions(self, part: Roles) -> int:
        """Threads that have work, of each row of strips."""
        assert part.lane is not None
        return part.lane.size * -(-part.columns.outputs // self.rx)

    def blocks(self, part: Roles) -> tuple[int, int, int]:
        """Along positions and rows, and of the other axes together."""
        return (
            -(-self.positions(part) // THREADS),
            -(-part.rows.outputs // self.rows),
            math.prod(a.size for a in part.outer),
        )


def _suits(part: Roles) -> bool:
    """Whether the kernel can run this: one filter over two axes, lanes that are neighbours."""
    lane, rows = part.lane, part.rows
    return (
        lane is not None
        and lane.size >= _LEAST_LANES
        and not (lane.w or part.deep or any(a.w for a in part.outer))
        and part.channels == 1
        and rows.taps > 1
        and rows.stride == rows.dilation == 1
        and len(part.outer) <= OUTER
    )


@functools.lru_cache(1024)
def choose(part: Roles, itemsize: int, shared: int, processors: int) -> tuple[float, Strip] | None:
    """The strip with the least cost, in the unit of `tiling.cycles`; None where none suits.

    `itemsize` is that of the sums, and `shared` what a block may use.
    """
    found = [
        (_cycles(part, strip, itemsize, shared, processors), strip)
        for strip in (_strips(part, itemsize) if _suits(part) else ())
        if strip.shared <= shared
        and strip.positions(part) < _MOST
        and math.prod(strip.blocks(part)) < _MOST
    ]
    return min(found, key=lambda pair: pair[0], default=None)


def _strips(part: Roles, itemsize: int) -> Iterator[Strip]:
    rows, columns = part.rows, part.columns
    for rx in (2, 4, 8):
        window = (rx - 1) * columns.stride + (columns.taps - 1) * columns.dilation + 1
        if (rows.taps * rx + 2 * window) * itemsize > 680:
            continue  # a thread has 255 registers
        heights = {-(-rows.outputs // n) for n in range(1, 65)}
        for height in heights:
            yield Strip(rx, height, window, height + rows.taps - 1)


def _cycles(part: Roles, strip: Strip, itemsize: int, shared: int, processors: int) -> float:
    """Cycles of the busiest processor, about.

    Counted are instructions, the time in which a row arrives where there are few threads to hide
    it, and bytes moved.  The weights were fitted to 2,240 strips timed on an H100 (2026-11-26):
    the cheapest by this figure took 1.06 times as long as the fastest, in the mean of 32 problems.
    """
    taps = part.rows.taps * part.columns.taps
    words = itemsize / 4
    products = strip.rx * taps * {8: 1.8, 16: 4}.get(itemsize, 1)
    of_row = products + 2 * strip.rx + 0.3 * taps + 12
    registers = 1.2 * words * (part.rows.taps * strip.rx + 2 * strip.window) + 14
    registers = 8 * math.ceil(min(max(registers, 32), 255) / 8)
    resident = min((1 << 16) // (registers * THREADS), 16, shared // (strip.shared + 1024))
    each = -(-math.prod(strip.blocks(part)) // processors)
    waves = -(-each // max(resident, 1))
    busy = _longer(each * of_row / 0.9, waves * (730 + of_row)) * strip.height + 7300 * waves
    moved = each * (strip.rows + strip.height) * strip.rx * THREADS * itemsize / 9.4
    # Those of tiles were fitted to another unit.
    return (_longer(busy, moved) + 1500) * (1.4 if itemsize < 8 else 1.9)


def _longer(a: float, b: float) -> float:
    """The longer of two times that pass together; a little more where they are about the same."""
    return float((a**4 + b**4) ** 0.25)
