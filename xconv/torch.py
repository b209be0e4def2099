"""convolve and correlate for PyTorch tensors, differentiable by autograd, also twice.

Tensors on the CPU share their memory with NumPy, so that xconv's CPU backend computes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd import Function

from . import adjoint, api
from .errors import ArgumentTypeError

__all__ = ["convolve", "correlate"]


def convolve(x: torch.Tensor, k: torch.Tensor, /, **options: Any) -> torch.Tensor:
    """`xconv.convolve` of two tensors; the result carries gradients by both.

    Takes the options of `xconv.convolve` but `out`.

    >>> import torch, xconv.torch
    >>> x, k = torch.ones(5, requires_grad=True), torch.tensor([1.0, 2.0])
    >>> xconv.torch.convolve(x, k, mode="valid").sum().backward()
    >>> x.grad
    tensor([2., 3., 3., 3., 1.])
    """
    return _apply("convolve", x, k, options)


def correlate(x: torch.Tensor, k: torch.Tensor, /, **options: Any) -> torch.Tensor:
    """`xconv.correlate` of two tensors; the result carries gradients by both.

    >>> import torch, xconv.torch
    >>> x, k = torch.arange(4.0), torch.ones(2, requires_grad=True)
    >>> xconv.torch.correlate(x, k, mode="valid").sum().backward()
    >>> k.grad
    tensor([3., 6.])
    """
    return _apply("correlate", x, k, options)


def _apply(op: str, x: torch.Tensor, k: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    for name, tensor in (("x", x), ("k", k)):
        if not isinstance(tensor, torch.Tensor):
            raise ArgumentTypeError(
                f"{name} is a {type(tensor).__name__}; xconv.torch takes tensors, so pass "
                f"torch.as_tensor({name}), or use xconv.{op}"
            )
    if "out" in options:
        raise ArgumentTypeError(f"xconv.torch.{op} takes no out=, which autograd cannot record")
    result: torch.Tensor = _convolve(x, k, op, options)
    return result


def _array(tensor: torch.Tensor) -> Any:
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def _tensor(array: Any) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array)


class _Convolve(Function):
    """y = A(k) x, linear in both; with cval it is affine in `x`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, k: torch.Tensor, op: str, options: Any) -> torch.Tensor:
        ctx.save_for_backward(x, k)
        ctx.op, ctx.options = op, options
        return _tensor(getattr(api, op)(_array(x), _array(k), **options))

    @staticmethod
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[Any, ...]:
        x, k = ctx.saved_tensors
        wants_x, wants_k = ctx.needs_input_grad[:2]
        return (
            _input_gradient(x, k, gy, ctx.op, ctx.options) if wants_x else None,
            _kernel_gradient(x, k, gy, ctx.op, ctx.options) if wants_k else None,
            None,
            None,
        )


class _InputGradient(Function):
    """gx = A(k)^H gy; of `x` only shape and dtype matter."""

    @staticmethod
    def forward(ctx: Any, x: Any, k: Any, gy: Any, op: str, options: Any) -> torch.Tensor:
        ctx.save_for_backward(x, k, gy)
        ctx.op, ctx.options = op, options
        gx = adjoint.input_gradient(_array(x), _array(k), _array(gy), op, **options)
        return _tensor(gx)

    @staticmethod
    def backward(ctx: Any, v: torch.Tensor) -> tuple[Any, ...]:
        _, k, gy = ctx.saved_tensors
        linear = ctx.options | {"cval": 0}
        _, wants_k, wants_gy = ctx.needs_input_grad[:3]
        return (
            None,
            _kernel_gradient(v, k, gy, ctx.op, linear) if wants_k else None,
            _convolve(v, k, ctx.op, linear) if wants_gy else None,
            None,
            None,
        )


class _KernelGradient(Function):
    """gk = B(x)^H gy, where y = B(x) k; of `k` only shape and dtype matter."""

    @staticmethod
    def forward(ctx: Any, x: Any, k: Any, gy: Any, op: str, options: Any) -> torch.Tensor:
        ctx.save_for_backward(x, k, gy)
        ctx.op, ctx.options = op, options
        gk = adjoint.kernel_gradient(_array(x), _array(k), _array(gy), op, **options)
        return _tensor(gk)

    @staticmethod
    def backward(ctx: Any, v: torch.Tensor) -> tuple[Any, ...]:
        x, _, gy = ctx.saved_tensors
        return (
            _input_gradient(x, v, gy, ctx.op, ctx.options) if ctx.needs_input_grad[0] else None,
            None,
            _convolve(x, v, ctx.op, ctx.options) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


# PyTorch leaves `apply` without types.
_convolve: Any = _Convolve.apply
_input_gradient: Any = _InputGradient.apply
_kernel_gradient: Any = _KernelGradient.apply
