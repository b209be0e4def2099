"""The contenders on a CUDA device: xconv on CuPy arrays, cupyx, and PyTorch with cuDNN.

Times are taken by the device's events; scratch from CuPy's and PyTorch's pools.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

import xconv
from xconv.cuda import peak
from xconv.cuda.device import CuPyDevice, Device

from . import machine, measure
from .cases import Case
from .contender import Array, Contender, Prepare, Refused, optional, ordered
from .peers import ours
from .peers_torch import torch_conv
from .results import Record

__all__ = [
    "beside", "clock", "compile_ahead", "contenders", "host_clock", "move", "roofline", "scratch",
    "unavailable",
]  # fmt: skip

COPY = "copy on the device"
"""No contender: reading the image and writing as much."""


DEVICE = "cuda"
"""PyTorch's name of it."""


def _cupy() -> Any:
    return optional("cupy", "xconv[cuda12] or xconv[cuda13]")


def unavailable() -> str:
    """Why nothing can be timed on a GPU here; empty if it can."""
    try:
        if _cupy().cuda.runtime.getDeviceCount() == 0:
            return "no CUDA device"
    except Refused as error:
        return str(error)
    except Exception as error:  # the driver's own error classes
        return f"no CUDA device: {error}"
    return ""


def _torch_cuda() -> Any:
    """torch.cuda, or None where there is no PyTorch that has a device."""
    with suppress(Refused):
        cuda = optional("torch", "torch").cuda
        return cuda if cuda.is_available() else None


def move(x: Array) -> Any:
    """The array on the device, where other cases have left nothing."""
    cupy = _cupy()
    cupy.get_default_memory_pool().free_all_blocks()
    if cuda := _torch_cuda():
        cuda.empty_cache()
    return cupy.asarray(x)


def clock(call: Callable[[], Any], number: int) -> float:
    """Seconds per call on the device, between events of its stream."""
    cupy = _cupy()
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    for _ in range(number):
        call()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end)) / 1e3 / number


def host_clock(call: Callable[[], Any], number: int) -> float:
    """Seconds per call that the host is busy, which begins with an idle device."""
    wait = _cupy().cuda.runtime.deviceSynchronize
    wait()
    seconds = measure.clock(call, number)
    wait()
    return seconds


def scratch(call: Callable[[], int]) -> int | None:
    """Bytes taken from the device's pools at the peak, beyond the result."""
    pool = _cupy().get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    cuda = _torch_cuda()
    if cuda:
        cuda.reset_peak_memory_stats()
        before += cuda.memory_allocated()
    result = call()
    taken = cuda.max_memory_allocated() if cuda else 0
    return max(0, int(pool.total_bytes() + taken - before - result))


def roofline(device: Device | None = None) -> Record:
    """Measured limits of the card as `machine.roofline` has them, and its state at the peak."""
    device = device or CuPyDevice()
    flops = {dtype: peak.flops(device, dtype) for dtype in ("float32", "float64")}
    peak.keep_busy(device, 0.5)  # so that the clocks are those of work
    return {
        "kind": "gpu roofline", "how": "register multiply-adds", "flops": flops,
        "card": machine.gpu(), "copy": peak.bandwidth(device), **device.details(),
    }  # fmt: skip


