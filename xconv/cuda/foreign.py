"""CUDA arrays of other libraries: PyTorch, JAX, Numba, and whatever has the CUDA interface.

Their memory is used where it is, through DLPack or `__cuda_array_interface__`; nothing is copied,
and no library is imported that is not loaded already.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

__all__ = ["borrowed", "given_back", "is_foreign", "is_torch", "stream_of"]


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
        x = x.detach().resolve_conj().resolve_neg()
        if str(x.dtype) == "torch.bfloat16":  # not every CuPy that has it takes it by DLPack
            bits = cupy.from_dlpack(x.view(sys.modules["torch"].int16))
            return bits.view(np.dtype("bfloat16"))
        return cupy.from_dlpack(x)
    if _is(x, "jax", "Array"):
        return cupy.from_dlpack(x)
    return cupy.asarray(x)


def stream_of(x: Any) -> AbstractContextManager[Any]:
    """Makes the stream that the library of `x` works on CuPy's current one."""
    if is_torch(x):
        import cupy

        stream = sys.modules["torch"].cuda.current_stream(x.device)
        if hasattr(cupy.cuda.Stream, "from_external"):  # CuPy 14
            return cupy.cuda.Stream.from_external(stream)  # type: ignore[no-any-return]
        return cupy.cuda.ExternalStream(  # type: ignore[no-any-return]
            stream.cuda_stream, stream.device_index
        )
    return nullcontext()


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
