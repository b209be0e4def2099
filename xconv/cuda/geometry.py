"""A correlation as the kernels see it: sizes, and distances in memory counted in elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from ..problem import BOUNDARIES, Problem

__all__ = [
    "OUTER",
    "SPATIAL",
    "Geometry",
    "Outer",
    "Spatial",
    "filled",
    "geometry",
    "merged",
    "record",
    "spatial_axes",
]


@dataclass(frozen=True, slots=True)
class Outer:
    """An axis along which every index is its own problem: batch, groups, kernels of a bank."""

    size: int
    x: int = 0
    """Elements from one index to the next, as in all fields of this name."""
    y: int = 0
    w: int = 0
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Spatial:
    """A convolved axis."""

    x: int
    y: int
    size: int
    outputs: int
    low: int
    """Positions of the padding before the image."""
    taps: int
    stride: int
    dilation: int
    boundary: int
    """Index in BOUNDARIES."""

    def read(self, outputs: int) -> int:
        """Elements under so many neighbouring outputs."""
        return (outputs - 1) * self.stride + (self.taps - 1) * self.dilation + 1


OUTER = np.dtype([(name, np.int64) for name in ("size", "x", "y", "w", "skip")])
SPATIAL = np.dtype(
    [(name, np.int64) for name in ("x", "y", "size", "outputs", "low")]
    + [(name, np.int32) for name in ("taps", "stride", "dilation", "boundary")]
)
"""The structs of geometry.cuh."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Everything of a correlation but its dtypes, its pointers and its numbers."""

    outer: tuple[Outer, ...]
    spatial: tuple[Spatial, ...]
    channels: int = 1
    x_channel: int = 0

    @property
    def outputs(self) -> int:
        return math.prod(a.size for a in self.outer) * math.prod(a.outputs for a in self.spatial)

    @property
    def taps(self) -> int:
        return self.channels * math.prod(a.taps for a in self.spatial)


def geometry(
    problem: Problem,
    x_strides: Sequence[int],
    y_strides: Sequence[int],
    skip_strides: Sequence[int] = (),
) -> Geometry:
    """The problem on canonical views with these strides, counted in elements.

    Axes of `x` are (batch..., G, I, spatial...), of `y` (batch..., G, O, spatial...), of the
    flags (batch..., G); weights (G, O, I, taps...) are contiguous.
    """
    lead = len(problem.batch) + 1
    flags = tuple(skip_strides) or (0,) * lead
    taps = problem.taps
    sizes = (*problem.batch, problem.groups)
    outer = [
        Outer(n, x_strides[a], y_strides[a], taps * problem.outputs * (a == lead - 1), flags[a])
        for a, n in enumerate(sizes)
    ]
    outer.append(Outer(problem.outputs, 0, y_strides[lead], taps))
    spatial = spatial_axes(problem, x_strides[lead + 1 :], y_strides[lead + 1 :])
    return Geometry(merged(outer), spatial, problem.inputs, x_strides[lead])


def spatial_axes(
    problem: Problem, x_strides: Sequence[int], y_strides: Sequence[int]
) -> tuple[Spatial, ...]:
    """The convolved axes, with their strides."""
    boundary = BOUNDARIES.index(problem.boundary)
    return tuple(
        Spatial(x, y, size, out, low, kernel, stride, dilation, boundary)
        for x, y, size, out, (low, _), kernel, stride, dilation in zip(
            x_strides,
            y_strides,
            problem.size,
            problem.output,
            problem.padding,
            problem.kernel,
            problem.stride,
            problem.dilation,
            strict=True,
        )
    )


def merged(outer: Sequence[Outer]) -> tuple[Outer, ...]:
    """The axes without those of length 1, neighbours that make one axis joined."""
    found: list[Outer] = []
    for axis in outer:
        if axis.size == 1:
            continue
        if found and astuple(found[-1])[1:] == tuple(
            step * axis.size for step in astuple(axis)[1:]
        ):
            found[-1] = Outer(found[-1].size * axis.size, *astuple(axis)[1:])
        else:
            found.append(axis)
    return tuple(found)


def record(fields: Sequence[tuple[str, np.dtype[np.generic] | type, int]]) -> np.dtype[np.void]:
    """The dtype of a C++ struct with these fields: (name, dtype, length; 0 for a scalar).

    Complex numbers are aligned to their size, as in types.cuh, others as in C.
    """
    names, formats, offsets, at, widest = [], [], [], 0, 8
    for name, kind, length in fields:
        dtype = np.dtype(kind)
        alignment = 8 if dtype.names else dtype.itemsize
        widest = max(widest, alignment)
        at = -(-at // alignment) * alignment
        names.append(name)
        formats.append((dtype, (length,)) if length else dtype)
        offsets.append(at)
        at += dtype.itemsize * max(length, 1)
    size = -(-at // widest) * widest
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


def filled(fields: np.dtype[np.void], **values: Any) -> np.ndarray[Any, Any]:
    """A record with these values; axes are given as tuples of Outer or Spatial."""
    found = np.zeros((), fields)
    for name, value in values.items():
        if isinstance(value, tuple):
            for n, axis in enumerate(value):
                found[name][n] = astuple(axis)
        else:
            found[name] = value
    return found