def compile_ahead(cases: Iterable[Case], threads: int) -> None:
    """Compile what takes about a second per case, several at once: the kernels of xconv, which
    depend on all sizes, and of cupyx.scipy.ndimage, which depend on those of the kernel.

    CuPy and xconv keep them, in memory and on disk.  What fails here will fail as a contender.
    """
    cupy = _cupy()

    def kernels_of_ours(case: Case) -> None:
        x, k = cupy.zeros(case.x, case.dtype), np.ones(case.k, case.k_dtype or case.dtype)
        getattr(xconv, case.op)(x, k, method="direct", **case.options)

    def kernels_of_theirs(case: Case) -> None:
        taps = dict(zip(case.kernel_layout, case.k, strict=True))
        x = cupy.zeros([taps.get(letter, 1) for letter in case.layout], case.dtype)
        _ndimage(replace(case, x=x.shape), x, np.ones(case.k, case.k_dtype or case.dtype), 1).run()

    def quietly(compile_one: Callable[[Case], None], case: Case) -> None:
        with suppress(Exception):
            compile_one(case)

    with ThreadPoolExecutor(min(threads, 8)) as pool:  # so that the images fit in its memory
        for case in cases:
            pool.submit(quietly, kernels_of_ours, case)
            pool.submit(quietly, kernels_of_theirs, case)


def beside(
    case: Case, x: Any, k: Array, y_shape: tuple[int, ...], workers: int
) -> dict[str, Callable[[], Any]]:
    """What the times of a case are set beside."""
    if not case.plan or case.host:
        return {}
    return {COPY: functools.partial(_cupy().copyto, x.copy(), x)}


def contenders(case: Case, x: Any, k: Array, workers: int) -> Iterator[tuple[str, Prepare]]:
    """xconv's methods on the device, the kernel staying on the host; then its peers."""
    cupy = _cupy()
    yield from ours(case, x, k, None, cupy.empty, cupy.asarray)
    for name in ("fftconvolve", "oaconvolve"):
        yield f"cupyx.scipy.signal.{name}", functools.partial(_signal, name)
    yield "cupyx.scipy.ndimage.convolve", _ndimage
    for how in ("contiguous", "channels_last", "depthwise"):
        yield f"torch conv on CUDA, {how}", functools.partial(_torch, how)


def _one_kernel(case: Case) -> bool:
    return not any(a in case.kernel_layout for a in "OIC")


def _signal(name: str, case: Case, x: Any, k: Array, workers: int) -> Contender:
    signal = optional("cupyx.scipy.signal", "xconv[cuda12]")
    if not _one_kernel(case) or case.stride != 1 or case.boundary != "constant":
        raise Refused("takes one kernel, no stride, and zeros beyond the edge")
    kernel = ordered(_cupy().asarray(k), case.kernel_layout, case.layout)
    axes = tuple(case.layout.index(a) for a in case.spatial)
    function, dtype = getattr(signal, name), np.result_type(x.dtype, k.dtype)
    return Contender(
        f"cupyx.scipy.signal.{name}",
        lambda: function(x.astype(dtype, copy=False), kernel, case.mode, axes=axes),
        _cupy().asarray,
    )


def _ndimage(case: Case, x: Any, k: Array, workers: int) -> Contender:
    ndimage = optional("cupyx.scipy.ndimage", "xconv[cuda12]")
    if not _one_kernel(case) or case.stride != 1 or any(s % 2 == 0 for s in k.shape):
        raise Refused("takes one kernel of odd size, no stride")
    if case.mode == "full":
        raise Refused('has no mode "full"')
    kernel = ordered(_cupy().asarray(k), case.kernel_layout, case.layout)
    dtype = np.result_type(x.dtype, k.dtype)
    crop = tuple(
        slice(t // 2, s - t // 2) if case.mode == "valid" else slice(None)
        for t, s in zip(kernel.shape, x.shape, strict=True)
    )
    return Contender(
        "cupyx.scipy.ndimage.convolve",
        lambda: ndimage.convolve(x, kernel, output=dtype, mode=case.boundary),
        lambda y: y[crop],
    )


def _torch(how: str, case: Case, x: Any, k: Array, workers: int) -> Contender:
    """PyTorch through cuDNN, free to try its algorithms, without TF32's shortened products."""
    cupy, torch = _cupy(), optional("torch", "torch")
    if not _torch_cuda():
        raise Refused("this PyTorch has no CUDA")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    return torch_conv(how, case, x, k, workers, DEVICE, cupy.asarray)
