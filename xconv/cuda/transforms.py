"""FFT, separable and array-operation rows of the CUDA backend.

The FFT is `fourier`'s; the other methods of xconv.methods run as they are, on canonical views.
What they would ask the device for, whether an image holds values that the passes would spread, is
answered there: a kernel that skips the other images computes such ones directly, so that no stream
is waited for.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..layout import view
from ..methods.base import Block, Limits, Method
from ..methods.direct import Direct
from ..methods.fft import FFT
from ..methods.separable import Separable
from ..problem import Problem, Work, itemsize
from . import blocks, fourier, passes, planes, tiling
from .direct import dtype_refusal, kernel_refusal, run_any
from .geometry import Geometry, Outer, Spatial, merged
from .launch import launch_any, tiled_launch
from .source import sum_dtype
from .weights import Weights

if TYPE_CHECKING:
    from ..backends.cuda import CUDABackend

__all__ = ["ArrayDirect", "CuFFT", "SeparablePasses"]


class _OnViews(Method):
    """A method of xconv.methods, mixed in behind this one."""

    on_user_axes = True

    def refuses(self, problem: Problem) -> str | None:
        if "bfloat16" in (problem.x_dtype, problem.dtype):
            return "CuPy has no array operations of bfloat16 for it"
        return dtype_refusal(problem) or super().refuses(problem)

    def prepare(
        self,
        backend: Any,
        problem: Problem,
        weights: Any,
        facts: Any,
        limits: Limits,
    ) -> Any:
        return weights, facts

    def run(
        self,
        backend: Any,
        problem: Problem,
        state: Any,
        x: Any,
        y: Any,
        limits: Limits,
    ) -> Any:
        weights, facts = state
        device = backend.device
        with backend.session(x, y) as (source, target):
            if 0 not in problem.y_shape:
                held = weights.kept(
                    device,
                    self.name,
                    lambda array: super(_OnViews, self).prepare(
                        backend, problem, array, facts, limits
                    ),
                    np.dtype(problem.accumulator),
                )
                views = (
                    view(source, problem.views[0], device.xp),
                    view(target, problem.views[2], device.xp),
                )
                super().run(backend, problem, held, *views, limits)
                self.repair(backend, problem, weights, facts, held, limits, source, target)
        return backend.given_back(y, x)

    def repair(
        self,
        backend: CUDABackend,
        problem: Problem,
        weights: Weights,
        facts: Any,
        held: Any,
        limits: Limits,
        x: Any,
        y: Any,
    ) -> None:
        """Compute directly what the method could not."""


class ArrayDirect(_OnViews, Direct):
    """For more convolved axes than the kernels have room for."""

    def work(self, problem: Problem, limits: Limits, facts: Any = None) -> Work:
        work = super().work(problem, limits, facts)
        rate = f"array.{problem.accumulator}"
        amounts = ((rate if n.startswith("direct.") else n, a) for n, a in work.amounts)
        return replace(work, amounts=tuple(amounts))


class CuFFT(FFT):
    """Five launches for a block of tiles: gather, transform, multiply, transform, scatter."""

    on_user_axes = True

    def refuses(self, problem: Problem) -> str | None:
        if problem.spatial > fourier.AXES:
            return f"cuFFT has plans of up to {fourier.AXES} axes, and this convolves more"
        if len(problem.batch) >= blocks.OUTERS:
            return f"x has {blocks.OUTERS} or more batch axes"
        return super().refuses(problem) or kernel_refusal(problem)

    def rounding(self, problem: Problem) -> float:
        # Along one of two axes, as many products may be summed as there are taps.
        summed = [k for k in problem.kernel if k <= planes.MOST_SUMMED]
        return super().rounding(problem) + (max(summed, default=0) if problem.spatial == 2 else 0)

    def work(self, problem: Problem, limits: Limits, facts: Any = None) -> Work:
        return planes.work(problem, limits)

    def prepare(
        self, backend: Any, problem: Problem, weights: Any, facts: Any, limits: Limits
    ) -> Any:
        return weights, float(facts)

    def run(
        self, backend: Any, problem: Problem, state: Any, x: Any, y: Any, limits: Limits
    ) -> Any:
        device = backend.device
        weights, magnitude = state
        with backend.session(x, y) as (source, target):
            if 0 not in problem.y_shape:
                by_value = blocks.passes_by_value(weights, problem.accumulator)
                place = device.number(), source.strides, target.strides
                run = fourier.correlation(device, problem, limits, by_value, *place)
                run(weights, magnitude, source, target)
                device.trim_plans(limits.max_memory)  # their work areas stay after the call
        return backend.given_back(y, x)


class SeparablePasses(_OnViews, Separable):
    """Each pass is a one-dimensional correlation by our kernels."""

    def refuses(self, problem: Problem) -> str | None:
        return super().refuses(problem) or kernel_refusal(problem)

    def work(self, problem: Problem, limits: Limits, facts: Any = None) -> Work:
        work = super().work(problem, limits, facts)
        amounts = dict(work.amounts)
        read, written = math.prod(problem.x_shape), math.prod(problem.y_shape)
        item = itemsize(problem.accumulator)
        scratch = None if passes.refusal(problem, facts) else passes.scratch(problem, limits)
        if scratch:
            between = problem.spatial - 1
            amounts["memory"] = float(read * (item + between * 2 * item) + 2 * written * item)
            chunks = -(-read * item // scratch)
            amounts["calls"] = chunks * problem.spatial + 4.0
            return replace(work, amounts=tuple(amounts.items()), scratch=scratch)
        # One launch for all taps of a pass; gathering and storing take about three more.
        amounts["calls"] *= (problem.spatial + 3) / sum(problem.kernel)
        terms = (facts.rank if facts else 1) * problem.spatial + 1
        amounts["memory"] = float((read + written) * item * terms)
        return _with_repair(replace(work, amounts=tuple(amounts.items())), problem)

    def run(
        self, backend: Any, problem: Problem, state: Any, x: Any, y: Any, limits: Limits
    ) -> Any:
        weights, facts = state
        device = backend.device
        if not passes.refusal(problem, facts) and 0 not in (*problem.y_shape, *problem.x_shape):
            with backend.session(x, y) as (source, target):
                number = device.number()
                run = passes.passes(device, problem, limits, number, source.strides, target.strides)
                if run:
                    taps = weights.kept(
                        device,
                        "passes",
                        lambda _: passes.vectors(device, problem, facts),
                        np.dtype(problem.dtype),
                        on_host=True,  # the factors come from the plan
                    )
                    run(device, taps, source, target)
                    at = device.pointer(target)
                    flag = passes.find_not_finite(device, problem.dtype, target.size, at)
                    run_any(device, problem, weights, source, target, flag, mend=True)
                    return backend.given_back(y, x)
        return super().run(backend, problem, state, x, y, limits)

    def repair(
        self,
        backend: CUDABackend,
        problem: Problem,
        weights: Weights,
        facts: Any,
        held: Any,
        limits: Limits,
        x: Any,
        y: Any,
    ) -> None:
        _repair(backend, problem, weights, facts.magnitude, x, y)

    def _pass(
        self,
        backend: Any,
        problem: Problem,
        part: Any,
        taps: Any,
        axis: int,
        block: Block,
    ) -> Any:
        """`part` (batch..., G, spatial...) filtered along one spatial axis by (G, K) taps."""
        device, dtype = backend.device, problem.accumulator
        group, out = len(block.lead) - 1, block.box[axis]
        along = group + 1 + axis
        shape = [*part.shape]
        shape[along] = out.stop - out.start
        result = device.empty(tuple(shape), np.dtype(dtype))
        taps = device.xp.asarray(taps, order="C")
        item = result.dtype.itemsize
        steps = [(p // item, q // item) for p, q in zip(part.strides, result.strides, strict=True)]
        outer = [
            Outer(n, *steps[a], problem.kernel[axis] if a == group else 0)
            for a, n in enumerate(shape)
            if a != along
        ]
        line = Spatial(
            *steps[along],
            part.shape[along],
            shape[along],
            low=0,
            taps=problem.kernel[axis],
            stride=problem.stride[axis],
            dilation=problem.dilation[axis],
            boundary=0,
        )
        where = Geometry(merged(outer), (line,))
        zero, number = sum_dtype(dtype).type(0), device.number()
        launch = None
        if not tiling.refusal(where):
            launch = tiled_launch(device, where, dtype, dtype, zero, 0, device.specialise, number)
        addresses = device.pointer(part), device.pointer(result), device.pointer(taps)
        if launch:
            launch.correlate(*addresses)
        else:
            launch_any(device, where, dtype, dtype, zero, *addresses)
        return result


def _with_repair(work: Work, problem: Problem) -> Work:
    """With the launches of `_repair`, which reads the images twice."""
    amounts = dict(work.amounts)
    amounts["calls"] += 17.0
    images = math.prod(problem.x_shape) * itemsize(problem.x_dtype)
    amounts["memory"] = amounts.get("memory", 0.0) + 2.0 * images
    return replace(work, amounts=tuple(amounts.items()))


def _repair(
    backend: CUDABackend,
    problem: Problem,
    weights: Weights,
    kernel_sum: float,
    x: Any,
    y: Any,
) -> None:
    """Compute directly every image whose sums might leave the normal range.

    As `methods.fft.safe_entries`, but for whole images, and without asking the device.
    """
    xp = backend.device.xp
    source = view(x, problem.views[0], xp)
    lead = source.ndim - problem.spatial - 1
    axes = tuple(range(lead, source.ndim))
    parts = (source.real, source.imag) if problem.x_dtype.startswith("complex") else (source,)
    fill = float(abs(problem.cval)) if problem.boundary == "constant" else 0.0
    peak = xp.full(source.shape[:lead], fill, dtype=xp.float64)
    for part in parts if source.size else ():
        peak = xp.maximum(peak, xp.astype(xp.max(part, axis=axes), xp.float64))
        peak = xp.maximum(peak, -xp.astype(xp.min(part, axis=axes), xp.float64))
    info = np.finfo(problem.accumulator)
    least = float(info.smallest_normal / info.eps)
    most = float(min(info.max, np.finfo(float).max)) / 8
    with np.errstate(all="ignore"):
        safe = (peak * max(kernel_sum, 1.0) <= most) & (peak * min(kernel_sum, 1.0) >= least)
        safe = xp.astype(safe | (peak == 0), xp.uint8)
    run_any(backend.device, problem, weights, x, y, safe)
