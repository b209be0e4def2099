"""SciPy's functions, the loop that people write around them, and dask-image over them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from .cases import Case
from .contender import Array, Contender, Refused, optional, ordered, plain, pool

__all__ = ["dask_image", "loop", "ndimage_convolve", "signal_convolve"]


def _broadcast(case: Case, x: Array, k: Array) -> tuple[Array, Array, tuple[int, ...]]:
    """Views of image and kernel that broadcast to the result's layout, and the axes convolved."""
    letters = case.result_layout
    image, kernel = ordered(x, case.layout, letters), ordered(k, case.kernel_layout, letters)
    return image, kernel, tuple(letters.index(a) for a in case.spatial)


def signal_convolve(name: str, case: Case, x: Array, k: Array, workers: int) -> Contender:
    signal, fft = optional("scipy.signal", "scipy"), optional("scipy.fft", "scipy")
    plain(case)
    image, kernel, axes = _broadcast(case, x, k)
    dtype = np.result_type(x.dtype, k.dtype)
    if name != "convolve" and dtype.kind in "biu":
        raise Refused("gives float64 for integers")
    bank = any(a in case.kernel_layout for a in "OC")
    mode = "full" if bank and case.mode == "same" else case.mode  # "same" would crop the bank
    crop = tuple(slice(None) for _ in image.shape)
    if mode != case.mode:
        crop = tuple(
            slice((kernel.shape[i] - 1) // 2, (kernel.shape[i] - 1) // 2 + image.shape[i])
            if i in axes
            else slice(None)
            for i in range(image.ndim)
        )
    if name == "convolve":
        if bank:
            raise Refused("takes one kernel")
        return Contender(
            "scipy.signal.convolve",
            lambda: signal.convolve(image.astype(dtype, copy=False), kernel, mode),
        )
    function = getattr(signal, name)

    def run() -> Any:
        with fft.set_workers(workers):
            return function(image.astype(dtype, copy=False), kernel, mode, axes=axes)[crop]

    return Contender(f"scipy.signal.{name}", run)


def loop(case: Case, x: Array, k: Array, workers: int) -> Contender:
    """One call per image, as people write it."""
    signal = optional("scipy.signal", "scipy")
    plain(case)
    if len(case.spatial) != k.ndim:
        raise Refused("the loop is written for one kernel")
    letters = "".join(a for a in case.layout if a not in case.spatial) + case.spatial
    lead = len(letters) - len(case.spatial)
    dtype = np.result_type(x.dtype, k.dtype)
    images, kernel = ordered(x, case.layout, letters), ordered(k, case.kernel_layout, case.spatial)

    def run() -> Any:
        found = [
            signal.convolve(images[i].astype(dtype, copy=False), kernel, case.mode)
            for i in np.ndindex(x_batch)
        ]
        return np.stack(found).reshape(*x_batch, *found[0].shape)

    x_batch = images.shape[:lead]
    return Contender(
        "loop of scipy.signal.convolve", run, lambda y: ordered(y, letters, case.result_layout)
    )


def ndimage_convolve(threads: bool, case: Case, x: Array, k: Array, workers: int) -> Contender:
    ndimage = optional("scipy.ndimage", "scipy")
    plain(case, borders=True)
    if len(case.spatial) != k.ndim:
        raise Refused("takes one kernel")
    if case.mode == "full":
        raise Refused('has no mode "full"')
    axes = tuple(case.layout.index(a) for a in case.spatial)
    kernel = ordered(k, case.kernel_layout, case.spatial)
    centre = tuple((s - 1) // 2 for s in kernel.shape)
    origin = tuple(c - s // 2 for c, s in zip(centre, kernel.shape, strict=True))
    y = np.empty(x.shape, np.result_type(x.dtype, k.dtype))
    crop = [slice(None)] * x.ndim
    if case.mode == "valid":
        for axis, c, s in zip(axes, centre, kernel.shape, strict=True):
            crop[axis] = slice(s - 1 - c, x.shape[axis] - c)

    def filtered(image: Array, out: Any) -> Any:
        return ndimage.convolve(
            image, kernel, output=out, mode=case.boundary, cval=0, origin=origin, axes=axes
        )

    if not threads:
        return Contender(
            "scipy.ndimage.convolve", lambda: filtered(x, y.dtype), lambda y: y[tuple(crop)]
        )
    batch = [i for i in range(x.ndim) if i not in axes]
    longest = max(batch, key=lambda i: x.shape[i], default=None)
    if longest is None or x.shape[longest] < 2 or workers < 2:
        raise Refused("nothing to split between threads")
    cuts = np.linspace(0, x.shape[longest], workers + 1, dtype=int)
    parts = [
        tuple(slice(a, b) if i == longest else slice(None) for i in range(x.ndim))
        for a, b in itertools.pairwise(cuts)
    ]

    def run() -> Any:
        out = np.empty(x.shape, y.dtype)
        list(pool(workers).map(lambda part: filtered(x[part], out[part]), parts))
        return out

    return Contender("scipy.ndimage.convolve, threads", run, lambda y: y[tuple(crop)])


def dask_image(case: Case, x: Array, k: Array, workers: int) -> Contender:
    dask_array = optional("dask.array", "dask-image")
    filters = optional("dask_image.ndfilters", "dask-image")
    plain(case, borders=True)
    if len(case.spatial) != k.ndim or case.mode == "full":
        raise Refused("takes one kernel, and keeps the size")
    if case.mode == "same" and any(s % 2 == 0 for s in k.shape):
        raise Refused("centres even kernels elsewhere")
    if len(case.spatial) == x.ndim:
        raise Refused("no batch to cut into chunks")
    if np.result_type(x.dtype, k.dtype) != x.dtype:
        raise Refused("gives the dtype of the image")
    kernel = ordered(k, case.kernel_layout, case.layout)
    batch = max((i for i, a in enumerate(case.layout) if a not in case.spatial),
                key=lambda i: x.shape[i])  # fmt: skip
    chunks = tuple(
        max(1, math.ceil(s / (2 * workers))) if i == batch else s for i, s in enumerate(x.shape)
    )
    image = dask_array.from_array(x, chunks=chunks)
    crop = [slice(None)] * x.ndim
    if case.mode == "valid":
        for i, taps in enumerate(kernel.shape):
            crop[i] = slice(taps - 1 - taps // 2, x.shape[i] - taps // 2)
    lazy = filters.convolve(image, kernel, mode=case.boundary)

    def run() -> Any:
        return lazy.compute(scheduler="threads", num_workers=workers)

    return Contender("dask_image.ndfilters.convolve", run, lambda y: y[tuple(crop)])
