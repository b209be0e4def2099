"""What is to be computed, without any array: the one form that all methods work on.

Whatever letters the user wrote, a problem is a batch of grouped correlations::

    y[b, g, o, p] = sum over i, t of  xp[b, g, i, p*stride + t*dilation] * w[g, o, i, t]

with `b` the batch axes, `g` the groups, `i` the summed input channels, `o` the kernels of a
bank, `p` the output position and `t` the tap (both with one component per spatial axis), `xp`
the image continued beyond its edges by `padding` and `boundary`, and `w` the kernel, reversed
on its spatial axes for a convolution and conjugated for a correlation.  A plain filter has
G = I = O = 1; a kernel per channel has G = C; a bank has O > 1; a CNN layer has I > 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["BOUNDARIES", "Axis", "Problem", "Work", "itemsize", "part_of_batch"]

BOUNDARIES = ("constant", "reflect", "mirror", "nearest", "wrap")
"""`scipy.ndimage`'s names, in the order that compiled kernels number them."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the canonical form as a piece of one of the user's axes.

    Element i of it lies `i * step` elements along axis `of` of the user's array; `of` is -1
    for an axis of length 1 that the user's array does not have.
    """

    size: int
    of: int
    step: int = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """A convolution that has been checked: shapes, dtypes and options, no array.

    Dtypes are names ("float32").  `x_axes` runs over (batch..., G, I, spatial...), `k_axes`
    over (G, O, I, spatial...), `y_axes` over (batch..., G, O, spatial...).
    """

    op: str
    """"convolve" or "correlate"."""
    x_shape: tuple[int, ...]
    k_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    x_dtype: str
    k_dtype: str
    dtype: str
    """Of the result; `x` and the kernel are converted to it before any arithmetic."""
    x_axes: tuple[Axis, ...]
    k_axes: tuple[Axis, ...]
    y_axes: tuple[Axis, ...]
    spatial: int
    """How many axes are convolved."""
    padding: tuple[tuple[int, int], ...]
    boundary: str
    """One of BOUNDARIES."""
    cval: complex | float | int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    # Derived once, since every method asks for them.
    batch: tuple[int, ...] = field(init=False, compare=False)
    groups: int = field(init=False, compare=False)
    inputs: int = field(init=False, compare=False)
    """Summed channels of one group."""
    outputs: int = field(init=False, compare=False)
    """Kernels of one group."""
    size: tuple[int, ...] = field(init=False, compare=False)
    """Spatial extent of the input."""
    kernel: tuple[int, ...] = field(init=False, compare=False)
    """Taps per spatial axis."""
    extent: tuple[int, ...] = field(init=False, compare=False)
    """Spatial extent of the dilated kernel, (K - 1) * dilation + 1."""
    output: tuple[int, ...] = field(init=False, compare=False)
    """Spatial extent of the result."""
    views: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = field(init=False, compare=False)
    """How `x`, the kernel and the result become canonical views: order of axes, then shape."""

    key: int = field(init=False, compare=False, repr=False)
    """The hash, which caches of what depends on a problem ask for at every call."""

    def __post_init__(self) -> None:
        derive: dict[str, Any] = {
            "batch": tuple(a.size for a in self.x_axes[: -self.spatial - 2]),
            "groups": self.x_axes[-self.spatial - 2].size,
            "inputs": self.x_axes[-self.spatial - 1].size,
            "outputs": self.k_axes[1].size,
            "size": tuple(a.size for a in self.x_axes[-self.spatial :]),
            "kernel": tuple(a.size for a in self.k_axes[-self.spatial :]),
            "output": tuple(a.size for a in self.y_axes[-self.spatial :]),
            "views": tuple(
                (
                    tuple(dict.fromkeys(a.of for a in axes if a.of >= 0)),
                    tuple(a.size for a in axes),
                )
                for axes in (self.x_axes, self.k_axes, self.y_axes)
            ),
        }
        derive["extent"] = tuple(
            (k - 1) * d + 1 for k, d in zip(derive["kernel"], self.dilation, strict=True)
        )
        derive["key"] = hash(
            (
                self.op, self.x_axes, self.k_axes, self.y_axes, self.x_dtype, self.dtype,
                self.padding, self.boundary, self.stride, self.dilation,
            )
        )  # fmt: skip
        for name, value in derive.items():
            object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        return self.key

    @property
    def taps(self) -> int:
        """Products summed into one output, channels included."""
        return self.inputs * math.prod(self.kernel)

    @property
    def entries(self) -> int:
        """Independent images: the product of the batch axes and the groups."""
        return math.prod(self.batch) * self.groups

    @property
    def accumulator(self) -> str:
        """The dtype in which products are summed: the result's, but float32 for halves."""
        return "float32" if self.dtype in ("float16", "bfloat16") else self.dtype


def part_of_batch(problem: Problem, axis: int, size: int) -> Problem:
    """The problem for `size` entries of one batch axis instead of all."""

    def cut(
        shape: tuple[int, ...], axes: tuple[Axis, ...]
    ) -> tuple[tuple[int, ...], tuple[Axis, ...]]:
        of = axes[axis].of
        return (
            (*shape[:of], size, *shape[of + 1 :]),
            (*axes[:axis], replace(axes[axis], size=size), *axes[axis + 1 :]),
        )

    x_shape, x_axes = cut(problem.x_shape, problem.x_axes)
    y_shape, y_axes = cut(problem.y_shape, problem.y_axes)
    return replace(problem, x_shape=x_shape, x_axes=x_axes, y_shape=y_shape, y_axes=y_axes)


@dataclass(frozen=True, slots=True)
class Work:
    """What a method would do: amounts per named rate of the machine, and its scratch.

    `amounts` pairs a rate's name with a number of its units, e.g. ("direct.float32", 1.2e9)
    for 1.2e9 multiply-adds; `cost.seconds` divides by the machine's rates.  `serial` names
    the part that more workers do not speed up.
    """

    amounts: tuple[tuple[str, float], ...]
    serial: tuple[tuple[str, float], ...] = ()
    scratch: int = 0
    """Bytes beyond `x`, the kernel and the result, all workers together."""
    kept: int = 0
    """Bytes a plan keeps between calls."""
    note: str = ""
    """What `explain` prints beside the figures, e.g. "rank 1" or "tiles of 256x256"."""


_ITEMSIZE = {"bool": 1, "float128": 16, "complex64": 8, "complex128": 16, "complex256": 32}


def itemsize(dtype: str) -> int:
    """Bytes of one element of the dtype named.

    >>> itemsize("float32"), itemsize("complex64"), itemsize("bool")
    (4, 8, 1)
    """
    return _ITEMSIZE.get(dtype) or int(dtype.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8
