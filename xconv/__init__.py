"""Convolve batches of signals, images and volumes, in any axis layout, on CPU and CUDA."""

from .adjoint import gradients, input_gradient, kernel_gradient, transpose_convolve
from .api import convolve, correlate, plan
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    BackendUnavailable,
    MemoryLimitError,
    MethodRefused,
    XconvError,
)
from .plan import Plan, Spec

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BackendUnavailable",
    "MemoryLimitError",
    "MethodRefused",
    "Plan",
    "Spec",
    "XconvError",
    "convolve",
    "correlate",
    "gradients",
    "input_gradient",
    "kernel_gradient",
    "plan",
    "transpose_convolve",
]
