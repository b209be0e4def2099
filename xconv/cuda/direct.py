"""The direct rows of the CUDA backend: the tiled kernel, and the one for every problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..methods.base import Limits, Method
from ..problem import Axis, Problem, Work, itemsize
from . import tiling
from .device import Device
from .geometry import Geometry, geometry
from .launch import Launch, any_refusal, launch_any, tiled_launch
from .source import sum_dtype, supported
from .weights import Weights

__all__ = [
    "WORTH_COMPILING",
    "Again",
    "AnyDirect",
    "TiledDirect",
    "cval_of",
    "dtype_refusal",
    "kernel_refusal",
    "nominal",
    "nominal_steps",
    "run_any",
    "run_tiled",
    "steps",
]

WORTH_COMPILING = 1 << 22
"""Multiply-adds of one call from which its kernel is compiled for its taps: NVRTC takes some tenths
of a second for it, once, since the disk keeps it."""
_CALLS = 64
"""What smaller calls must do together, in the same unit."""
_SECTOR = 32
"""Bytes that are moved at once to memory."""


def steps(strides: Sequence[int], dtype: str, axes: Sequence[Axis]) -> tuple[int, ...]:
    """Elements from one index to the next along the canonical axes of a user's array."""
    item = itemsize(dtype)
    return tuple(0 if a.of < 0 else strides[a.of] // item * a.step for a in axes)


def nominal_steps(shape: Sequence[int], axes: Sequence[Axis]) -> tuple[int, ...]:
    """`steps` of a contiguous array."""
    return tuple(0 if a.of < 0 else math.prod(shape[a.of + 1 :]) * a.step for a in axes)


@lru_cache(512)
def nominal(problem: Problem) -> Geometry:
    """The geometry of contiguous arrays, to ask before there are any."""
    shapes = (problem.x_shape, problem.x_axes), (problem.y_shape, problem.y_axes)
    return geometry(problem, *(nominal_steps(*of_one) for of_one in shapes))


_geometry = lru_cache(2048)(geometry)


@lru_cache(512)
def cval_of(problem: Problem) -> Any:
    """`cval` as the kernels sum it."""
    with np.errstate(all="ignore"):
        value = np.asarray(problem.cval).astype(problem.dtype)
        return value.astype(sum_dtype(problem.dtype))[()]


def run_any(
    device: Device,
    problem: Problem,
    weights: Weights,
    x: Any,
    y: Any,
    safe: Any = None,
    mend: bool = False,
) -> None:
    """Launch one thread per output on the user's arrays, which are the device's.

    Entries (batch..., G) of which the array `safe` holds 1 are left as they are.  With `mend` it
    holds one flag: if that is set, results that are not finite are summed, no others.
    """
    where = _geometry(
        problem,
        steps(x.strides, problem.x_dtype, problem.x_axes),
        steps(y.strides, problem.dtype, problem.y_axes),
        () if safe is None or mend else tuple(safe.strides),
    )
    launch_any(
        device,
        where,
        problem.x_dtype,
        problem.dtype,
        cval_of(problem),
        device.pointer(x),
        device.pointer(y),
        weights.given(device),
        0 if safe is None else device.pointer(safe),
        mend,
    )


def run_tiled(device: Device, problem: Problem, weights: Weights, x: Any, y: Any) -> bool:
    """Launch the tiled kernel; False where these strides or this device do not suit it."""
    number = device.number()
    tiled = _tiled(device, problem, weights.by_value, number, x.strides, y.strides)
    launch, given = tiled(), weights.given(device)
    if launch is None:
        return False
    launch.correlate(device.pointer(x), device.pointer(y), given)
    repeated = launch.holding(given) if isinstance(given, bytes) else launch
    address = None if isinstance(given, bytes) else Weights.given
    still = None if tiled.settled else lambda: tiled() is launch
    weights.again = Again(repeated, problem, x.strides, y.strides, number, address, still=still)
    return True


@dataclass(frozen=True, slots=True)
class Again:
    """The launch of a call, to be repeated for arrays that lie alike in the same device."""

    launch: Launch
    """With the weights, where they are passed by value."""
    problem: Problem
    x_strides: tuple[int, ...]
    y_strides: tuple[int, ...]
    number: int
    address: Callable[[Weights, Device], Any] | None = None
    """Else where they are on this device."""
    alignment: int = 1
    """Bytes on which `x` must begin, if they are more than its element's."""
    still: Callable[[], bool] | None = None
    """Whether it is still the launch of such calls; None where it always will be."""

    def __call__(self, device: Device, problem: Problem, weights: Weights, x: Any, y: Any) -> bool:
        """Launch it; False where these arrays are others, or a part of a larger problem's."""
        if not (
            problem is self.problem
            and device.owns(x)
            and device.owns(y)
            and x.strides == self.x_strides
            and y.strides == self.y_strides
            and device.holds(x) == self.number
        ):
            return False
        at_x = device.pointer(x)
        if at_x % max(x.dtype.itemsize, self.alignment) or (self.still and not self.still()):
            return False
        at_weights = self.address(weights, device) if self.address else 0
        self.launch(at_x, device.pointer(y), at_weights)
        return True


class _Tiled:
    """The launch for arrays of these strides, and so many weights passed by value.

    Its kernel serves all taps at first, and is compiled for these when they have been used much.
    """

    def __init__(
        self,
        device: Device,
        problem: Problem,
        by_value: int,
        number: int,
        x_strides: tuple[int, ...],
        y_strides: tuple[int, ...],
    ) -> None:
        where = geometry(
            problem,
            steps(x_strides, problem.x_dtype, problem.x_axes),
            steps(y_strides, problem.dtype, problem.y_axes),
        )
        self._make: Callable[[bool], Launch | None] = lambda fixed: tiled_launch(
            device, where, problem.x_dtype, problem.dtype, cval_of(problem), by_value, fixed, number
        )
        self._work = where.outputs * where.taps
        enough = 0 if self._work >= WORTH_COMPILING else _CALLS * WORTH_COMPILING
        self._left = enough if device.specialise else math.inf
        self._launch: Launch | None = None
        self.settled = tiling.refusal(where) is not None
        """Whether the launch will be the same from now on."""

    def __call__(self) -> Launch | None:
        """The launch of the next call; None where the tiled kernel does not suit it."""
        if not self.settled:
            self._left -= self._work
            self.settled = self._left <= 0
            if self.settled or self._launch is None:
                self._launch = self._make(self.settled)
        return self._launch


_tiled = lru_cache(2048)(_Tiled)


def dtype_refusal(problem: Problem) -> str | None:
    """Why no CUDA device computes with these dtypes; None if they do."""
    for dtype in (problem.x_dtype, problem.dtype):
        if not supported(dtype):
            instead = "complex128" if dtype.startswith("complex") else "float64"
            return f"CUDA devices have no {dtype}; convert x and the kernel to {instead} first"
    return None


def kernel_refusal(problem: Problem) -> str | None:
    """Why none of our kernels can run the problem; None if one can."""
    return dtype_refusal(problem) or any_refusal(nominal(problem))


class AnyDirect(Method):
    """One thread per output, which takes every problem."""

    name = "direct"
    variant = "one thread per output"
    on_user_axes = True
    rate = "any"

    def refuses(self, problem: Problem) -> str | None:
        return kernel_refusal(problem)

    def rounding(self, problem: Problem) -> float:
        return problem.taps + 2.0

    def work(self, problem: Problem, limits: Limits, facts: Any = None) -> Work:
        read = math.prod(problem.x_shape) * itemsize(problem.x_dtype)
        return Work(
            amounts=(
                (f"{self.rate}.{problem.accumulator}", self.products(problem)),
                ("memory", float(read + self.written(problem))),
                ("calls", 1.0),
            ),
            kept=self.weights(problem) * sum_dtype(problem.dtype).itemsize,
            note=self.variant,
        )

    def weights(self, problem: Problem) -> int:
        """How many numbers a plan keeps."""
        return math.prod(problem.k_shape)

    def written(self, problem: Problem) -> int:
        """Bytes of the result, and those that are moved with them."""
        return math.prod(problem.y_shape) * itemsize(problem.dtype)

    def products(self, problem: Problem) -> float:
        """Multiply-adds, or what else the rate counts."""
        return float(math.prod(problem.y_shape) * problem.taps)

    def run(
        self,
        backend: Any,
        problem: Problem,
        state: Weights,
        x: Any,
        y: Any,
        limits: Limits,
    ) -> Any:
        if state.again and state.again(backend.device, problem, state, x, y):
            return y
        with backend.session(x, y) as (source, target):
            if 0 not in problem.y_shape:
                self.launch(backend.device, problem, state, source, target)
        return backend.given_back(y, x)

    def launch(self, device: Device, problem: Problem, weights: Weights, x: Any, y: Any) -> None:
        run_any(device, problem, weights, x, y)


class TiledDirect(AnyDirect):
    variant = "tiles in shared memory"
    rate = "direct"

    def refuses(self, problem: Problem) -> str | None:
        return kernel_refusal(problem) or tiling.refusal(nominal(problem))

    def products(self, problem: Problem) -> float:
        found = super().products(problem)
        if problem.inputs == 1 or problem.outputs == 1:
            return found
        # Each output reads all channels again: layers of 64 channels took as long as so many times
        # their products, on an H100 (2026-11-26), where these are neighbours in memory or are not.
        where = nominal(problem)
        near = where.x_channel < min(axis.x for axis in where.spatial)
        return (14.0 if near else 6.0) * found

    def written(self, problem: Problem) -> int:
        found = super().written(problem)
        if nominal_steps(problem.y_shape, problem.y_axes)[len(problem.batch) + 1] != 1:
            return found
        # Outputs of one position lie together, and each is written by a tile of its own.
        return found * max(min(problem.outputs, _SECTOR // itemsize(problem.dtype)), 1)

    def launch(self, device: Device, problem: Problem, weights: Weights, x: Any, y: Any) -> None:
        if not run_tiled(device, problem, weights, x, y):
            run_any(device, problem, weights, x, y)
