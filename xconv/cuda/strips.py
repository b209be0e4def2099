"""Correlations of lanes on the kernel that goes down the rows: the shape of its strips."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .tiling import OUTER, Roles

__all__ = ["THREADS", "Strip", "candidates", "suits"]

THREADS = 128
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
        return 8 * (self.height + self.window * THREADS)

    def positions(self, part: Roles) -> int:
        assert part.lane is not None
        return part.lane.size * -(-part.columns.outputs // self.rx)

    def blocks(self, part: Roles) -> tuple[int, int, int]:
        """Along positions and rows, and of the other axes together."""
        return (
            -(-self.positions(part) // THREADS),
            -(-part.rows.outputs // self.rows),
            math.prod(a.size for a in part.outer),
        )


def suits(part: Roles) -> bool:
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


def candidates(part: Roles, itemsize: int) -> Iterator[Strip]:
    rows, columns = part.rows, part.columns
    for rx in (2, 4, 8):
        window = (rx - 1) * columns.stride + (columns.taps - 1) * columns.dilation + 1
        if (rows.taps * rx + 2 * window) * itemsize / 4 > 170:
            continue
        seen = set()
        for strips in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
            height = -(-rows.outputs // strips)
            if height in seen or (height < rows.taps and strips > 1):
                continue
            seen.add(height)
            yield Strip(rx, height, window, height + rows.taps - 1)
