"""The contenders on a CUDA device: xconv on CuPy arrays, cupyx, and PyTorch with cuDNN.

Times are taken by the device's events; scratch from CuPy's and PyTorch's pools.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import xconv

from .cases import Case
from .contender import Array, Contender, Prepare, Refused, optional, ordered
from .peers_torch import torch_conv

__all__ = ["clock", "contenders", "move", "scratch", "unavailable"]


def unavailable() -> str:
    """Why nothing can be timed on a GPU here; empty if it can."""
    try:
        cupy = optional("cupy", "xconv[cuda12] or xconv[cuda13]")
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "no CUDA device"
    except Refused as error:
        return str(error)
    except Exception as error:  # the driver's own error classes
        return f"no CUDA device: {error}"
    return ""


def move(x: Array, k: Array) -> tuple[Any, Any]:
    """The arrays on the device."""
    cupy = optional("cupy", "xconv[cuda12]")
    return cupy.asarray(x), cupy.asarray(k)


def clock(call: Callable[[], Any], number: int) -> float:
    """Seconds per call on the device, between events of its stream."""
    cupy = optional("cupy", "xconv[cuda12]")
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    for _ in range(number):
        call()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end)) / 1e3 / number


def scratch(call: Callable[[], int]) -> int | None:
    """Bytes taken from the device's pools at the peak, beyond the result."""
    cupy = optional("cupy", "xconv[cuda12]")
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    taken = 0
    try:
        torch = optional("torch", "torch")
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    except Refused:
        torch = None
    result = call()
    if torch is not None:
        taken = int(torch.cuda.max_memory_allocated() - held)
    return max(0, int(pool.total_bytes() - before) + taken - result)


def contenders(case: Case, x: Any, k: Any, workers: int) -> Iterator[tuple[str, Prepare]]:
    """xconv's methods on the device, then its peers."""
    cupy = optional("cupy", "xconv[cuda12]")
    function = getattr(xconv, case.op)

    def on_device(method: str, *_: Any) -> Contender:
        options = case.options | ({} if method == "auto" else {"method": method})
        name = "xconv" if method == "auto" else f"xconv {method}"
        return Contender(name, lambda: function(x, k, **options), cupy.asnumpy)

    for method in ("auto", "direct", "fft", "separable") if case.forced else ("auto",):
        yield ("xconv" if method == "auto" else f"xconv {method}",
               functools.partial(on_device, method))  # fmt: skip
    for name in ("fftconvolve", "oaconvolve"):
        yield f"cupyx.scipy.signal.{name}", functools.partial(_signal, name)
    yield "cupyx.scipy.ndimage.convolve", _ndimage
    for how in ("contiguous", "channels_last", "depthwise"):
        yield f"torch conv on CUDA, {how}", functools.partial(_torch, how)


def _signal(name: str, case: Case, x: Any, k: Any, workers: int) -> Contender:
    cupy = optional("cupy", "xconv[cuda12]")
    signal = optional("cupyx.scipy.signal", "xconv[cuda12]")
    if case.summed or case.stride != 1 or case.boundary != "constant" or k.ndim != 2:
        raise Refused("takes one kernel, no stride, and zeros beyond the edge")
    image = ordered(x, case.layout, case.result_layout)
    kernel = ordered(k, case.kernel_layout, case.result_layout)
    axes = tuple(case.result_layout.index(a) for a in case.spatial)
    function = getattr(signal, name)
    return Contender(
        f"cupyx.scipy.signal.{name}",
        lambda: function(image, kernel, case.mode, axes=axes),
        cupy.asnumpy,
    )


def _ndimage(case: Case, x: Any, k: Any, workers: int) -> Contender:
    cupy = optional("cupy", "xconv[cuda12]")
    ndimage = optional("cupyx.scipy.ndimage", "xconv[cuda12]")
    if case.summed or case.stride != 1 or k.ndim != 2 or any(s % 2 == 0 for s in k.shape):
        raise Refused("takes one kernel of odd size, no stride")
    kernel = ordered(k, case.kernel_layout, case.layout)
    crop = tuple(
        slice(t // 2, s - t // 2) if case.mode == "valid" else slice(None)
        for t, s in zip(kernel.shape, x.shape, strict=True)
    )
    return Contender(
        "cupyx.scipy.ndimage.convolve",
        lambda: ndimage.convolve(x, kernel, mode=case.boundary),
        lambda y: cupy.asnumpy(y[crop]),
    )


def _torch(how: str, case: Case, x: Any, k: Any, workers: int) -> Contender:
    """PyTorch through cuDNN, free to try its algorithms, without TF32's shortened products."""
    cupy, torch = optional("cupy", "xconv[cuda12]"), optional("torch", "torch")
    if not torch.cuda.is_available():
        raise Refused("this PyTorch has no CUDA")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    return torch_conv(how, case, cupy.asnumpy(x), cupy.asnumpy(k), workers, "cuda")
