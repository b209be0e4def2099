"""The compiled direct convolution as a row of the CPU backend."""

from __future__ import annotations

import atexit
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _native
from ..errors import MemoryLimitError
from ..layout import view
from ..methods.base import Limits
from ..methods.direct import Direct
from ..problem import BOUNDARIES, Problem, Work, itemsize

if TYPE_CHECKING:
    from .base import Backend

__all__ = ["NativeDirect", "contract"]

DTYPES = frozenset(
    f"{kind}{bits}"
    for kind, sizes in (
        ("int", (8, 16, 32, 64)),
        ("uint", (8, 16, 32, 64)),
        ("float", (16, 32, 64)),
        ("complex", (64, 128)),
    )
    for bits in sizes
) | {"bool"}


class NativeDirect(Direct):
    """Direct convolution in C++, on strided arrays as they are: no layout is transposed."""

    variant = f"compiled, {_native.isa()}"
    on_user_axes = True

    def refuses(self, problem: Problem) -> str | None:
        for dtype in (problem.x_dtype, problem.dtype):
            if dtype not in DTYPES:
                return f"there are no compiled kernels for {dtype}"
        if 0 in problem.x_shape:
            return "x is empty"
        return None

    def work(self, problem: Problem, limits: Limits, facts: Any = None) -> Work:
        compiled = _compiled(problem)
        least = compiled.least(limits.workers)
        if least > limits.max_memory:
            raise MemoryLimitError(
                f"max_memory={limits.max_memory} is too small for {limits.workers} workers; "
                f"raise max_memory to {least} or more"
            )
        outputs = math.prod(problem.y_shape)
        moved = math.prod(problem.x_shape) * itemsize(problem.x_dtype)
        moved += outputs * itemsize(problem.dtype)
        return Work(
            amounts=(
                (f"native.{problem.accumulator}", float(outputs * problem.taps)),
                ("native.bytes", float(moved)),
            ),
            serial=(("native.calls", 1.0),),
            scratch=min(compiled.scratch(limits.workers), limits.max_memory),
            note=self.variant,
        )

    def prepare(
        self, backend: Backend, problem: Problem, weights: Any, facts: Any, limits: Limits
    ) -> Any:
        return np.ascontiguousarray(weights.real) if _kernel_is_real(problem) else weights

    def run(
        self, backend: Backend, problem: Problem, state: Any, x: Any, y: Any, limits: Limits
    ) -> Any:
        if not x.dtype.isnative:
            if x.nbytes > limits.max_memory // 2:  # too much to swap at once: block by block
                source, target = view(x, problem.views[0], np), view(y, problem.views[2], np)
                super().run(backend, problem, state, source, target, limits)
                return y
            x = x.astype(x.dtype.newbyteorder("="))
        _compiled(problem).run(x, state, y, limits.workers, limits.max_memory)
        return y


def _kernel_is_real(problem: Problem) -> bool:
    """Whether each complex element is multiplied by a real tap: two products instead of four."""
    return problem.dtype.startswith("complex") and not problem.k_dtype.startswith("complex")


@lru_cache(1024)
def _compiled(problem: Problem) -> _native.Direct:
    return _native.Direct(
        problem.x_dtype,
        problem.dtype,
        [(a.size, a.of, a.step) for a in problem.x_axes],
        [(a.size, a.of, a.step) for a in problem.y_axes],
        problem.spatial,
        tuple(a.size for a in problem.k_axes),
        problem.stride,
        problem.dilation,
        tuple(low for low, _ in problem.padding),
        BOUNDARIES.index(problem.boundary),
        problem.cval,
        _kernel_is_real(problem),
    )


def contract(weights: np.ndarray, x: np.ndarray, out: np.ndarray, max_memory: int) -> None:
    """out[g, o, t..., l] = sum over p... of weights[g, o, p...] * x[g, p..., l, t...].

    A correlation with a single position: l and t are its batch.
    """
    size, spatial = weights.shape, weights.ndim - 3
    taps = x.shape[spatial + 3 :]
    _contraction(weights.dtype.name, size, x.shape[spatial + 2], taps).run(
        x, weights, out, 1, max_memory
    )


@lru_cache(256)
def _contraction(
    dtype: str, kernel: tuple[int, ...], lanes: int, taps: tuple[int, ...]
) -> _native.Direct:
    groups, outputs, inputs, *positions = kernel
    spatial, n = len(positions), len(taps)
    ones = (1,) * spatial
    x_axes = [(size, spatial + 3 + t, 1) for t, size in enumerate(taps)]
    x_axes += [(lanes, spatial + 2, 1), (groups, 0, 1), (inputs, 1, 1)]
    x_axes += [(size, 2 + p, 1) for p, size in enumerate(positions)]
    y_axes = [(size, 2 + t, 1) for t, size in enumerate(taps)]
    y_axes += [(lanes, 2 + n, 1), (groups, 0, 1), (outputs, 1, 1), *[(1, -1, 1)] * spatial]
    return _native.Direct(
        dtype, dtype, x_axes, y_axes, spatial, kernel, ones, ones, (0,) * spatial, 0, 0.0, False
    )


# Before the module that the objects belong to is unloaded.
atexit.register(_compiled.cache_clear)
atexit.register(_contraction.cache_clear)
