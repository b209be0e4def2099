"""Direct convolution: one shifted multiply-add of a block per tap.

Every output sums its products in one order (channels, then taps in the kernel's order), so the
result is the same bits however the work is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from ..problem import Problem, Work, itemsize
from .base import Block, Limits, Method, block_count, blocks, cut, floors, gather, gathered_bytes

if TYPE_CHECKING:
    from ..backends.base import Backend

__all__ = ["Direct", "correlate_block", "tap_window"]


class Direct(Method):
    """Takes every problem; works on any array namespace."""

    name = "direct"
    variant = "array operations"

    def rounding(self, problem: Problem) -> float:
        return problem.taps + 2.0

    def _bytes(self, problem: Problem, shape: Sequence[int]) -> int:
        """Scratch of one block: the gathered input, the sum and one product."""
        return gathered_bytes(problem, shape) + 2 * math.prod(shape) * itemsize(problem.accumulator)

    def _shape(self, problem: Problem, limits: Limits, order: Sequence[int]) -> tuple[int, ...]:
        return cut(
            (*problem.batch, problem.groups, *problem.output),
            order,
            lambda block: self._bytes(problem, block),
            limits,
            limits.block,
            floors(problem),
        )

    def work(self, problem: Problem, limits: Limits, facts: Any = None) -> Work:
        sizes = (*problem.batch, problem.groups, *problem.output)
        shape = self._shape(problem, limits, range(len(sizes)))
        count = block_count(sizes, shape)
        products = float(math.prod(sizes) * problem.outputs * problem.taps)
        return Work(
            amounts=(
                (f"direct.{problem.accumulator}", products),
                ("calls", float(count * problem.outputs * problem.taps)),
            ),
            scratch=self._bytes(problem, shape) * min(limits.workers, count),
            note=self.variant,
        )

    def run(
        self, backend: Backend, problem: Problem, state: Any, x: Any, y: Any, limits: Limits
    ) -> Any:
        shape = self._shape(problem, limits, backend.cut_order(x, problem))

        def one(block: Block) -> Iterator[tuple[tuple[slice, ...], Any]]:
            return correlate_block(backend, problem, state, x, block)

        lead = (*problem.batch, problem.groups)
        return backend.each(one, blocks(lead, problem.output, shape), y, limits.workers)


def tap_window(problem: Problem, tap: Sequence[int], box: Sequence[slice]) -> tuple[slice, ...]:
    """The elements of a gathered block that one tap multiplies, per spatial axis."""
    return tuple(
        slice(t * d, t * d + (out.stop - out.start - 1) * s + 1, s)
        for t, d, s, out in zip(tap, problem.dilation, problem.stride, box, strict=True)
    )


def correlate_block(
    backend: Backend, problem: Problem, weights: Any, x: Any, block: Block
) -> Iterator[tuple[tuple[slice, ...], Any]]:
    """(index in the canonical result, values) for each kernel of the bank."""
    source = gather(backend, problem, x, block, problem.accumulator)
    weights = weights[block.lead[-1], ...]
    groups = weights.shape[0]
    ones = (1,) * problem.spatial
    for o in range(problem.outputs):
        terms = (
            (
                source[(..., i, *tap_window(problem, tap, block.box))],
                backend.reshape(weights[(slice(None), o, i, *tap)], (groups, *ones)),
            )
            for i in range(problem.inputs)
            for tap in product(*map(range, problem.kernel))
        )
        total = backend.weighted_sum(terms, problem.accumulator)
        total = backend.convert(total, problem.accumulator, problem.dtype)
        at = block.target()
        lead = len(block.lead)
        yield (
            (*at[:lead], slice(o, o + 1), *at[lead + 1 :]),
            backend.expand(total, lead),
        )
