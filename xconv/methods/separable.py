"""Kernels of low rank as a few passes of one-dimensional kernels.

A kernel of rank r is a sum of r outer products of vectors (found by elimination and SVD, axis after
axis), so r * (K + K) multiply-adds per output replace K * K.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..problem import Problem, Work, itemsize
from .base import Block, Limits, Method, block_count, blocks, cut, floors, gather, gathered_bytes
from .fft import direct_entries, magnitude, safe_entries

if TYPE_CHECKING:
    from ..backends.base import Backend

__all__ = ["Factors", "Separable", "factor"]

_GROWTH = 4.0
"""Most that the sum of absolute outer products may exceed the kernel's: beyond it, rounding
errors of cancelling terms would exceed the bound of direct summation."""


@dataclass(frozen=True, slots=True)
class Factors:
    """Vectors of the outer products: `vectors[a]` has shape (rank, G, O, I, K of axis a).

    They are those of the kernel as the user gave it, in double precision.
    """

    vectors: tuple[np.ndarray, ...]
    magnitude: float

    @property
    def rank(self) -> int:
        return int(self.vectors[0].shape[0])

    def correlating(self, problem: Problem) -> Iterator[np.ndarray]:
        """The vectors in the order, and conjugated as, a correlation takes them."""
        for vector in self.vectors:
            if problem.op == "convolve":
                yield vector[..., ::-1]
            else:
                yield vector.conj() if vector.dtype.kind == "c" else vector


def factor(
    kernel: np.ndarray, spatial: int, tolerance: float, most: int
) -> list[list[np.ndarray]] | None:
    """The kernel as a sum of outer products: one list of `spatial` vectors per term.

    None where more than `most` terms are needed to bring the sum of absolute errors below
    `tolerance` times the sum of absolute taps.
    """
    if spatial == 1:
        return [[kernel]]
    rows = kernel.reshape(kernel.shape[0], -1)
    allowed = tolerance * float(np.abs(rows).sum()) / (spatial - 1)
    crosses = _crosses(rows, allowed, most)
    if crosses is None:
        return None
    # The SVD of the crosses' sum: of a core of their number, as theirs are factors of it.
    (left, r_left), (right, r_right) = (np.linalg.qr(one) for one in crosses)
    u, s, vh = np.linalg.svd(r_left @ r_right.T)
    u, vh = left @ u, vh @ right.T
    terms: list[list[np.ndarray]] = []
    rest = rows
    for r in range(len(s)):
        if float(np.abs(rest).sum()) <= allowed and (r or not rows.any()):
            return terms or [[np.zeros(n, rows.dtype) for n in kernel.shape]]
        tail = factor(
            (s[r] * vh[r]).reshape(kernel.shape[1:]), spatial - 1, tolerance, most - len(terms)
        )
        if tail is None or len(terms) + len(tail) > most:
            return None
        terms += [[u[:, r], *vectors] for vectors in tail]
        rest = rest - s[r] * np.outer(u[:, r], vh[r])
    return terms


def _crosses(rows: np.ndarray, allowed: float, most: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(n, r) and (m, r), whose product is the matrix but for errors of `allowed` in sum.

    Elimination with complete pivoting: the r-th column and row cross at the largest element that
    the others left.  It ends after `most` terms, where an SVD would go on to the last; and threads
    of the linear algebra that a large one starts would spin for 25 ms more on a core of ours.
    """
    rest = rows.copy()
    columns: list[np.ndarray] = []
    lines: list[np.ndarray] = []
    while not columns or float(np.abs(rest).sum()) > allowed:
        if len(columns) == most:
            return None
        i, j = np.unravel_index(int(np.abs(rest).argmax()), rest.shape)
        column, line = rest[:, j].copy(), rest[i] / (rest[i, j] or 1.0)
        rest -= np.multiply.outer(column, line)
        columns.append(column)
        lines.append(line)
    return np.stack(columns, 1), np.stack(lines, 1)


