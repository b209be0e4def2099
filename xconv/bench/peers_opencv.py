"""OpenCV's filters: over every image, over threads, over the batch as channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .cases import Case
from .contender import Array, Contender, Refused, copies, optional, ordered, plain, pool

__all__ = ["opencv"]

BORDERS = {
    "constant": "BORDER_CONSTANT",
    "reflect": "BORDER_REFLECT",
    "mirror": "BORDER_REFLECT_101",
    "nearest": "BORDER_REPLICATE",
}
CHANNELS = 128
"""Most channels of an image in OpenCV 5."""


def opencv(how: str, case: Case, x: Array, k: Array, workers: int) -> Contender:
    """filter2D on every image ("images"), the same over a pool of threads ("threads"), on the
    batch as channels ("channels"), or sepFilter2D with the factors made by hand ("separable")."""
    cv2 = optional("cv2", "opencv-python-headless")
    plain(case, borders=True)
    if len(case.spatial) != 2 or k.ndim != 2:
        raise Refused("filters images, with one kernel")
    if case.mode == "full" or case.boundary not in BORDERS:
        raise Refused(f"has no mode {case.mode!r} with boundary {case.boundary!r}")
    dtype = np.result_type(x.dtype, k.dtype)
    if dtype not in (np.float32, np.float64) or x.dtype.kind not in "fu":
        raise Refused(f"saturates, or does not know, {dtype}")
    if how == "separable" and case.values != "gaussian":
        raise Refused("the kernel does not factor")
    batch = "".join(a for a in case.layout if a not in case.spatial)
    letters = case.spatial + batch if how == "channels" else batch + case.spatial
    moved = ordered(x, case.layout, letters)
    shape = (*moved.shape[:2], -1) if how == "channels" else (-1, *moved.shape[-2:])
    images = np.ascontiguousarray(moved).reshape(shape)
    kernel = np.ascontiguousarray(ordered(k, case.kernel_layout, case.spatial)[::-1, ::-1])
    depth = cv2.CV_32F if dtype == np.float32 else cv2.CV_64F
    border = getattr(cv2, BORDERS[case.boundary])
    if how == "channels":
        pieces = [
            np.ascontiguousarray(images[..., i : i + CHANNELS])
            for i in range(0, images.shape[-1], CHANNELS)
        ]
    else:
        pieces = list(images)
    if how == "separable":
        u, s, v = np.linalg.svd(kernel.astype(np.float64))
        column, row = (np.asarray(f * math.sqrt(s[0]), dtype) for f in (u[:, 0], v[0]))

        def one(image: Array, out: Any = None) -> Any:
            return cv2.sepFilter2D(image, depth, row, column, dst=out, borderType=border)
    else:

        def one(image: Array, out: Any = None) -> Any:
            return cv2.filter2D(image, depth, kernel, dst=out, borderType=border)

    def run() -> Any:
        if how == "channels":
            return [one(piece) for piece in pieces]
        y = np.empty(images.shape, dtype)
        if how == "images":
            for image, out in zip(pieces, y, strict=True):
                one(image, out)
        else:
            cuts = np.linspace(0, len(pieces), 4 * workers + 1, dtype=int)

            def some(i: int) -> None:
                for j in range(cuts[i], cuts[i + 1]):
                    one(pieces[j], y[j])

            list(pool(workers).map(some, range(4 * workers)))
        return y

    crop = {a: slice(None) for a in letters}
    if case.mode == "valid":
        for a, size, taps in zip(case.spatial, ordered(x, case.layout, case.spatial + batch).shape,
                                 kernel.shape, strict=False):  # fmt: skip
            crop[a] = slice(taps // 2, size - (taps - 1 - taps // 2))

    def result(y: Any) -> Array:
        if how == "channels":
            y = np.concatenate([p.reshape(*p.shape[:2], -1) for p in y], axis=2)
        y = y.reshape(moved.shape)[tuple(crop[a] for a in letters)]
        return ordered(y, letters, case.result_layout)

    name = {"images": "cv2.filter2D", "threads": "cv2.filter2D, threads",
            "channels": "cv2.filter2D, batch as channels",
            "separable": "cv2.sepFilter2D by hand"}[how]  # fmt: skip
    return Contender(name, run, result, copies(moved))
