"""Whether a contender's answer is right: against the definition, and against another answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from xconv import reference
from xconv.tolerance import Expected

from .cases import Case
from .contender import Array, on_host

__all__ = ["Reference", "difference"]

PRODUCTS = 2e7
"""Multiply-adds that the slow reference may cost per corner."""
ALLOWANCE = 64.0
"""Least error constant c allowed (SPEC's unit eps * sum|k| * max|x|): room for transforms."""


@dataclass(frozen=True)
class Corner:
    """The part of the result that the reference computed, and what it must be."""

    where: tuple[slice, ...]
    expected: Expected


class Reference:
    """The right answer of a case in two opposite corners of its first and last images.

    Summed in long double by `xconv.reference`, from the values that the corner's windows hold.
    The rest of an answer is compared with that of another library, by `difference`.  Answers may
    be on a GPU, from which the corners are fetched.
    """

    def __init__(self, case: Case, x: Array, k: Array, padding: tuple[tuple[int, int], ...]):
        self.corners = list(_corners(case, x, k, padding))
        terms = max(corner.expected.terms for corner in self.corners)
        self.limit = max(terms + 2.0, ALLOWANCE)

    def disagreement(self, y: Array) -> str:
        """What is wrong with `y`; empty if it is right within the limit."""
        for corner in self.corners:
            found = on_host(y[corner.where])
            wrong = corner.expected.disagreement(found, self.limit)
            if wrong:
                return wrong
        return ""

    def error(self, y: Array) -> float:
        """Largest error in units of eps * sum|k| * max|x|, non-finite outputs left out."""
        worst = 0.0
        for corner in self.corners:
            right, found = corner.expected, on_host(y[corner.where])
            unit = right.bound(1.0)
            with np.errstate(all="ignore"):
                error = np.abs(found.astype(right.values.dtype) - right.values)
                ratio = np.where(unit > 0, error / unit, np.where(error > 0, np.inf, 0))
            worst = max(worst, float(np.nanmax(np.where(right.touched, 0, ratio), initial=0)))
        return worst


def difference(y: Array, other: Array, k: Array, x: Array) -> float:
    """Largest |y - other| in units of eps * sum|k| * max|x|; infinite if one is finite where
    the other is not.  `y`, `other` and `x` may be on a GPU, where they are compared."""
    xp: Any = array_namespace(y)

    def largest(values: Array) -> float:
        return float(xp.max(xp.where(xp.isfinite(values), values, 0)))

    if y.shape != other.shape or not bool(xp.all(xp.isfinite(y) == xp.isfinite(other))):
        return float("inf")
    dtype = np.result_type(y.dtype, other.dtype)
    if dtype.kind in "biu":
        return 0.0 if bool(xp.all(y == other)) else float("inf")
    with np.errstate(all="ignore"):
        unit = float(np.finfo(dtype).eps) * float(np.abs(k).sum()) * (largest(xp.abs(x)) or 1.0)
        return largest(xp.abs(y - other)) / unit


def _corners(
    case: Case, x: Array, k: Array, padding: tuple[tuple[int, int], ...]
) -> Iterator[Corner]:
    ends: dict[str, slice] = {
        a: slice(None, None, max(1, s - 1)) for a, s in zip(case.layout, case.x, strict=True)
    }
    batch = [a for a in case.layout if a not in case.spatial and not (a == "C" and _channel(case))]
    taps = dict(zip(case.kernel_layout, case.k, strict=True))
    cost = float(np.prod(case.k)) * 2 ** len(batch)
    side = int(np.clip((PRODUCTS / cost) ** (1 / len(case.spatial)), 1, 24))
    for far in (False, True) if case.stride == 1 else (False,):
        x_index = {a: ends[a] for a in batch}
        y_index = dict(x_index)
        pads = []
        for letter, (low, high) in zip(case.spatial, padding, strict=True):
            size = case.x[case.layout.index(letter)]
            # What the first or last `side` windows hold, and what a border repeats.
            length = taps[letter] + (side - 1) * case.stride - (high if far else low)
            length = max(length, low + 1, high + 1)
            if length >= size or case.boundary == "wrap":
                length = size
            whole = length == size
            pads.append((low if whole or not far else 0, high if whole or far else 0))
            count = (length + sum(pads[-1]) - taps[letter]) // case.stride + 1
            x_index[letter] = slice(size - length, None) if far else slice(length)
            y_index[letter] = slice(-count, None) if far else slice(count)
        part = x[_index(case.layout, x_index)]
        yield Corner(
            _index(case.result_layout, y_index),
            reference.expected(
                part, k, op=case.op, mode=tuple(pads), boundary=case.boundary,
                layout=case.layout, kernel_layout=case.kernel_layout,
                out_layout=case.out_layout or None, stride=case.stride, groups=case.groups,
            ),
        )  # fmt: skip


def _channel(case: Case) -> bool:
    """Whether C stands in the kernel too, so that all of it is needed."""
    return "C" in case.kernel_layout or case.summed


def _index(layout: str, chosen: dict[str, slice]) -> tuple[slice, ...]:
    return tuple(chosen.get(a, slice(None)) for a in layout)
