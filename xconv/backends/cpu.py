"""NumPy arrays: transforms of SciPy or ducc0, threads over blocks, and the compiled kernels."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentTypeError, MemoryLimitError
from ..layout import correlation_form
from ..memory import aligned
from ..methods.base import Block, Limits, Method
from ..methods.direct import Direct
from ..methods.separable import Separable
from ..problem import Problem
from .base import Backend, Parts, refuse_masked
from .contraction import kernel_sums
from .cpu_rates import cpu_rates
from .threads import share_out
from .transforms import KeptFFT, ducc_version, forward, inverse

try:
    from .. import _native
    from .native import NativeDirect, NativeSeparable, window_sums
except ImportError as error:
    _native_missing: str | None = str(error)
    _compiled: tuple[Method, ...] = ()
else:
    _native_missing = None
    _compiled = (NativeDirect(), NativeSeparable())

__all__ = ["CPUBackend"]


@functools.cache
def _cpus() -> int:
    """CPUs that this process may use, at most XCONV_NUM_THREADS."""
    wanted = os.environ.get("XCONV_NUM_THREADS", "")
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:
        available = os.cpu_count() or 1
    return min(available, int(wanted)) if wanted.isdigit() and int(wanted) else available


class CPUBackend(Backend):
    name = "cpu"
    methods = (*_compiled, Direct(), KeptFFT(), Separable())
    block_bytes = 1 << 20
    rates = cpu_rates(None if _native_missing else _native.isa(), ducc_version() is not None)

    def owns(self, x: Any) -> bool:
        return isinstance(x, np.ndarray | np.generic | list | tuple | int | float | complex) or (
            hasattr(x, "__array__")
            and not hasattr(x, "__dlpack__")
            and not hasattr(x, "__cuda_array_interface__")
        )

    def version(self) -> str:
        import scipy

        ducc = ducc_version()
        transforms = f", ducc0 {ducc}" if ducc else ""
        return f"NumPy {np.__version__}, SciPy {scipy.__version__}{transforms}"

    def details(self) -> Mapping[str, str]:
        if _native_missing:
            return {
                "compiled core": f"no ({_native_missing}); install xconv again where there is a "
                "C++20 compiler, with XCONV_REQUIRE_NATIVE=1 to see why it fails"
            }
        return {"compiled core": f"{_native.isa()}, of {', '.join(_native.isas())} on this machine"}

    def namespace(self, x: Any) -> Any:
        return np

    def accept(self, x: Any) -> np.ndarray:
        refuse_masked(x, "x")
        try:
            return np.asarray(x)
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(
                f"x of type {type(x).__name__} is no array: {error}; pass one with a regular shape"
            ) from error

    def dtype_of_out(self, out: np.ndarray) -> str:
        return str(out.dtype)

    def workers(self) -> int:
        return _cpus()

    def from_numpy(self, x: np.ndarray) -> np.ndarray:
        return x

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)

    def asarray(self, values: np.ndarray, dtype: str, like: Any) -> np.ndarray:
        return np.array(values, dtype=np.dtype(dtype), order="C")

    def weights(self, problem: Problem, kernel: np.ndarray, like: Any) -> np.ndarray:
        weights = correlation_form(problem, kernel)
        if problem.dtype != problem.accumulator:
            weights = weights.astype(problem.dtype)
        return np.array(weights, problem.accumulator)  # a copy, its axes in the order of memory

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> np.ndarray:
        try:
            return aligned(shape, dtype)
        except (MemoryError, ValueError) as error:
            raise MemoryLimitError(
                f"the result of shape {shape} and dtype {dtype} does not fit in memory; "
                "use a larger stride, or convolve a part of the batch at a time"
            ) from error

    def check_out(self, out: Any, problem: Problem, x: Any) -> str | None:
        if type(out) is not np.ndarray and not isinstance(out, np.memmap):
            return f"is a {type(out).__module__}.{type(out).__name__}, not a NumPy array like x"
        return None if out.flags.writeable else "is read-only"

    def overlaps(self, out: np.ndarray, x: np.ndarray) -> bool:
        return np.may_share_memory(out, x)

    def same_memory(self, a: np.ndarray, b: np.ndarray) -> bool:
        return a.ctypes.data == b.ctypes.data and a.shape == b.shape and a.strides == b.strides

    def copy(self, x: np.ndarray) -> np.ndarray:
        return x.copy(order="K")

    def convert(self, x: np.ndarray, source: str, *targets: str) -> np.ndarray:
        for target in targets:
            x = x.astype(np.dtype(target), copy=False, order="K")
        return x

    def full(
        self, shape: tuple[int, ...], value: complex | None, dtype: str, like: Any
    ) -> np.ndarray:
        """In the memory order of `like`."""
        order = sorted(range(like.ndim), key=lambda a: -abs(like.strides[a]))
        sizes = [shape[i] for i in order]
        if value is None:
            padded = aligned(sizes, dtype)
        else:  # the system may give zeros without writing them
            padded = np.full(sizes, value, np.dtype(dtype)) if value else np.zeros(sizes, dtype)
        return padded.transpose(sorted(range(like.ndim), key=order.__getitem__))

    def weighted_sum(self, terms: Iterable[tuple[Any, Any]], dtype: str) -> Any:
        """The sum of window * weight in place, in the memory order of the windows."""
        rest = iter(terms)
        total = np.multiply(*next(rest))
        product = None
        for window, weight in rest:
            product = np.multiply(window, weight, out=product)
            np.add(total, product, out=total)
        return total

    def add(self, a: np.ndarray, b: np.ndarray) -> Any:
        return np.add(a, b, out=a)

    def peak(self, x: np.ndarray, axes: tuple[int, ...]) -> Any:
        x = np.abs(x) if x.dtype.kind == "c" else x
        high = low = x
        # An axis at a time where all at once would have NumPy's inner loop run over a short batch.
        inner = min(
            (a for a in range(x.ndim) if x.shape[a] > 1),
            key=lambda a: abs(x.strides[a]),
            default=-1,
        )
        order = sorted(axes, key=lambda a: -abs(x.strides[a]))
        for step in [axes] if inner in axes else [(a,) for a in order]:
            high, low = high.max(axis=step, keepdims=True), low.min(axis=step, keepdims=True)
        return np.maximum(high, -low).astype(np.float64).squeeze(axes)

    def transform(self, x: np.ndarray, n: tuple[int, ...], axes: tuple[int, ...]) -> Any:
        return forward(x, n, axes)

    def inverse(self, x: np.ndarray, n: tuple[int, ...], axes: tuple[int, ...], dtype: str) -> Any:
        real = not dtype.startswith("complex")
        return inverse(x, n, axes, real, [slice(None)] * len(axes))

    def kernel_sums(
        self, problem: Problem, x: np.ndarray, gy: np.ndarray, limits: Limits
    ) -> np.ndarray:
        return kernel_sums(self, problem, x, gy, limits)

    def input_sums(
        self,
        problem: Problem,
        weights: np.ndarray,
        gy: np.ndarray,
        gx: np.ndarray,
        before: Sequence[int],
        limits: Limits,
    ) -> bool:
        return _native_missing is None and window_sums(problem, weights, gy, gx, before, limits)

    def cut_order(self, x: np.ndarray, problem: Problem) -> Sequence[int]:
        """The axis with the longest stride first, so that blocks hold whole inner runs."""
        lead = len(problem.batch) + 1
        strides = x.strides[:lead] + x.strides[lead + 1 :]
        return sorted(range(len(strides)), key=lambda a: -abs(strides[a]))

    def each(
        self, one: Callable[[Block], Parts], blocks: Iterable[Block], y: np.ndarray, workers: int
    ) -> np.ndarray:
        def task(block: Block) -> None:
            with np.errstate(all="ignore"):
                for index, values in one(block):
                    y[index] = values

        share_out(task, blocks, workers)
        return y
