"""Rows of the CPU backend that run in the compiled core: direct convolution, separable passes."""

from __future__ import annotations

import atexit
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from threading import local
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _native
from ..errors import MemoryLimitError
from ..layout import in_order_of, view
from ..methods.base import Block, Limits, blocks, cut, floors, spans
from ..methods.direct import Direct
from ..methods.fft import safe_entries
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
        run = next((n for n in reversed(problem.y_shape) if n > 1), 1)
        return Work(
            amounts=(
                (f"native.{problem.accumulator}", float(outputs * problem.taps)),
                ("native.bytes", float(moved)),
                ("native.runs", outputs / run),
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
    turned = np.empty(size, weights.dtype)
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
    lanes = _native.position_lanes(dtype, *shape[:2])
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
    return np.moveaxis(total, -1, lanes)


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
    turned = np.ascontiguousarray(np.moveaxis(weights, 2, -1), p.dtype)
    gx, gy = (a if p.batch else a[None] for a in (gx, gy))
    try:
        for index in np.ndindex(gy.shape[: max(len(p.batch) - 1, 0)]):
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
        lead, (rows, *rest) = (*problem.batch, problem.groups), problem.output
        least = max(run.least() for run in self._runs(problem, lead, rows, 0))
        smallest = self._bytes(problem, (*(1 for _ in lead), 1, *rest))
        # Of the core's part, half may hold a copy of `x`, if `out` overlaps it.
        needed = max(2 * _SHARE * least, smallest * _SHARE // (_SHARE - 1) + 1) * limits.workers
        if needed > limits.max_memory:
            raise MemoryLimitError(
                f"max_memory={limits.max_memory} is too small for {limits.workers} workers; "
                f"raise max_memory to {needed} or more"
            )
        shape = self._shape(problem, limits, None)
        count = math.prod(-(-n // s) for n, s in zip((*lead, *problem.output), shape, strict=True))
        core = self._core(limits)
        sizes = _sizes(problem, problem.output[0])[1:]
        terms = rank * problem.outputs * problem.inputs * problem.entries
        products = sum(math.prod(n) * k for n, k in zip(sizes, problem.kernel, strict=True))
        moved = sum(map(math.prod, sizes)) * itemsize(problem.accumulator)
        return Work(
            amounts=(
                (f"passes.{problem.accumulator}", float(products * terms)),
                ("passes.bytes", float(moved * terms)),
            ),
            serial=(
                ("svd", float(math.prod(problem.kernel) * min(problem.kernel))),
                ("calls", _BLOCK * count),
            ),
            scratch=(self._bytes(problem, shape) + core) * min(limits.workers, max(count, 1)),
            note=f"rank {rank}, {self.variant}" if facts else f"if of rank 1, {self.variant}",
        )

    def _bytes(self, problem: Problem, shape: Sequence[int]) -> int:
        """Scratch of one block beside the core's: what a pass reads and what it writes."""
        at = len(shape) - problem.spatial
        largest = sorted(math.prod(n) for n in _sizes(problem, shape[at])[1:])[-2:]
        return math.prod(shape[:at]) * sum(largest) * itemsize(problem.accumulator)

    def _core(self, limits: Limits) -> int:
        """Bytes that the core may take of each worker's."""
        return min(limits.each // _SHARE, limits.block)

    def _shape(
        self, problem: Problem, limits: Limits, order: Sequence[int] | None
    ) -> tuple[int, ...]:
        lead, rest = (*problem.batch, problem.groups), problem.output[1:]
        order = [a for a in order or range(len(lead) + 1) if a <= len(lead)]
        least = list(floors(problem))
        inner = [a for a in order if (*lead, 0)[a] != 1][-1]
        if inner < len(lead):  # vectors lie along it
            least[inner] = _LANES
        rows = cut(
            (*lead, problem.output[0]),
            order,
            lambda block: self._bytes(problem, (*block, *rest)),
            replace(limits, max_memory=limits.workers * (limits.each - self._core(limits))),
            _LARGER * limits.block,
            least,
        )
        return (*rows, *rest)

    def run(
        self, backend: Backend, problem: Problem, state: Any, x: Any, y: Any, limits: Limits
    ) -> Any:
        if not x.dtype.isnative:
            return Separable().run(backend, problem, state, x, y, limits)
        lead = (*problem.batch, problem.groups)
        shape = self._shape(problem, limits, backend.cut_order(x, problem))
        elements = self._bytes(problem, shape) // y.itemsize
        kept = local()

        def one(block: Block) -> Iterator[tuple[tuple[slice, ...], Any]]:
            if not hasattr(kept, "memory"):  # new pages for every block would be cleared each time
                kept.memory = np.empty(elements, y.dtype)
            part, target = x[block.lead], y[block.target()]
            self._compute(backend, problem, state, part, target, block, kept.memory, limits)
            return iter(())

        return backend.each(one, blocks(lead, problem.output, shape), y, limits.workers)

    def _compute(
        self,
        backend: Backend,
        problem: Problem,
        state: Any,
        x: np.ndarray,
        y: np.ndarray,
        block: Block,
        memory: np.ndarray,
        limits: Limits,
    ) -> None:
        """`y` (lead..., O, spatial...), the results of a block, from all of its images `x`."""
        vectors, weights, kernel_sum = state
        groups, core = block.lead[-1], self._core(limits)
        lead = x.shape[: -problem.spatial - 1]
        every = (slice(None),) * len(lead)
        rows = y.shape[len(lead) + 1]
        sizes = _sizes(problem, rows)
        *passes, whole = self._runs(problem, lead, rows, block.box[0].start)
        for o in range(problem.outputs):
            target = y[(*every, slice(o, o + 1))]
            for r, i in product(range(len(vectors[0])), range(problem.inputs)):
                part = x[(*every, slice(i, i + 1))]
                for axis, (run, vector) in enumerate(zip(passes, vectors, strict=True)):
                    last = axis == problem.spatial - 1 and r == i == 0
                    shape = (*lead, 1, *sizes[axis + 1])
                    start = memory.size - math.prod(shape) if axis % 2 else 0
                    out = target if last else in_order_of(part, memory[start:], shape)
                    taps = np.ascontiguousarray(vector[r, groups, o, i, :])
                    line = [len(taps), 1, 1] + [1] * problem.spatial
                    line[3 + axis] = -1
                    run.run(part, taps.reshape(line), out, 1, core)
                    part = out
                if part is not target:
                    np.add(target, part, out=target)
        safe = safe_entries(backend, problem, _read(problem, x, block), kernel_sum, 1)
        for entry in np.argwhere(~safe) if safe is not None else ():
            at = tuple(slice(n, n + 1) for n in entry)
            whole.run(x[at], np.ascontiguousarray(weights[groups][at[-1]]), y[at], 1, core)

    def _runs(
        self, problem: Problem, lead: tuple[int, ...], rows: int, first: int
    ) -> list[_native.Direct]:
        """Each pass, and the direct convolution of one image, that give `rows` rows from number
        `first` on."""
        sizes, low = _sizes(problem, rows), [low for low, _ in problem.padding]
        low[0] -= first * problem.stride[0]
        boundary = BOUNDARIES.index(problem.boundary)

        def alone(values: Sequence[int], axis: int, other: int) -> tuple[int, ...]:
            return tuple(n if a == axis else other for a, n in enumerate(values))

        runs = [
            _on_rows(
                problem.accumulator if axis else problem.x_dtype,
                problem.accumulator,
                (*lead, 1),
                (*lead, 1),
                sizes[axis],
                sizes[axis + 1],
                (lead[-1], 1, 1, *alone(problem.kernel, axis, 1)),
                alone(problem.stride, axis, 1),
                alone(problem.dilation, axis, 1),
                alone(low, axis, 0),
                boundary,
            )
            for axis in range(problem.spatial)
        ]
        ones = (1,) * len(lead)
        whole = _on_rows(
            problem.x_dtype,
            problem.accumulator,
            (*ones, problem.inputs),
            (*ones, problem.outputs),
            problem.size,
            sizes[-1],
            (1, problem.outputs, problem.inputs, *problem.kernel),
            problem.stride,
            problem.dilation,
            tuple(low),
            boundary,
        )
        return [*runs, whole]


_BLOCK = 25.0
"""A block costs as much as this many calls of NumPy, which threads make in turn (0.3 ms on a Zen 3,
2026-11-25)."""
_SHARE = 4
"""The core may take this part of the memory of a worker."""
_LARGER = 4
"""Blocks are this much larger than others: threads that call the core less often wait less for
each other (4 MiB was the best of 0.25 to 8 on a Zen 3, 2026-11-25)."""
_LANES = 64
"""Images that blocks hold at least where vectors lie along the batch: with 16 of them the passes
took three times as long (Zen 3, float32, 2026-11-25)."""


def _sizes(problem: Problem, rows: int) -> list[tuple[int, ...]]:
    """Spatial sizes before the first pass and after each, where `rows` of the result are wanted."""
    sizes = [problem.size]
    for axis, n in enumerate((rows, *problem.output[1:])):
        sizes.append((*sizes[-1][:axis], n, *sizes[-1][axis + 1 :]))
    return sizes


def _read(problem: Problem, x: np.ndarray, block: Block) -> np.ndarray:
    """The part of `x` that a block reads; for integers, a number that none exceeds."""
    lead = x.shape[: -problem.spatial - 1]
    if x.dtype.kind in "biu":
        return np.full((*lead, *(1,) * (problem.spatial + 1)), 2.0**64)
    start, stop = spans(problem, block.box)[0]
    inside = start >= 0 and stop <= problem.size[0]
    if inside or problem.boundary == "constant":
        x = x[(*(slice(None),) * (len(lead) + 1), slice(max(start, 0), max(stop, 0)))]
    return x if x.size else np.zeros((*lead, *(1,) * (problem.spatial + 1)))


@lru_cache(1024)
def _on_rows(
    x_dtype: str,
    dtype: str,
    lead: tuple[int, ...],
    y_lead: tuple[int, ...],
    size: tuple[int, ...],
    output: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    low: tuple[int, ...],
    boundary: int,
) -> _native.Direct:
    """The core for arrays (batch..., G, I or O, spatial...) as they are."""
    x_axes, y_axes = (
        [(n, at, 1) for at, n in enumerate(shape)] for shape in ((*lead, *size), (*y_lead, *output))
    )
    return _native.Direct(
        x_dtype, dtype, x_axes, y_axes, len(size), kernel, stride, dilation, low, boundary, 0
    )


# Before the module that the objects belong to is unloaded.
atexit.register(_compiled.cache_clear)
atexit.register(_on_rows.cache_clear)
