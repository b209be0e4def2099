"""The contract of a backend, with every step written against the array API standard.

A backend says which arrays are its own, lists the methods that run on them, and may replace any
step by a faster one.  A minimal one is a subclass with `name` and `owns`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import array_api_compat
import numpy as np

from ..arguments import dtype_name
from ..errors import ArgumentTypeError, MemoryLimitError
from ..layout import view
from ..methods.base import Block, Limits, Method
from ..methods.direct import Direct
from ..methods.fft import FFT
from ..methods.separable import Separable
from ..problem import Problem

__all__ = ["Backend", "refuse_masked"]

Index = tuple[Any, ...]
Parts = Iterator[tuple[Index, Any]]


def refuse_masked(array: Any, subject: str) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise ArgumentTypeError(
            f"{subject} is a masked array, whose mask would be lost; fill it first, e.g. with "
            ".filled(0), and convolve the mask too if you want to normalise"
        )


class Backend:
    """Runs methods on one kind of array."""

    name: ClassVar[str] = ""
    methods: ClassVar[tuple[Method, ...]] = (Direct(), FFT(), Separable())
    rates: Mapping[str, float] = {}
    """Units per second of one worker, by the names that the methods' Work uses."""
    block_bytes = 1 << 22
    """Scratch that a block should stay within to be fast."""
    bfloat16 = False
    """Whether there are methods for it."""
    parallel = 1
    """Times the work of one core that keeps one worker busy."""
    compiles = False
    """Whether first calls compile, which `xconv calibrate` then has done for many at once."""
    calibration_seconds = 0.05
    """Time that `xconv calibrate` spends on one method and case, unless one run takes longer."""

    def owns(self, x: Any) -> bool:
        """Whether arrays like `x` are this backend's."""
        raise NotImplementedError

    def by_type(self, x: Any) -> bool:
        """Whether arrays of the very type of `x` are all this backend's, and taken as they are."""
        return False

    def by_device(self, x: Any) -> bool:
        """The same of those that are on the `device` of `x`."""
        return False

    def unavailable(self) -> str | None:
        """Why the backend cannot run on this machine and what to install; None if it can."""
        return None

    def version(self) -> str:
        """What `xconv info` prints beside the name."""
        return ""

    def details(self) -> Mapping[str, str]:
        """What `xconv info` prints below it: devices, instruction sets, what is missing and why."""
        return {}

    def for_host(self) -> Backend | None:
        """The backend that sends NumPy arrays here and fetches the results, if there is one."""
        return None

    # What `xconv calibrate` needs.

    def default_rates(self) -> Mapping[str, float]:
        """The rates that hold until some are measured."""
        return type(self).rates

    def from_numpy(self, x: np.ndarray) -> Any:
        """`x` as an array of this backend; None where that takes another array like it."""
        return None

    def seconds(self, run: Callable[[], Any]) -> float:
        """How long a call and the work that it orders take."""
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    # Arrays in and out.

    def namespace(self, x: Any) -> Any:
        """The array API namespace of `x`."""
        return array_api_compat.array_namespace(x)

    def accept(self, x: Any) -> Any:
        """`x` as an array of this backend, refused with the reason if it cannot be one."""
        return x

    def workers(self) -> int:
        """Threads used unless told."""
        return 1

    def lent(self, x: Any, out: Any) -> AbstractContextManager[tuple[Any, Any]] | None:
        """`x` and `out` (or None) as arrays that this backend works on, for one call.

        None where they are such arrays.
        """
        return None

    def new(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        """An array for a result in the library of `like`, if that is lent and makes its own."""
        return None

    def session(self, x: Any, y: Any) -> AbstractContextManager[tuple[Any, Any]]:
        """Both as arrays that every step takes, on the device and stream of `x` meanwhile."""
        return nullcontext((x, y))

    def given_back(self, y: Any, like: Any) -> Any:
        """What a session has made, in the type of `like`."""
        return y

    def accept_kernel(self, k: Any, x: Any) -> Any:
        """`k` as an array of this backend, or a NumPy array that goes to the device of `x`."""
        refuse_masked(k, "the kernel")
        if isinstance(k, np.ndarray):
            return k
        if hasattr(k, "dtype") and self.owns(k) and self.namespace(k) is self.namespace(x):
            return k
        try:
            return np.asarray(k)
        except Exception as error:
            raise ArgumentTypeError(
                f"the kernel of type {type(k).__name__} cannot become an array beside x: {error}; "
                "pass a NumPy array, a nested list of equal lengths, or an array like x"
            ) from error

    def weights(self, problem: Problem, kernel: Any, like: Any) -> Any:
        """The kernel in correlation form, canonical (G, O, I, spatial...), ready to multiply."""
        host = isinstance(kernel, np.ndarray)
        xp = np if host else self.namespace(kernel)
        weights = view(kernel, problem.views[1], xp)
        if problem.op == "convolve":
            weights = xp.flip(weights, axis=tuple(range(3, 3 + problem.spatial)))
        elif problem.k_dtype.startswith("complex"):
            weights = xp.conj(weights)
        if host:
            weights = weights.astype(np.dtype(problem.dtype), copy=False)
            return self.asarray(weights, problem.accumulator, like)
        return self.convert(weights, problem.k_dtype, problem.dtype, problem.accumulator)

    def bound(self, problem: Problem, kernel: Any, like: Any) -> Any:
        """The kernel as the methods of this backend are given it: its `weights`."""
        return self.weights(problem, kernel, like)

    def bound_once(self, problem: Problem, kernel: Any, like: Any) -> Any:
        """`bound` for a kernel that a call has brought, and the next may bring again."""
        return self.bound(problem, kernel, like)

    def to_numpy(self, x: Any) -> np.ndarray:
        """`x` on the host."""
        if hasattr(x, "detach"):
            x = x.detach().cpu().resolve_conj()
        return np.asarray(x)

    def asarray(self, values: np.ndarray, dtype: str, like: Any) -> Any:
        """NumPy values as an array of this backend, on the device of `like`."""
        xp = self.namespace(like)
        values = np.array(values, dtype=np.dtype(dtype), order="C")
        return xp.asarray(values, device=array_api_compat.device(like))

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        """A new array on the device of `like`, in the memory order that suits it."""
        xp = self.namespace(like)
        try:
            return xp.empty(shape, dtype=getattr(xp, dtype), device=array_api_compat.device(like))
        except (MemoryError, RuntimeError) as error:
            raise MemoryLimitError(
                f"the result of shape {shape} and dtype {dtype} does not fit in memory; "
                "use a larger stride, or convolve a part of the batch at a time"
            ) from error

    def check_out(self, out: Any, problem: Problem, x: Any) -> str | None:
        """What is wrong with `out` besides its shape and dtype, or None."""
        if not self.owns(out):
            return f"is a {type(out).__module__}.{type(out).__name__}, not an array like x"
        where, wanted = array_api_compat.device(out), array_api_compat.device(x)
        return None if where == wanted else f"is on device {where} but x on {wanted}"

    def dtype_of_out(self, out: Any) -> str:
        return dtype_name(out.dtype, "out of dtype")

    def overlaps(self, out: Any, x: Any) -> bool:
        """Whether the two may share memory; True where it cannot be told."""
        return True

    def same_memory(self, a: Any, b: Any) -> bool:
        """Whether element i of the one is element i of the other, in place."""
        return a is b

    def copy(self, x: Any) -> Any:
        return self.namespace(x).asarray(x, copy=True)

    # Steps of the methods.

    def convert(self, x: Any, source: str, *targets: str) -> Any:
        """`x` of dtype `source` converted to each target in turn; itself if there is none to do."""
        xp = self.namespace(x)
        for target in targets:
            if target != source:
                x, source = xp.astype(x, getattr(xp, target)), target
        return x

    def full(self, shape: tuple[int, ...], value: complex | None, dtype: str, like: Any) -> Any:
        """Filled with `value`; with anything where that is None."""
        xp = self.namespace(like)
        device = array_api_compat.device(like)
        if value is None:
            return xp.empty(shape, dtype=getattr(xp, dtype), device=device)
        value = bool(value) if dtype == "bool" else value
        return xp.full(shape, value, dtype=getattr(xp, dtype), device=device)

    def assign(self, target: Any, index: Index, values: Any) -> Any:
        """`target` with `values` written at the index; immutable arrays give a new one."""
        target[index] = values
        return target

    def take(self, x: Any, index: np.ndarray, axis: int) -> Any:
        xp = self.namespace(x)
        return xp.take(x, xp.asarray(index, device=array_api_compat.device(x)), axis=axis)

    def flip(self, x: Any, axes: tuple[int, ...]) -> Any:
        return self.namespace(x).flip(x, axis=axes)

    def swap(self, x: Any, a: int, b: int) -> Any:
        """`x` with two axes exchanged."""
        order = list(range(len(x.shape)))
        order[a], order[b] = b, a
        return self.namespace(x).permute_dims(x, tuple(order))

    def reshape(self, x: Any, shape: tuple[int, ...]) -> Any:
        return self.namespace(x).reshape(x, shape)

    def expand(self, x: Any, axis: int) -> Any:
        return self.namespace(x).expand_dims(x, axis=axis)

    def weighted_sum(self, terms: Iterable[tuple[Any, Any]], dtype: str) -> Any:
        """The sum of window * weight, one term after the other."""
        total = None
        for window, weight in terms:
            if dtype == "bool":
                product = window & weight
                total = product if total is None else total | product
            else:
                product = window * weight
                total = product if total is None else total + product
        return total

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def peak(self, x: Any, axes: tuple[int, ...]) -> np.ndarray:
        """Largest magnitude over the axes, NaN where one is NaN, on the host in float64."""
        xp = self.namespace(x)
        return self.to_numpy(xp.max(xp.abs(x), axis=axes)).astype(np.float64)

    def transform(self, x: Any, n: tuple[int, ...], axes: tuple[int, ...]) -> Any:
        """Discrete Fourier transform of `x`, zero-padded to lengths `n`; half if `x` is real."""
        xp = self.namespace(x)
        real = xp.isdtype(x.dtype, "real floating")
        return (xp.fft.rfftn if real else xp.fft.fftn)(x, s=n, axes=axes)

    def inverse(self, x: Any, n: tuple[int, ...], axes: tuple[int, ...], dtype: str) -> Any:
        """Inverse of `transform` to the dtype named."""
        xp = self.namespace(x)
        if dtype.startswith("complex"):
            return xp.fft.ifftn(x, s=n, axes=axes)
        return xp.fft.irfftn(x, s=n, axes=axes)

    def kernel_sums(self, problem: Problem, x: Any, gy: Any, limits: Limits) -> Any:
        """The sum over b and p of conj(gy[b, g, o, p]) xp[b, g, i, p*s + t*d], (G, O, I, taps...).

        `x` and `gy` are canonical, the sums of the accumulator's dtype.  None where the backend
        has no faster way than a correlation of `x` with `gy`.
        """
        return None

    def input_sums(
        self,
        problem: Problem,
        weights: Any,
        gy: Any,
        gx: Any,
        before: Sequence[int],
        limits: Limits,
    ) -> bool:
        """Whether gx[b, g, i, q] was set to the sums of gy[b, g, o, p] weights[g, o, i, t] over
        all p*s + t*d - before = q.

        All arrays are canonical.  False, with nothing done, where the backend has no faster way
        than correlations of `gy` with every s-th tap.
        """
        return False

    def cut_order(self, x: Any, problem: Problem) -> Sequence[int]:
        """Axes of (batch..., G, spatial...), those to cut into blocks first at the front."""
        return range(len(problem.batch) + 1 + problem.spatial)

    def each(
        self, one: Callable[[Block], Parts], blocks: Iterable[Block], y: Any, workers: int
    ) -> Any:
        """`y` with the parts of every block written to it."""
        with np.errstate(all="ignore"):  # for namespaces that compute with NumPy
            for block in blocks:
                for index, values in one(block):
                    y = self.assign(y, index, values)
        return y
