"""CUDA arrays of other libraries: PyTorch, JAX, Numba, and whatever has the CUDA interface.

Their memory is used where it is, by its address, DLPack or `__cuda_array_interface__`; nothing is
copied, and no library is imported that is not loaded already.
"""

from __future__ import annotations

import functools
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from ..arguments import dtype_name
from ..errors import ArgumentTypeError

__all__ = ["borrowed", "empty", "given_back", "is_foreign", "is_torch", "stream_of"]


def _is(x: Any, module: str, name: str) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(x, getattr(loaded, name, ()))


def is_torch(x: Any) -> bool:
    return _is(x, "torch", "Tensor")


def is_foreign(x: Any) -> bool:
    """Whether `x` is another library's array in the memory of a CUDA device."""
    if is_torch(x):
        return bool(x.is_cuda)
    if _is(x, "jax", "Array"):
        return all(device.platform == "gpu" for device in x.devices())
    return hasattr(x, "__cuda_array_interface__") and not _is(x, "cupy", "ndarray")


def borrowed(x: Any) -> Any:
    """`x` as a CuPy array on the same memory; itself where it is one."""
    import cupy

    if isinstance(x, cupy.ndarray):
        return x
    if is_torch(x):
        return _tensor(cupy, x.resolve_conj().resolve_neg())
    if _is(x, "jax", "Array"):
        return cupy.from_dlpack(x)
    return cupy.asarray(x)


@functools.lru_cache(64)
def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    return np.dtype(dtype_name(dtype, "a tensor of dtype"))


def _tensor(cupy: Any, x: Any) -> Any:
    """By its address: DLPack takes five times as long, and bfloat16 not with every CuPy."""
    dtype = _numpy_dtype(x.dtype)
    shape, strides = tuple(x.shape), tuple(dtype.itemsize * step for step in x.stride())
    first, last = x.data_ptr(), sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if first == 0 and 0 not in shape:
        raise ArgumentTypeError(f"a tensor on device {x.device} has no memory; pass one that has")
    size = 0 if 0 in shape else last + dtype.itemsize
    memory = cupy.cuda.UnownedMemory(first, size, x, x.get_device())
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0), strides=strides)


def stream_of(x: Any) -> AbstractContextManager[Any]:
    """Makes the stream that the library of `x` works on CuPy's current one.

    The device of `x` must be the current one.
    """
    if is_torch(x):
        import cupy

        torch = sys.modules["torch"]
        address = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # in a tenth of the time
        if address and address(x.get_device()) == cupy.cuda.get_current_stream().ptr:
            return nullcontext()
        stream = torch.cuda.current_stream(x.device)
        if hasattr(cupy.cuda.Stream, "from_external"):  # CuPy 14
            return cupy.cuda.Stream.from_external(stream)  # type: ignore[no-any-return]
        return cupy.cuda.ExternalStream(  # type: ignore[no-any-return]
            stream.cuda_stream, stream.device_index
        )
    return nullcontext()


def empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
    """A new array of the library of `like`; None where one of CuPy's becomes one as easily."""
    if not is_torch(like):
        return None
    torch = sys.modules["torch"]
    try:
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error


def given_back(y: Any, like: Any) -> Any:
    """The CuPy array `y` as an array of the library of `like`, on the same memory."""
    if is_torch(like):
        torch = sys.modules["torch"]
        if y.dtype.name == "bfloat16":
            return torch.from_dlpack(y.view(np.int16)).view(torch.bfloat16)
        return torch.from_dlpack(y)
    if _is(like, "jax", "Array"):
        return sys.modules["jax"].dlpack.from_dlpack(y)
    if "numba" in sys.modules and type(like).__module__.startswith("numba"):
        return sys.modules["numba"].cuda.as_cuda_array(y)
    return y
