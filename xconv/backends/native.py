"""Rows of the CPU backend that run in the compiled core: direct convolution, separable passes."""

from __future__ import annotations

import atexit
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _native
from ..errors import MemoryLimitError
from ..layout import view
from ..memory import aligned
from ..methods.base import Limits, block_count, cut, floors
from ..methods.direct import Direct
from ..methods.separable import Factors, Separable
from ..problem import BOUNDARIES, Problem, Work, itemsize

if TYPE_CHECKING:
    from .base import Backend

__all__ = ["NativeDirect", "NativeSeparable", "position_sums", "window_sums"]

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
        return _not_compiled(problem)

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
                ("native.runs", outputs / _run(problem)),
                ("native.border", outputs * _border(problem)),
            ),
            serial=(("native.calls", 1.0),),
            scratch=min(compiled.scratch(limits.workers), limits.max_memory),
            note=self.variant,
        )

    def prepare(
        self, backend: Backend, problem: Problem, weights: Any, facts: Any, limits: Limits
    ) -> _State:
        if _kernel_is_real(problem):
            weights = np.ascontiguousarray(weights.real)
        turned = _turned(_compiled(problem), weights)
        return _State(weights, turned, _plain(weights, turned))

    def run(
        self, backend: Backend, problem: Problem, state: _State, x: Any, y: Any, limits: Limits
    ) -> Any:
        if not x.dtype.isnative:
            if x.nbytes > limits.max_memory // 2:  # too much to swap at once: block by block
                source, target = view(x, problem.views[0], np), view(y, problem.views[2], np)
                super().run(backend, problem, state.weights, source, target, limits)
                return y
            x = x.astype(x.dtype.newbyteorder("="))
        compiled = _compiled(problem)
        try:
            compiled.run(x, state.plain, y, limits.workers, limits.max_memory, state.turned)
        except MemoryError:
            if state.plain is not None:
                raise
            plain = np.ascontiguousarray(state.weights)  # the core may then choose other lanes
            compiled.run(x, plain, y, limits.workers, limits.max_memory, state.turned)
        return y


def _run(problem: Problem) -> int:
    """Outputs along which vectors run: those of the last axis, and where it is not convolved, of
    the next as well."""
    spatial = problem.y_axes[-problem.spatial :]
    convolved = {a.of for a, k in zip(spatial, problem.kernel, strict=True) if k > 1}
    run = 1
    for axis in reversed(range(len(problem.y_shape))):
        run *= max(problem.y_shape[axis], 1)
        if axis in convolved:
            break
    return run


