"""convolve, correlate and plan: arguments → Problem → Plan → a backend's method → the result."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from . import arguments, registry, tuning
from .backends.base import Backend
from .errors import ArgumentError, ArgumentTypeError
from .methods.base import Limits
from .plan import Plan, Spec

__all__ = ["convolve", "correlate", "plan"]

DEFAULT_MAX_MEMORY = 64 << 20
DEFAULTS: dict[str, Any] = {
    "layout": None, "kernel_layout": None, "out_layout": None, "axes": None, "mode": "full",
    "boundary": "constant", "cval": 0, "stride": 1, "dilation": 1, "groups": 1, "method": "auto",
    "dtype": None, "workers": None, "max_memory": None,
}  # fmt: skip
"""The options of `convolve`, in the order of its signature, and their defaults."""


def convolve(
    x: Any,
    k: Any,
    /,
    *,
    layout: str | None = None,
    kernel_layout: str | None = None,
    out_layout: str | None = None,
    axes: Any = None,
    mode: Any = "full",
    boundary: str = "constant",
    cval: complex = 0,
    stride: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
    method: str = "auto",
    dtype: Any = None,
    out: Any = None,
    workers: int | None = None,
    max_memory: int | None = None,
    backend: str | None = None,
) -> Any:
    """The convolution of every signal, image or volume in a batch with a kernel or a bank.

    Parameters
    ----------
    x
        The batch, in any layout; its array type decides where the work runs, unless `backend`
        does, and what comes back.
    k
        The kernel: an array like `x`, a NumPy array, or a nested list (which does not widen the
        dtype of `x`).
    layout, kernel_layout, out_layout
        One letter per axis, such as "NHWC" with "HWIO".  N, B and C are batch axes of `x`; C in
        both is a kernel per channel; O in the kernel is a bank and a new axis of the result; I
        is summed over C.  "..." stands for any number of batch axes.  Every other letter is
        convolved.
    axes
        Numbers of the axes to convolve, in place of `layout`; axis i of `k` goes with `axes[i]`.
        With neither, the last `k.ndim` axes are convolved.
    mode
        "full" (every overlap, S + K - 1), "same" (S), "valid" (S - K + 1), or explicit padding
        ((low, high), ...) per spatial axis of `x`.
    boundary, cval
        How the image continues: "constant" (with `cval`), "reflect", "mirror", "nearest" or
        "wrap", as `scipy.ndimage` names them.
    stride, dilation
        An int, or one per spatial axis of `x`.
    groups
        Number of groups that C and O are split into, with I and O in the kernel.
    method
        "auto", "direct", "fft" or "separable".
    dtype
        Both operands are converted to it first; NumPy's promotion of the two unless given.
    out
        Array for the result; it may overlap `x`.
    workers
        Threads; all the CPUs that this process may use unless given.
    max_memory
        Most bytes of scratch; 64 MiB unless given.
    backend
        Name of the backend; the one that `x` belongs to unless given.  "cuda" takes NumPy arrays
        too: they go through the GPU in blocks, and the result is a NumPy array.

    Returns
    -------
    array
        Of the type, device and layout of `x`.

    Raises
    ------
    ArgumentError
        (a ValueError) for shapes, letters, names or numbers that do not fit.
    ArgumentTypeError
        (a TypeError) for dtypes and types that cannot be convolved.
    MethodRefused
        (a ValueError) if the method wanted cannot compute this.
    MemoryLimitError
        (a MemoryError) if `max_memory` is too small for any method.

    Notes
    -----
    The result is that of a loop of `scipy.signal.convolve` over the batch.  Integers wrap: the
    result of uint8 with uint8 is uint8; pass dtype= to have more room.

    Examples
    --------
    Fifty images in the last axis, one filter:

    >>> import numpy as np, xconv
    >>> x, k = np.ones((100, 90, 50)), np.ones((5, 5)) / 25
    >>> xconv.convolve(x, k, layout="HWN", mode="valid").shape
    (96, 86, 50)
    """
    return _run(
        "convolve", x, k, out, backend, layout, kernel_layout, out_layout, axes, mode, boundary,
        cval, stride, dilation, groups, method, dtype, workers, max_memory,
    )  # fmt: skip


def correlate(
    x: Any,
    k: Any,
    /,
    *,
    layout: str | None = None,
    kernel_layout: str | None = None,
    out_layout: str | None = None,
    axes: Any = None,
    mode: Any = "full",
    boundary: str = "constant",
    cval: complex = 0,
    stride: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
    method: str = "auto",
    dtype: Any = None,
    out: Any = None,
    workers: int | None = None,
    max_memory: int | None = None,
    backend: str | None = None,
) -> Any:
    """The cross-correlation of every signal, image or volume in a batch with a kernel.

    It is `convolve` with the kernel reversed on every spatial axis and conjugated, as in
    `scipy.signal.correlate`; what CNN layers call convolution.  All arguments are those of
    `convolve`.

    Examples
    --------
    A layer of 8 kernels over 3 summed channels:

    >>> import numpy as np, xconv
    >>> x, k = np.ones((2, 32, 32, 3), "f4"), np.ones((3, 3, 3, 8), "f4")
    >>> xconv.correlate(x, k, layout="NHWC", kernel_layout="HWIO", mode="same").shape
    (2, 32, 32, 8)
    """
    return _run(
        "correlate", x, k, out, backend, layout, kernel_layout, out_layout, axes, mode, boundary,
        cval, stride, dilation, groups, method, dtype, workers, max_memory,
    )  # fmt: skip


def plan(
    x: Any,
    k: Any,
    /,
    op: str = "convolve",
    *,
    layout: str | None = None,
    kernel_layout: str | None = None,
    out_layout: str | None = None,
    axes: Any = None,
    mode: Any = "full",
    boundary: str = "constant",
    cval: complex = 0,
    stride: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
    method: str = "auto",
    dtype: Any = None,
    workers: int | None = None,
    max_memory: int | None = None,
    backend: str | None = None,
    tune: bool = False,
) -> Plan:
    """A `Plan` that convolves ("convolve") or correlates ("correlate") arrays like these.

    `x` and `k` are arrays or `Spec(shape, dtype)`; a plan made with a kernel's values keeps what
    can be prepared from them once.  The other arguments are those of `convolve`.

    With `tune` the clock decides.  Up to three methods (or implementations of the method named),
    those predicted to take no more than 4 times the seconds of the cheapest, run on `x`, or on
    images of ones where only a Spec of them is given, and the fastest is taken.  The times are
    remembered in this process, and in the user's cache folder for other processes on this
    machine (with the extra "cli", or XCONV_CACHE_DIR); a plan of the same problem, with a kernel
    that the same methods can compute and images that lie alike in memory, is not timed again.
    The kernel must be an array.

    Examples
    --------
    >>> import numpy as np, xconv
    >>> images = np.zeros((10, 64, 64), "f4")
    >>> blur = xconv.plan(images, np.ones((5, 5), "f4") / 25, mode="same")
    >>> blur(images).shape
    (10, 64, 64)
    """
    found = registry.find(np.empty(0) if isinstance(x, Spec) else x, backend)
    return plan_on(
        found, op, x, k, layout=layout, kernel_layout=kernel_layout, out_layout=out_layout,
        axes=axes, mode=mode, boundary=boundary, cval=cval, stride=stride, dilation=dilation,
        groups=groups, method=method, dtype=dtype, workers=workers, max_memory=max_memory,
        tune=tune,
    )  # fmt: skip


def plan_on(
    backend: Backend, op: str, x: Any, k: Any, *, tune: bool = False, **options: Any
) -> Plan:
    """`plan` on a backend that need not be registered."""
    if op not in ("convolve", "correlate"):
        raise ArgumentError(f'op={op!r} is unknown; use "convolve" or "correlate"')
    x = x if isinstance(x, Spec) else backend.accept(x)
    kernel = k if isinstance(k, Spec) else backend.accept_kernel(k, x)
    shared = _shared(op, backend, x, kernel, k, *(DEFAULTS | options).values())
    if isinstance(k, Spec):
        if tune:
            raise ArgumentError(
                f"tune=True times methods with a kernel, and k is {k}; pass the kernel's array "
                "(x may be a Spec)"
            )
        _ = shared.method  # raises here if the method wanted is refused
        return shared
    like = kernel if isinstance(x, Spec) else x
    bound = partial(Plan, shared.problem, backend, shared.wanted, shared.limits, kernel, like)
    if not tune:
        return bound()
    return bound(tuning.times(bound(), kernel, None if isinstance(x, Spec) else x))


def _run(op: str, x: Any, k: Any, out: Any, name: str | None, *options: Any) -> Any:
    key, kind = None, type(x)
    by_device = _kinds.get(kind)
    if (
        name is None
        and by_device is not None
        and (type(k) is np.ndarray or (type(k) is kind and not by_device))
        and are_simple(options)
    ):
        place = x.device if by_device else None
        key = (op, kind, place, x.shape, x.dtype, k.shape, k.dtype, options)
        plan = _recent.get(key)
        if plan is not None:
            return plan.compute(x, k, out)
    backend = registry.find(x, name)
    if name is None and backend.by_type(x):
        _kinds[kind] = False
    elif name is None and backend.by_device(x):
        _kinds[kind] = True
    x = backend.accept(x)
    kernel = backend.accept_kernel(k, x)
    plan = _shared(op, backend, x, kernel, k, *options)
    if key is not None:
        if len(_recent) >= 512:
            _recent.clear()
        _recent[key] = plan
    return plan.compute(x, kernel, out)


def are_simple(options: Iterable[Any]) -> bool:
    """Whether options of these types are equal only if they mean the same (True, 1 and 1.0 are
    not)."""
    return _SIMPLE.issuperset(map(type, options))


_SIMPLE = frozenset((str, int, type(None)))
"""Types of options that are equal only if they mean the same (True, 1 and 1.0 are not)."""
_kinds: dict[type, bool] = {np.ndarray: False}
"""Types of arrays whose backend is known from their type, or (True) with the device they are on."""
_recent: dict[tuple[Any, ...], Plan] = {}
"""Plans of calls with such arrays and options, found without looking at each option again."""


def _shared(
    op: str,
    backend: Backend,
    x: Any,
    kernel: Any,
    given: Any,
    layout: str | None,
    kernel_layout: str | None,
    out_layout: str | None,
    axes: Any,
    mode: Any,
    boundary: str,
    cval: complex,
    stride: Any,
    dilation: Any,
    groups: int,
    method: str,
    dtype: Any,
    workers: int | None,
    max_memory: int | None,
) -> Plan:
    """The plan for all calls with these shapes, dtypes and options."""
    for name, value in (
        ("layout", layout), ("kernel_layout", kernel_layout), ("out_layout", out_layout),
        ("boundary", boundary), ("method", method),
    ):  # fmt: skip
        if not isinstance(value, str) and not (value is None and name.endswith("layout")):
            raise ArgumentTypeError(f"{name} must be a string, not {value!r}")
    threads = (
        backend.workers()
        if workers is None
        else arguments.count("workers", workers, 1, "give an int of at least 1, or None for all")
    )
    memory = (
        DEFAULT_MAX_MEMORY
        if max_memory is None
        else arguments.count("max_memory", max_memory, 0, "give bytes, or None for 64 MiB")
    )
    shared = _cached(
        op,
        backend,
        tuple(x.shape),
        x.dtype,
        tuple(kernel.shape),
        kernel.dtype,
        not hasattr(given, "dtype"),
        layout,
        kernel_layout,
        out_layout,
        arguments.axis_numbers(axes),
        arguments.padding(mode),
        boundary,
        arguments.fill(cval),
        arguments.sizes("stride", stride),
        arguments.sizes("dilation", dilation),
        arguments.count("groups", groups, 1, "give an int of at least 1"),
        method,
        None if dtype is None else arguments.dtype_name(dtype, "dtype"),
        threads,
        memory,
    )
    if not hasattr(given, "dtype"):
        _check_held(kernel, shared.problem.dtype)
    return shared


def _check_held(kernel: np.ndarray, dtype: str) -> None:
    """Refuse a list of ints that the dtype of `x` cannot hold, as NumPy does for a scalar."""
    if np.dtype(dtype).kind in "iu" and kernel.dtype.kind in "iu":
        info = np.iinfo(dtype)
        if kernel.min() < info.min or kernel.max() > info.max:
            raise ArgumentError(
                f"the kernel holds {kernel.min()} to {kernel.max()}, which {dtype}, the dtype of "
                f"x, cannot hold; pass dtype= (e.g. dtype='int32'), or a float kernel"
            )


@lru_cache(maxsize=512, typed=True)
def _cached(
    op: str,
    backend: Backend,
    x_shape: tuple[int, ...],
    x_dtype: Any,
    k_shape: tuple[int, ...],
    k_dtype: Any,
    weak_kernel: bool,
    layout: str | None,
    kernel_layout: str | None,
    out_layout: str | None,
    axes: tuple[int, ...] | None,
    mode: Any,
    boundary: str,
    cval: Any,
    stride: Any,
    dilation: Any,
    groups: int,
    method: str,
    dtype: str | None,
    workers: int,
    max_memory: int,
) -> Plan:
    problem = arguments.build(
        op,
        x_shape,
        arguments.dtype_name(x_dtype, "x of dtype"),
        k_shape,
        arguments.dtype_name(k_dtype, "kernel of dtype"),
        weak_kernel,
        layout, kernel_layout, out_layout, axes, mode, boundary, cval, stride, dilation, groups,
        dtype,
    )  # fmt: skip
    if not backend.bfloat16 and "bfloat16" in (problem.x_dtype, problem.k_dtype, problem.dtype):
        raise ArgumentTypeError(
            "bfloat16 is computed on CUDA devices alone; convert x and the kernel to float32, or "
            'send them to one with backend="cuda"'
        )
    return Plan(problem, backend, method, Limits(workers, max_memory, backend.block_bytes))
