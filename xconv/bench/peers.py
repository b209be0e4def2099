"""The contenders on a CPU: xconv, and what people use instead, each at its best settings.

A contender is prepared outside the clock: threads set, kernel reversed, the image in the layout
that the library likes best.  What that layout costs to make from the user's, and to undo for the
result, is timed apart.  What a library cannot do is refused with the reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import xconv

from .cases import Case
from .contender import Array, Contender, Prepare
from .peers_opencv import opencv
from .peers_scipy import dask_image, loop, ndimage_convolve, signal_convolve
from .peers_torch import torch_conv

__all__ = ["PEERS", "ours"]


def ours(
    case: Case,
    x: Any,
    k: Array,
    workers: int | None,
    empty: Callable[..., Any] = np.empty,
    result: Callable[[Any], Any] = np.asarray,
) -> Iterator[tuple[str, Prepare]]:
    """xconv's own contenders: "auto" first, then what the case asks for beside it.

    `empty` and `result` are those of the library whose arrays they take.
    """
    function = getattr(xconv, case.op)
    options = case.options if workers is None else case.options | {"workers": workers}

    def by(method: str, *_: Any) -> Contender:
        if method == "auto":
            return Contender("xconv", lambda: function(x, k, **options), result)
        return Contender(
            f"xconv {method}", lambda: function(x, k, method=method, **options), result
        )

    def planned(*_: Any) -> Contender:
        plan = xconv.plan(x, k, case.op, **options)
        out = empty(plan.problem.y_shape, plan.problem.dtype)
        return Contender("xconv plan, out=", lambda: plan(x, out=out), result)

    yield "xconv", functools.partial(by, "auto")
    if case.forced:
        for method in ("direct", "fft", "separable"):
            yield f"xconv {method}", functools.partial(by, method)
    if case.plan:
        yield "xconv plan, out=", planned


PEERS: dict[str, Prepare] = {
    "scipy.signal.fftconvolve": functools.partial(signal_convolve, "fftconvolve"),
    "scipy.signal.oaconvolve": functools.partial(signal_convolve, "oaconvolve"),
    "scipy.ndimage.convolve": functools.partial(ndimage_convolve, False),
    "scipy.ndimage.convolve, threads": functools.partial(ndimage_convolve, True),
    "cv2.filter2D": functools.partial(opencv, "images"),
    "cv2.filter2D, threads": functools.partial(opencv, "threads"),
    "cv2.filter2D, batch as channels": functools.partial(opencv, "channels"),
    "cv2.sepFilter2D by hand": functools.partial(opencv, "separable"),
    "torch conv": functools.partial(torch_conv, "contiguous", device="cpu"),
    "torch conv, channels_last": functools.partial(torch_conv, "channels_last", device="cpu"),
    "torch conv, batch as channels": functools.partial(torch_conv, "depthwise", device="cpu"),
    "dask_image.ndfilters.convolve": dask_image,
    "loop of scipy.signal.convolve": loop,
    "scipy.signal.convolve": functools.partial(signal_convolve, "convolve"),
}
"""The peers on a CPU, each prepared by a function of (case, x, k, workers)."""