class Separable(Method):
    name = "separable"
    needs_values = True

    def refuses(self, problem: Problem) -> str | None:
        if sum(k > 1 for k in problem.kernel) < 2:
            return "the kernel has one axis longer than 1, so there is nothing to separate"
        if np.dtype(problem.dtype).kind in "iub":
            return f"{problem.dtype} is exact and the factors are rounded"
        return None

    def examine(self, problem: Problem, kernel: np.ndarray) -> Factors | str:
        # The taps are converted first, as for every method: float16 rounds them by more than the
        # bound allows, and may not leave them of low rank.
        with np.errstate(over="ignore"):
            kernel = kernel.astype(np.dtype(problem.dtype))
        total = magnitude(problem, kernel)
        if isinstance(total, str):
            return total
        wide = kernel.astype(np.complex128 if kernel.dtype.kind == "c" else np.float64)
        # Rounding of the vectors costs as much as summing them; the SVD's own error in double
        # precision is below that.
        tolerance = float(np.finfo(problem.accumulator).eps) * (4 + sum(problem.kernel))
        # More terms than this are never cheaper than the taps themselves.
        most = max(1, math.prod(problem.kernel) // sum(problem.kernel))
        found = [
            factor(one, problem.spatial, tolerance, most)
            for one in wide.reshape(-1, *problem.kernel)
        ]
        if any(terms is None for terms in found):
            return f"the kernel is not a sum of {most} or fewer outer products"
        return self._pack(problem, [terms for terms in found if terms], total, wide)

    def _pack(
        self, problem: Problem, found: list[list[list[np.ndarray]]], total: float, wide: np.ndarray
    ) -> Factors | str:
        """Balanced and padded to one rank: all but the last vector have absolute sum 1."""
        rank = max(map(len, found))
        vectors = tuple(np.zeros((rank, len(found), n), wide.dtype) for n in problem.kernel)
        for j, terms in enumerate(found):
            for r, term in enumerate(terms):
                scale = 1.0
                for axis, vector in enumerate(term[:-1]):
                    norm = float(np.abs(vector).sum()) or 1.0
                    vectors[axis][r, j] = vector / norm
                    scale *= norm
                vectors[-1][r, j] = term[-1] * scale
        sums = np.abs(vectors[-1]).sum(axis=2).sum(axis=0)
        taps = np.abs(wide.reshape(len(found), -1)).sum(axis=1)
        if (sums > _GROWTH * taps).any():
            return "the outer products cancel, which would cost accuracy"
        shape = (rank, problem.groups, problem.outputs, problem.inputs)
        return Factors(
            tuple(v.reshape(*shape, n) for v, n in zip(vectors, problem.kernel, strict=True)), total
        )

    def work(self, problem: Problem, limits: Limits, facts: Factors | None = None) -> Work:
        rank = facts.rank if facts else 1
        shape = self._shape(problem, limits, None)
        lead = (*problem.batch, problem.groups)
        count = block_count((*lead, *problem.output), shape)
        box = shape[len(lead) :]
        sizes = [
            (b - 1) * s + e for b, s, e in zip(box, problem.stride, problem.extent, strict=True)
        ]
        products = 0
        for axis, taps in enumerate(problem.kernel):
            sizes[axis] = box[axis]
            products += math.prod(sizes) * taps
        terms = rank * problem.outputs * problem.inputs
        return Work(
            amounts=(
                (
                    f"direct.{problem.accumulator}",
                    float(products * terms * count * math.prod(shape[: len(lead)])),
                ),
                ("calls", float(count * terms * sum(problem.kernel))),
            ),
            serial=(("svd", float(math.prod(problem.kernel) * min(problem.kernel))),),
            scratch=self._bytes(problem, shape) * min(limits.workers, max(count, 1)),
            note=f"rank {rank}" if facts else "if of rank 1",
        )

    def rounding(self, problem: Problem) -> float:
        passes = sum(problem.kernel)
        return _GROWTH * (passes + problem.inputs + 2) + passes + 4

    def _bytes(self, problem: Problem, shape: Sequence[int]) -> int:
        """Scratch of one block: the gathered input, two passes, a product and the sum."""
        item = itemsize(problem.accumulator)
        at = len(shape) - problem.spatial
        first = [  # size of the widest pass: filtered along the first axis only
            *shape[at : at + 1],
            *(
                (b - 1) * s + e
                for b, s, e in zip(
                    shape[at + 1 :], problem.stride[1:], problem.extent[1:], strict=True
                )
            ),
        ]
        passes = 3 * math.prod(first) + math.prod(shape[at:])
        return gathered_bytes(problem, shape) + math.prod(shape[:at]) * passes * item

    def _shape(
        self, problem: Problem, limits: Limits, order: Sequence[int] | None
    ) -> tuple[int, ...]:
        sizes = (*problem.batch, problem.groups, *problem.output)
        return cut(
            sizes,
            order or range(len(sizes)),
            lambda block: self._bytes(problem, block),
            limits,
            limits.block,
            floors(problem),
        )

    def prepare(
        self, backend: Backend, problem: Problem, weights: Any, facts: Factors, limits: Limits
    ) -> tuple[Any, Any, float]:
        vectors = [
            backend.asarray(vector, problem.accumulator, weights)
            for vector in facts.correlating(problem)
        ]
        return vectors, weights, facts.magnitude

    def run(
        self, backend: Backend, problem: Problem, state: Any, x: Any, y: Any, limits: Limits
    ) -> Any:
        lead = (*problem.batch, problem.groups)
        shape = self._shape(problem, limits, backend.cut_order(x, problem))

        def one(block: Block) -> Iterator[tuple[tuple[slice, ...], Any]]:
            return self._block(backend, problem, state, x, block)

        return backend.each(one, blocks(lead, problem.output, shape), y, limits.workers)

    def _block(
        self, backend: Backend, problem: Problem, state: Any, x: Any, block: Block
    ) -> Iterator[tuple[tuple[slice, ...], Any]]:
        vectors, weights, kernel_sum = state
        source = gather(backend, problem, x, block, problem.accumulator)
        safe = safe_entries(backend, problem, source, kernel_sum, 1)
        lead = len(block.lead)
        at = block.target()
        for o in range(problem.outputs):
            total = None
            for r in range(vectors[0].shape[0]):
                for i in range(problem.inputs):
                    part = source[(*(slice(None),) * lead, i, ...)]
                    for axis, vector in enumerate(vectors):
                        part = self._pass(
                            backend, problem, part, vector[r, block.lead[-1], o, i, :], axis, block
                        )
                    total = part if total is None else backend.add(total, part)
            total = backend.convert(total, problem.accumulator, problem.dtype)
            yield (*at[:lead], slice(o, o + 1), *at[lead + 1 :]), backend.expand(total, lead)
        yield from direct_entries(backend, problem, weights, x, block, safe)

    def _pass(
        self, backend: Backend, problem: Problem, part: Any, taps: Any, axis: int, block: Block
    ) -> Any:
        """`part` (lead..., spatial...) filtered along one spatial axis by (G, K) taps."""
        out, step, gap = block.box[axis], problem.stride[axis], problem.dilation[axis]
        length = (out.stop - out.start - 1) * step + 1
        before = (slice(None),) * (len(block.lead) + axis)
        ones = (1,) * problem.spatial
        terms = (
            (
                part[(*before, slice(t * gap, t * gap + length, step), ...)],
                backend.reshape(taps[:, t], (taps.shape[0], *ones)),
            )
            for t in range(problem.kernel[axis])
        )
        return backend.weighted_sum(terms, problem.accumulator)
