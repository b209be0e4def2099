"""`xconv explain`: the planner's table for a problem given by its sizes."""

from __future__ import annotations

from typing import Any

from .. import Spec, plan
from ..arguments import dtype_name
from ..files import read
from .options import Options, read_shape

__all__ = ["explanation"]


def explanation(shape: str, x_dtype: str, kernel: str, kernel_dtype: str, options: Options) -> str:
    """What `Plan.explain` says; the kernel's values count where it is a file."""
    x = Spec(read_shape("--shape", shape), dtype_name(x_dtype, "--x-dtype"))
    k: Any
    if "." in kernel or "/" in kernel:
        k = read(kernel)
    else:
        k = Spec(read_shape("--kernel", kernel), dtype_name(kernel_dtype, "--kernel-dtype"))
    return plan(x, k, options.op, **options.keywords()).explain()
