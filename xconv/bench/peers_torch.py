"""PyTorch's convolutions in each memory format."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import xconv

from .cases import Case
from .contender import Array, Contender, Refused, copies, optional, ordered, packed

__all__ = ["torch_conv"]

PADS = {"mirror": "reflect", "nearest": "replicate", "wrap": "circular"}


def torch_conv(
    how: str,
    case: Case,
    x: Any,
    k: Array,
    workers: int,
    device: str,
    back: Callable[[Any], Any] = np.asarray,
) -> Contender:
    """conv1d/2d/3d on (N, C, ...) in "contiguous" memory or "channels_last"; a batch that is
    not channels goes in N, or ("depthwise") in C with channels_last, one group each.

    `x` is an array of NumPy, or of CuPy on the device, and `back` makes one of a tensor.
    """
    torch = optional("torch", "torch==2.13.0")
    dims = len(case.spatial)
    if dims > 3:
        raise Refused("convolves one to three axes")
    channel = "C" if case.summed or "C" in case.kernel_layout else ""
    if how == "depthwise" and (channel or "O" in case.kernel_layout):
        raise Refused("the case has channels of its own")
    if how != "contiguous" and dims == 1:
        raise Refused("channels_last is for images and volumes")
    if how == "channels_last" and not channel:
        raise Refused("one channel: the same as contiguous")
    batch = "".join(a for a in case.layout if a not in case.spatial + channel)
    letters = batch + channel + case.spatial
    moved = ordered(x, case.layout, letters)
    sizes = moved.shape[len(batch) :]
    lead = math.prod(moved.shape[: len(batch)])
    weight = _weight(torch, case, k, lead if how == "depthwise" else 1)
    padding = xconv.plan(
        xconv.Spec(x.shape, x.dtype), xconv.Spec(k.shape, k.dtype), case.op, **case.options
    ).problem.padding
    groups = case.groups if case.summed else lead if how == "depthwise" else 1
    if channel and not case.summed:
        groups = sizes[0]
    even = all(low == high for low, high in padding)
    inside = case.boundary == "constant" and even
    if case.boundary not in ("constant", *PADS):
        raise Refused(f"has no border {case.boundary!r}")
    pads = [p for pair in reversed(padding) for p in pair]
    if how == "depthwise":
        image = moved.reshape(1, lead, *sizes)
    else:
        image = moved.reshape(lead, *(sizes if channel else (1, *sizes)))
    if any(s < 0 for s in image.strides) or not image.dtype.isnative:
        raise Refused("takes no negative strides or foreign byte order")
    if how != "contiguous":
        last = image.transpose(0, *range(2, image.ndim), 1)
        image = packed(last).transpose(0, image.ndim - 1, *range(1, image.ndim - 1))
    else:
        image = packed(image)
    tensor = torch.as_tensor(image, device=device)
    weight = weight.to(device)
    if how != "contiguous":
        kind = torch.channels_last if dims == 2 else torch.channels_last_3d
        weight = weight.contiguous(memory_format=kind)
    convolve = getattr(torch.nn.functional, f"conv{dims}d")
    mode = PADS.get(case.boundary, "constant")

    def run() -> Any:
        with torch.inference_mode():
            given = tensor if tensor.dtype == weight.dtype else tensor.to(weight.dtype)
            if not inside:
                given = torch.nn.functional.pad(given, pads, mode=mode)
            low = [pair[0] for pair in padding] if inside else 0
            return convolve(given, weight, stride=case.stride, padding=low, groups=groups)

    kept = "O" if "O" in case.kernel_layout else channel
    named = batch + kept + case.spatial

    def result(y: Any) -> Array:
        y = back(y)
        y = y.reshape(*moved.shape[: len(batch)], *((-1,) if kept else ()), *y.shape[-dims:])
        return ordered(y, named, case.result_layout)

    natural = (
        moved.flags.c_contiguous
        if how == "contiguous"
        else x.flags.c_contiguous
        and (
            case.layout == batch + case.spatial + channel
            if channel
            else case.layout == case.spatial + batch
        )
    )
    suffix = {
        "contiguous": "",
        "channels_last": ", channels_last",
        "depthwise": ", batch as channels",
    }
    return Contender(
        f"torch conv{dims}d{suffix[how]}", run, result, None if natural else copies(moved)
    )


def _weight(torch: Any, case: Case, k: Array, copies: int) -> Any:
    """The kernel as (O, I, ...), reversed for a convolution."""
    kernel = ordered(k, case.kernel_layout, ("O" if "O" in case.kernel_layout else "")
                      + ("I" if case.summed else "C" if "C" in case.kernel_layout else "")
                      + case.spatial)  # fmt: skip
    dims = len(case.spatial)
    if case.op == "convolve":
        kernel = np.flip(kernel, tuple(range(kernel.ndim - dims, kernel.ndim)))
    taps = kernel.shape[-dims:]
    inputs = kernel.shape[-dims - 1] if case.summed else 1
    shaped = np.ascontiguousarray(kernel).reshape(-1, inputs, *taps)
    dtype = np.result_type(k.dtype, case.dtype)
    return torch.from_numpy(np.repeat(shaped, copies, axis=0).astype(dtype))
