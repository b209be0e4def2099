"""Any namespace of the array API standard: PyTorch, JAX, array-api-strict and others."""

from __future__ import annotations

from typing import Any

import array_api_compat

from ..errors import ArgumentTypeError
from .base import Backend, Index

__all__ = ["ArrayAPIBackend"]


class ArrayAPIBackend(Backend):
    name = "array_api"
    # PyTorch on two cores of a Zen 3 at 2.45 GHz, 2026-11-24; units per second.
    rates = {
        "calls": 1.2e5,
        "fft.calls": 2e4,
        "svd": 3e7,
        "efficiency": 1.0,
    } | {
        f"{kind}.{dtype}": rate / share
        for dtype, share in (
            ("float32", 1),
            ("float64", 2),
            ("complex64", 4),
            ("complex128", 8),
            ("float128", 100),
            ("complex256", 400),
            *((f"{sign}int{bits}", bits / 16) for sign in ("", "u") for bits in (8, 16, 32, 64)),
            ("bool", 1),
        )
        for kind, rate in (
            ("direct", 2e9),
            ("fft", 2e9),
            ("fft.large", 1e9),
            ("spectral", 1e9),
            ("gather", 1e9),
        )
    }

    def owns(self, x: Any) -> bool:
        return bool(array_api_compat.is_array_api_obj(x))

    def version(self) -> str:
        return f"array-api-compat {array_api_compat.__version__}"

    def accept(self, x: Any) -> Any:
        if array_api_compat.is_dask_array(x) or array_api_compat.is_pydata_sparse_array(x):
            raise ArgumentTypeError(
                f"x is a {type(x).__module__}.{type(x).__name__}, which is not held in memory "
                "densely; compute or densify it first, e.g. with x.compute() or x.todense()"
            )
        return x

    def assign(self, target: Any, index: Index, values: Any) -> Any:
        if hasattr(target, "at") and array_api_compat.is_jax_array(target):
            return target.at[index].set(values)
        target[index] = values
        return target
