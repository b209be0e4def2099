"""How far an answer may be from the right one: the error bound that every method promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Expected"]


@dataclass(frozen=True)
class Expected:
    """The right answer, and how far a method may be from it; all arrays in the result's layout."""

    values: NDArray[Any]
    """Exact (bool, integers in `dtype`) or in long double; IEEE's result where `touched`."""
    dtype: np.dtype[Any]
    """What the result must have."""
    touched: NDArray[np.bool_]
    """Whether the output's window holds a value, of image or kernel, that is not finite."""
    scale: NDArray[np.longdouble]
    """sum|k| * max|x in the same image|: the unit of the bound, before eps."""
    absolute: NDArray[np.longdouble]
    """1 + sum|k| + max|x|: the unit of the bound, before the smallest subnormal."""
    terms: int
    """Products summed into one output: taps times summed channels."""
    converted: bool
    """Whether the arithmetic is complex, or an operand was converted to `dtype`."""

    @property
    def direct(self) -> int:
        """The constant c of the direct method."""
        return self.terms + 2 * self.converted

    def bound(self, c: float) -> NDArray[Any]:
        """Largest |error| of each output for a method of constant `c`; 0 for exact dtypes.

        c * (eps * sum|k| * max|x| + tiny * (1 + sum|k| + max|x|)), where tiny is the smallest
        subnormal: rounding to a multiple of tiny loses up to tiny/2 per product, and where a
        method rounds an operand or a partial result first, that loss is scaled by the other
        operand.  It is infinite where products may overflow.  float16 has float32's eps, and
        half a unit in the last place of the result on top.
        """
        if self.dtype.kind in "biu":
            return np.zeros(self.values.shape)
        accumulator = np.finfo(np.float32 if self.dtype == np.float16 else self.dtype)
        with np.errstate(all="ignore"):
            error = self.scale * accumulator.eps + self.absolute * accumulator.smallest_subnormal
            error = np.where(self.scale > accumulator.max, np.inf, error * c)
            if self.dtype == np.float16:
                largest = np.abs(np.where(self.touched, 0, self.values)) + error
                # The last place of a half with 2^(e-1) <= |y| < 2^e is 2^(e-11), at least 2^-24.
                error = error + 2.0 ** (np.maximum(np.frexp(largest)[1], -13) - 12)
                error = np.where(largest >= 65520, np.inf, error)
        return np.asarray(error)

    def disagreement(self, actual: NDArray[Any], c: float) -> str:
        """Empty where `actual` is right within `bound(c)`, else what is wrong and where.

        >>> from xconv.reference import expected
        >>> right = expected([1.0, 2.0], [1.0, 1.0])
        >>> right.disagreement(np.array([1.0, 3.0, 2.0]), c=2)
        ''
        >>> right.disagreement(np.array([1.0, 3.5, 2.0]), c=2)
        '1 of 3 outputs off, worst at (1,): got 3.5, expected 3.0 within 1.78e-15'
        """
        if actual.dtype != self.dtype:
            return f"dtype is {actual.dtype}, expected {self.dtype}"
        if actual.shape != self.values.shape:
            return f"shape is {actual.shape}, expected {self.values.shape}"
        allowed = self.bound(c)
        if self.dtype.kind in "biu":
            error = np.asarray(actual != self.values)
        else:
            with np.errstate(all="ignore"):
                error = np.abs(actual.astype(self.values.dtype) - self.values)
            error = np.where(np.isfinite(allowed), np.nan_to_num(error, nan=np.inf), 0)
        wrong = np.where(self.touched, np.isfinite(actual), error > allowed)
        if not wrong.any():
            return ""
        worst = np.unravel_index(int(np.argmax(np.where(wrong, error, -1))), wrong.shape)
        return (
            f"{int(wrong.sum())} of {wrong.size} outputs off, worst at "
            f"{tuple(int(i) for i in worst)}: got {actual[worst]}, expected {self.values[worst]} "
            f"within {float(allowed[worst]):.3g}"
        )
