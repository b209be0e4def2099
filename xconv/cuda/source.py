"""The text of a kernel: what it is compiled for, and the files that it consists of."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources

import numpy as np

__all__ = ["kernel_source", "sum_dtype"]

_STORED = {
    "bool": "Bool",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned",
    "int64": "long long",
    "uint64": "unsigned long long",
    "float16": "Half",
    "bfloat16": "Brain",
    "float32": "float",
    "float64": "double",
    "complex64": "Complex<float>",
    "complex128": "Complex<double>",
}
"""C++ type of one element in memory, by dtype."""
_HEADERS = {
    "any": ("taps.cuh",),
    "tiled": ("copies.cuh",),
    "layer": ("copies.cuh",),
    "gather": ("tiles.cuh",),
    "scatter": ("tiles.cuh",),
    "repair": ("taps.cuh", "tiles.cuh"),
}
"""What a kernel needs besides types.cuh and geometry.cuh."""


@functools.cache
def sum_dtype(dtype: str) -> np.dtype[np.generic]:
    """In what the kernels sum a result of the dtype named: integers in unsigned ones.

    >>> sum_dtype("int16"), sum_dtype("float16"), sum_dtype("complex64")
    (dtype('uint32'), dtype('float32'), dtype('complex64'))
    """
    if dtype in ("float16", "bfloat16"):
        return np.dtype(np.float32)
    kind = np.dtype(dtype)
    if kind.kind in "biu":
        return np.dtype(np.uint64 if kind.itemsize == 8 else np.uint32)
    return kind


def supported(dtype: str) -> bool:
    """Whether the kernels have the dtype."""
    return dtype in _STORED


@functools.cache
def _text(name: str) -> str:
    return (resources.files(__package__) / "kernels" / name).read_text(encoding="utf-8")


def kernel_source(name: str, x_dtype: str, dtype: str, constants: Mapping[str, int | str]) -> str:
    """CUDA C++ of the kernel named ("any", "tiled", ...), as one text without includes.

    `constants` become macros in front of it.
    """
    total = "Truth" if dtype == "bool" else _STORED[sum_dtype(dtype).name]
    return "\n".join(
        [
            _text("types.cuh"),
            f"using Input = {_STORED[x_dtype]};",
            f"using Value = {_STORED[dtype]};",
            f"using Sum = {total};",
            *(f"#define {key} {value}" for key, value in constants.items()),
            _text("geometry.cuh"),
            *map(_text, _HEADERS.get(name, ())),
            _text(f"{name}.cu"),
        ]
    )