def _border(problem: Problem) -> float:
    """The share of the outputs that read beyond the image, whose inputs are packed."""
    inside = 1.0
    for size, out, stride, extent, (low, _) in zip(
        problem.size, problem.output, problem.stride, problem.extent, problem.padding, strict=True
    ):
        first, last = -(-low // stride), (size + low - extent) // stride
        inside *= max(min(last, out - 1) - first + 1, 0) / max(out, 1)
    return 1 - inside


class _State(NamedTuple):
    weights: np.ndarray
    turned: np.ndarray | None
    """The weights with kernels or groups innermost, where these may be lanes of vectors."""
    plain: np.ndarray | None
    """The weights in C order, unless the turned ones are the better ones in any case."""


_LAYER = 32, 64
"""Kernels, and taps of all channels, from which kernels that fill vectors are the best lanes."""


def _plain(weights: np.ndarray, turned: np.ndarray | None) -> np.ndarray | None:
    kernels_fill_vectors = turned is not None and turned.size == weights.size
    kernels, taps = weights.shape[1], math.prod(weights.shape[2:])
    if kernels_fill_vectors and kernels >= _LAYER[0] and taps >= _LAYER[1]:
        return weights if weights.flags.c_contiguous else None
    return np.ascontiguousarray(weights)


def _turned(direct: _native.Direct, weights: np.ndarray) -> np.ndarray | None:
    size = direct.turned_elements()
    if size == 0:
        return None
    turned = aligned((size,), weights.dtype)
    direct.turn(weights, turned)
    return turned


def _not_compiled(problem: Problem) -> str | None:
    """Why the core cannot run a problem."""
    for dtype in (problem.x_dtype, problem.dtype):
        if dtype not in DTYPES:
            return f"there are no compiled kernels for {dtype}"
    return "x is empty" if 0 in problem.x_shape else None


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


def position_sums(
    problem: Problem,
    x: np.ndarray,
    gy: np.ndarray,
    block: Sequence[int],
    shares: int,
    limits: Limits,
) -> np.ndarray:
    """The sums (G, O, I, taps...) over b and p of  conj(gy[b, g, o, p]) * xp[b, g, i, p*s + t*d].

    `x` is (b, G, I, spatial...), `gy` (b, G, O, p...).  A `block` of (b, G, p...) is summed at a
    time, to one of `shares` sums.
    """
    dtype = problem.accumulator
    shape = (*gy.shape[1:3], x.shape[2], *problem.kernel)
    lanes = _lanes(dtype, *shape[:2])
    total = np.empty([n for a, n in enumerate(shape) if a != lanes] + [shape[lanes]], dtype)
    _native.position_sums(
        x,
        gy.astype(dtype, copy=False),
        total,
        problem.x_dtype,
        dtype,
        problem.kernel,
        problem.stride,
        problem.dilation,
        tuple(low for low, _ in problem.padding),
        BOUNDARIES.index(problem.boundary),
        problem.cval,
        block,
        shares,
        limits.workers,
        limits.max_memory,
    )
    return total.transpose(*range(lanes), total.ndim - 1, *range(lanes, total.ndim - 1))


_lanes = lru_cache(256)(_native.position_lanes)

_FEWEST = 16
"""Kernels below which adding the products up costs more than the products."""


def window_sums(
    problem: Problem,
    weights: np.ndarray,
    gy: np.ndarray,
    gx: np.ndarray,
    before: Sequence[int],
    limits: Limits,
) -> bool:
    """`Backend.input_sums` of images whose channels would not fill vectors; their taps do."""
    p = problem
    if (
        p.dtype not in ("float32", "float64")
        or p.inputs * itemsize(p.dtype) >= _native.vector_bytes()
        or p.outputs < _FEWEST
        or 0 in gy.shape
        or 0 in gx.shape
    ):
        return False
    turned = np.ascontiguousarray(weights.transpose(0, *range(3, weights.ndim), 2, 1), p.dtype)
    gx, gy = (a if p.batch else a[None] for a in (gx, gy))
    try:
        for index in product(*map(range, p.batch[:-1])):
            _native.window_sums(
                gx[index], gy[index].astype(p.dtype, copy=False), turned, p.dtype, p.kernel,
                p.stride, p.dilation, before, limits.workers, limits.max_memory,
            )  # fmt: skip
    except MemoryError:
        return False
    return True


class NativeSeparable(Separable):
    """A pass along one axis after the other, over rows of images that stay in the cache.

    Blocks are cut along the batch and the first spatial axis alone: each pass then continues the
    images beyond its own axis, which is to continue them beyond all (other than by a `cval`).
    """

    variant = NativeDirect.variant

    def refuses(self, problem: Problem) -> str | None:
        if problem.boundary == "constant" and problem.cval:
            return f"images continued by {problem.cval} are not so after the first pass"
        if problem.dtype != problem.accumulator:
            return f"{problem.dtype} is summed in {problem.accumulator}"
        return super().refuses(problem) or _not_compiled(problem)

    def work(self, problem: Problem, limits: Limits, facts: Factors | None = None) -> Work:
        rank = facts.rank if facts else 1
        lead = (*problem.batch, problem.groups)
        least = _passes(problem).least()
        smallest = _passes(problem).bytes((*(1 for _ in lead), 1))
        # Of the core's part, half may hold a copy of `x`, if `out` overlaps it.
        needed = max(2 * _SHARE * least, smallest * _SHARE // (_SHARE - 1) + 1) * limits.workers
        if needed > limits.max_memory:
            raise MemoryLimitError(
                f"max_memory={limits.max_memory} is too small for {limits.workers} workers; "
                f"raise max_memory to {needed} or more"
            )
        block = _rows(problem, limits, None)
        count = block_count((*lead, problem.output[0]), block)
        sizes, size = [], list(problem.size)
        for axis, n in enumerate(problem.output):
            size[axis] = n
            sizes.append(math.prod(size))
        images = problem.entries * problem.outputs * problem.inputs * rank
        products = sum(n * k for n, k in zip(sizes, problem.kernel, strict=True))
        scratch = _passes(problem).bytes(block) + _core(limits)
        return Work(
            amounts=(
                (f"passes.{problem.accumulator}", float(products * images)),
                ("passes.bytes", float(sum(sizes) * images * itemsize(problem.accumulator))),
                ("passes.runs", sum(sizes) * images / _run(problem)),
                ("passes.border", sum(sizes) * images * _border(problem)),
                ("passes.calls", float(count)),
            ),
            serial=(
                ("svd", float(math.prod(problem.kernel) * min(problem.kernel))),
                ("native.calls", 1.0),
            ),
            scratch=scratch * min(limits.workers, max(count, 1)),
            note=f"rank {rank}, {self.variant}" if facts else f"if of rank 1, {self.variant}",
        )

    def prepare(
        self, backend: Backend, problem: Problem, weights: Any, facts: Factors, limits: Limits
    ) -> tuple[Any, Any, float]:
        vectors, weights, magnitude = super().prepare(backend, problem, weights, facts, limits)
        return [np.ascontiguousarray(v) for v in vectors], np.ascontiguousarray(weights), magnitude

    def run(
        self, backend: Backend, problem: Problem, state: Any, x: Any, y: Any, limits: Limits
    ) -> Any:
        if not x.dtype.isnative:
            return Separable().run(backend, problem, state, x, y, limits)
        vectors, weights, magnitude = state
        block = _rows(problem, limits, tuple(backend.cut_order(x, problem)))
        _passes(problem).run(
            x, vectors, weights, magnitude, y, block, limits.workers, _core(limits)
        )
        return y


_SHARE = 4
"""The core may take this part of the memory of a worker."""
_SMALLER = 8
"""Blocks may be this much smaller than others, so that each worker has two: one costs about
25 us (Zen 5, 2026-11-26)."""
_LANES = 64
"""Images that blocks hold at least where vectors lie along the batch: with 16 of them the passes
took three times as long (Zen 3, float32, 2026-11-25)."""


def _core(limits: Limits) -> int:
    """Bytes that the core may take of each worker's."""
    return min(limits.each // _SHARE, limits.block)


@lru_cache(1024)
def _rows(problem: Problem, limits: Limits, order: tuple[int, ...] | None) -> tuple[int, ...]:
    """The block (batch..., G, rows of the first spatial axis) that is filtered at a time."""
    lead = (*problem.batch, problem.groups)
    axes = [a for a in order or range(len(lead) + 1) if a <= len(lead)]
    least = list(floors(problem))
    inner = [a for a in axes if (*lead, 0)[a] != 1][-1]
    if inner < len(lead):  # vectors lie along it
        least[inner] = _LANES
    return cut(
        (*lead, problem.output[0]),
        axes,
        _passes(problem).bytes,
        replace(
            limits,
            max_memory=limits.workers * (limits.each - _core(limits)),
            block=limits.block // _SMALLER,
        ),
        limits.block,
        least,
    )


@lru_cache(1024)
def _passes(problem: Problem) -> _native.Passes:
    lead = (*problem.batch, problem.groups)
    return _native.Passes(
        problem.x_dtype,
        problem.accumulator,
        (*lead, problem.inputs, *problem.size),
        (*lead, problem.outputs, *problem.output),
        problem.kernel,
        problem.stride,
        problem.dilation,
        tuple(low for low, _ in problem.padding),
        BOUNDARIES.index(problem.boundary),
    )


# Before the module that the objects belong to is unloaded.
atexit.register(_compiled.cache_clear)
atexit.register(_passes.cache_clear)
