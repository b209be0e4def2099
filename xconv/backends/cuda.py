"""CUDA arrays: our kernels, cuFFT through CuPy, on the caller's device and stream."""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any

import numpy as np

from ..cuda import foreign
from ..cuda.device import CuPyDevice, Device, cache_folder
from ..cuda.direct import AnyDirect, TiledDirect
from ..cuda.layers import LayerDirect
from ..cuda.rates import rates
from ..cuda.status import reason, status
from ..cuda.transforms import ArrayDirect, CuFFT, SeparablePasses
from ..cuda.weights import Weights
from ..errors import MemoryLimitError
from ..methods.base import Method
from ..problem import Problem, itemsize
from .base import Backend, refuse_masked
from .streamed import StreamedBackend

__all__ = ["CUDABackend"]

_REMEMBERED, _REMEMBERED_BYTES = 16, 4 << 20
"""Problems whose last kernel is remembered, and most bytes of it, and of each thing made of it."""


class CUDABackend(Backend):
    """CuPy arrays, and CUDA arrays of PyTorch, JAX and Numba without a copy.

    Work is ordered on the stream that is current for the library of `x`; no call waits for the
    device, but for reading back a kernel that is on the device where the choice of method (or
    method="separable" and "fft") needs its values.
    """

    name = "cuda"
    methods: tuple[Method, ...] = (  # type: ignore[misc]
        TiledDirect(),
        AnyDirect(),
        LayerDirect(),
        CuFFT(),
        SeparablePasses(),
        ArrayDirect(),
    )
    bfloat16 = True
    parallel = 64  # a call of what takes a core a millisecond would measure the call
    compiles = True
    calibration_seconds = 0.005  # by the device's events, which vary little
    block_bytes = 24 << 20  # a few transforms that stay in the second-level cache of an H100

    def __init__(self, device: Device | None = None) -> None:
        self._given = device
        self._last: dict[Problem, tuple[bytes, Weights]] = {}

    @functools.cached_property
    def device(self) -> Device:
        return self._given or CuPyDevice()

    @functools.cached_property
    def rates(self) -> Mapping[str, float]:  # type: ignore[override]
        return self.default_rates()

    def default_rates(self) -> Mapping[str, float]:
        if self._given is None and status()[0] == "ok":
            import cupy

            card = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
            return rates(card)
        return rates("H100")

    def from_numpy(self, x: np.ndarray) -> Any:
        return self.device.xp.asarray(x)

    def seconds(self, run: Callable[[], Any]) -> float:
        return self.device.seconds(run)

    def owns(self, x: Any) -> bool:
        if self._given is not None:
            return self._given.owns(x)
        cupy = sys.modules.get("cupy")
        if cupy is not None and isinstance(x, getattr(cupy, "ndarray", ())):
            return True
        # Other libraries' arrays have a backend too, which is used where CuPy is missing.
        return foreign.is_foreign(x) and importlib.util.find_spec("cupy") is not None

    def by_type(self, x: Any) -> bool:
        return self.device.owns(x)

    def by_device(self, x: Any) -> bool:
        return foreign.is_torch(x)

    def unavailable(self) -> str | None:
        return None if self._given is not None else reason()

    def version(self) -> str:
        if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
            return "CuPy not installed"
        from importlib import metadata

        names = ("cupy", "cupy-cuda12x", "cupy-cuda13x")
        for name in names:
            try:
                return f"CuPy {metadata.version(name)}"
            except metadata.PackageNotFoundError:
                continue
        return "CuPy of unknown version"

    def details(self) -> Mapping[str, str]:
        found = {"compiled kernels": str(cache_folder())}
        if self._given is None:
            state, sentence = status()
            found = {"status": f"{state}: {sentence}", **found}
            if state != "ok":
                return found
        return {**found, **self.device.details()}

    def for_host(self) -> Backend:
        return self._for_host

    @functools.cached_property
    def _for_host(self) -> Backend:
        return StreamedBackend(self)

    # Arrays in and out: the caller's own stay what they are, and are borrowed for a session.

    def namespace(self, x: Any) -> Any:
        return super().namespace(x) if foreign.is_foreign(x) else self.device.xp

    @contextmanager
    def _lent(self, x: Any, out: Any) -> Iterator[tuple[Any, Any]]:
        source, target = self.borrowed(x), None if out is None else self.borrowed(out)
        with self.device.active(source), foreign.stream_of(x):
            yield source, target

    def lent(self, x: Any, out: Any) -> AbstractContextManager[tuple[Any, Any]] | None:
        return None if self.device.owns(x) else self._lent(x, out)

    def session(self, x: Any, y: Any) -> AbstractContextManager[tuple[Any, Any]]:
        """`x` and `y` as arrays of the device, which and whose stream are current meanwhile."""
        return _Session(self, x, y)

    def there(self, x: Any) -> AbstractContextManager[Any]:
        """Makes the device of `x`, and the stream that its library works on, the current ones."""
        return self.device.active(x) if self.device.owns(x) else self._lent(x, None)

    def borrowed(self, x: Any) -> Any:
        """`x` as an array of the device, on the same memory."""
        return x if self.device.owns(x) else foreign.borrowed(x)

    def given_back(self, y: Any, like: Any) -> Any:
        if self.device.owns(y) and not self.device.owns(like):
            return foreign.given_back(y, like)
        return y

    def accept_kernel(self, k: Any, x: Any) -> Any:
        refuse_masked(k, "the kernel")
        if self.owns(k):
            return self.borrowed(k)
        return super().accept_kernel(k, x)

    def bound(self, problem: Problem, kernel: Any, like: Any) -> Weights:
        return Weights(self.device, problem, kernel)

    def bound_once(self, problem: Problem, kernel: Any, like: Any) -> Weights:
        """The weights of the last kernel again where the values are the same.

        So that they are not sent over and prepared by each of many calls with one kernel.
        """
        if type(kernel) is not np.ndarray or kernel.nbytes > _REMEMBERED_BYTES:
            return self.bound(problem, kernel, like)
        values = kernel.tobytes()
        last = self._last.get(problem)
        if last is None or last[0] != values:
            if len(self._last) >= _REMEMBERED:
                self._last.clear()
            last = values, Weights(self.device, problem, kernel.copy(), _REMEMBERED_BYTES)
            self._last[problem] = last
        return last[1]

    def to_numpy(self, x: Any) -> np.ndarray:
        return self.device.to_numpy(self.borrowed(x)) if self.owns(x) else np.asarray(x)

    def asarray(self, values: np.ndarray, dtype: str, like: Any) -> Any:
        return self.device.xp.asarray(np.array(values, dtype=np.dtype(dtype), order="C"))

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        try:
            if self.device.owns(like) and self.device.holds(like) is not None:
                return self.device.empty(shape, np.dtype(dtype))
            with self.there(like):
                return self.device.empty(shape, np.dtype(dtype))
        except MemoryError as error:
            raise _no_room(shape, dtype, error) from error

    def new(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        if self.device.owns(like):
            return None
        try:
            return foreign.empty(shape, dtype, like)
        except MemoryError as error:
            raise _no_room(shape, dtype, error) from error

    def full(self, shape: tuple[int, ...], value: complex | None, dtype: str, like: Any) -> Any:
        if value is None:
            return self.device.empty(shape, np.dtype(dtype))
        value = bool(value) if dtype == "bool" else value
        return self.device.xp.full(shape, value, dtype=np.dtype(dtype))

    def take(self, x: Any, index: np.ndarray, axis: int) -> Any:
        xp = self.device.xp
        return xp.take(x, xp.asarray(index), axis=axis)

    def check_out(self, out: Any, problem: Problem, x: Any) -> str | None:
        for are_ours in (self.device.owns, foreign.is_torch):
            if are_ours(out) and are_ours(x) and out.device == x.device:
                return None
        return super().check_out(out, problem, x)

    def overlaps(self, out: Any, x: Any) -> bool:
        return bool(self.device.xp.may_share_memory(self.borrowed(out), self.borrowed(x)))

    def same_memory(self, a: Any, b: Any) -> bool:
        a, b = self.borrowed(a), self.borrowed(b)
        return (self.device.pointer(a), a.strides) == (self.device.pointer(b), b.strides)

    def copy(self, x: Any) -> Any:
        with self.there(x):
            return self.borrowed(x).copy()

    def peak(self, x: Any, axes: tuple[int, ...]) -> np.ndarray:
        """Ones: the rows look for values that no transform can take on the device, afterwards."""
        return np.ones([n for axis, n in enumerate(x.shape) if axis not in axes])


class _Session:
    """What `CUDABackend.session` returns; written out, since small calls notice a generator."""

    __slots__ = ("_backend", "_there", "_x", "_y")

    def __init__(self, backend: CUDABackend, x: Any, y: Any) -> None:
        self._backend, self._x, self._y = backend, x, y
        self._there = backend.there(x)

    def __enter__(self) -> tuple[Any, Any]:
        device = self._backend.device
        x, y = self._backend.borrowed(self._x), self._backend.borrowed(self._y)
        self._there.__enter__()
        if math.gcd(device.pointer(x), *x.strides) % x.dtype.itemsize:
            try:
                x = x.copy()  # the kernels read whole elements
            except BaseException:
                self.__exit__(*sys.exc_info())
                raise
        return x, y

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._there.__exit__(kind, error, trace)
        if isinstance(error, MemoryError) and not isinstance(error, MemoryLimitError):
            raise MemoryLimitError(
                f"the device ran out of memory for scratch: {error}; give max_memory= less, use "
                'method="direct", which needs none, or convolve a part of the batch at a time'
            ) from error


def _no_room(shape: tuple[int, ...], dtype: str, error: MemoryError) -> MemoryLimitError:
    wanted = math.prod(shape) * itemsize(dtype)
    return MemoryLimitError(
        f"the result of shape {shape} and dtype {dtype} takes {wanted:,} bytes, which the device "
        f"does not have free ({error}); use a larger stride, or convolve a part of the batch at a "
        "time"
    )
