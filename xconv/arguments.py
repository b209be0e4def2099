"""The user's keywords → a checked, array-free Problem."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from . import layout as layouts
from .errors import ArgumentError, ArgumentTypeError
from .problem import BOUNDARIES, Problem

__all__ = ["ALIASES", "axis_numbers", "build", "count", "dtype_name", "fill", "padding", "sizes"]

ALIASES = {name: name for name in BOUNDARIES} | {
    "fill": "constant",
    "zeros": "constant",
    "symmetric": "reflect",
    "reflect_101": "mirror",
    "edge": "nearest",
    "replicate": "nearest",
    "circular": "wrap",
    "periodic": "wrap",
}
"""Every accepted name of a boundary, and `scipy.ndimage`'s name for it."""

_BOUNDARY_TABLE = """
  constant (fill, zeros)        v v | a b c d | v v
  reflect  (symmetric)          b a | a b c d | d c
  mirror   (reflect_101)        c b | a b c d | c b
  nearest  (edge, replicate)    a a | a b c d | d d
  wrap     (circular, periodic) c d | a b c d | a b
NumPy and PyTorch say "reflect" for mirror."""


# The first five make an argument hashable and safe to compare: True, 1 and 1.0 are equal in
# Python, so a cache of plans must never see them before they are checked.


def count(name: str, value: Any, least: int, hint: str) -> int:
    """The value as an int of at least `least`."""
    if type(value) is int and value >= least:
        return value
    if isinstance(value, bool | np.bool):
        raise ArgumentTypeError(f"{name} must be an integer, not {value!r}; {hint}")
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(
            f"{name} must be an integer, not {value!r} of type {type(value).__name__}; {hint}"
        ) from None
    if number < least:
        raise ArgumentError(f"{name}={number} is too small; {hint}")
    return number


def sizes(name: str, value: Any) -> int | tuple[int, ...]:
    """A stride or dilation: an int ≥ 1, or a tuple of them with one per spatial axis."""
    hint = "give an int of at least 1, or one per spatial axis of x in x's order"
    if type(value) is int or not isinstance(value, Iterable):
        return count(name, value, 1, hint)
    return tuple(count(name, item, 1, hint) for item in value)


def axis_numbers(axes: Any) -> tuple[int, ...] | None:
    """`axes=` as a tuple of ints."""
    if axes is None:
        return None
    hint = "give the numbers of the axes to convolve, such as axes=(0, 1)"
    items = axes if isinstance(axes, Iterable) and not isinstance(axes, str) else (axes,)
    return tuple(count("axes", item, -(2**31), hint) for item in items)


def padding(mode: Any) -> str | tuple[tuple[int, int], ...]:
    """`mode=`: "full", "same", "valid", or pairs of ints ≥ 0."""
    if isinstance(mode, str):
        if mode in ("full", "same", "valid"):
            return mode
    elif isinstance(mode, Iterable):
        pairs = tuple(tuple(pair) if isinstance(pair, Iterable) else (pair,) for pair in mode)
        if all(len(pair) == 2 for pair in pairs):
            hint = "explicit padding is non-negative; crop the result to have less"
            lows_highs = [[count("mode", item, 0, hint) for item in pair] for pair in pairs]
            return tuple((low, high) for low, high in lows_highs)
    raise ArgumentError(
        f'mode={mode!r} is unknown; use "full", "same", "valid", '
        "or ((low, high), ...) with one pair per spatial axis of x"
    )


def fill(cval: Any) -> int | str | tuple[str, str]:
    """`cval=` in a form that tells 0.0 from -0.0 and finds NaN equal to itself."""
    if type(cval) is int:
        return cval
    value = cval.item() if isinstance(cval, np.generic | np.ndarray) and cval.size == 1 else cval
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, complex):
        return value.real.hex(), value.imag.hex()
    raise ArgumentTypeError(
        f"cval must be one number, not {cval!r} of type {type(cval).__name__}; "
        "give the value that continues the image beyond its edge"
    )


def dtype_name(dtype: Any, subject: str) -> str:
    """Name of a NumPy or array-API dtype that can be convolved, such as "float32"."""
    try:
        native = dtype if isinstance(dtype, np.dtype) else _named(dtype)
    except TypeError:
        raise ArgumentTypeError(
            f"{subject} {dtype!r} is not a dtype; use bool, an integer, float or complex dtype"
        ) from None
    if native.kind not in "biufc" and native.name != "bfloat16":
        raise ArgumentTypeError(
            f"{subject} {native} cannot be convolved; convert to bool, an integer, float or "
            "complex dtype first, e.g. with x.astype(float)"
        )
    return str(native.newbyteorder("=").name)


@functools.lru_cache(64)
def _named(dtype: Any) -> np.dtype[Any]:
    """NumPy's dtype of what another library calls by the same name."""
    found: np.dtype[Any]
    try:
        found = np.dtype(dtype)
    except TypeError:
        name = str(dtype).rsplit(".", 1)[-1]
        found = np.dtype(_bfloat16() if name == "bfloat16" else name)
    return found


def _bfloat16() -> Any:
    """NumPy has it by the package ml_dtypes alone, which gives it no kind."""
    try:
        import ml_dtypes
    except ImportError:
        raise ArgumentTypeError(
            "bfloat16 needs the package ml_dtypes: pip install ml_dtypes; or convert to float32"
        ) from None
    return ml_dtypes.bfloat16


def _kind(dtype: str) -> str:
    return "f" if dtype == "bfloat16" else np.dtype(dtype).kind


def build(
    op: str,
    x_shape: tuple[int, ...],
    x_dtype: str,
    k_shape: tuple[int, ...],
    k_dtype: str,
    weak_kernel: bool,
    layout: str | None,
    kernel_layout: str | None,
    out_layout: str | None,
    axes: tuple[int, ...] | None,
    mode: str | tuple[tuple[int, int], ...],
    boundary: str,
    cval: int | str | tuple[str, str],
    stride: int | tuple[int, ...],
    dilation: int | tuple[int, ...],
    groups: int,
    dtype: str | None,
) -> Problem:
    """The Problem that the arguments describe; every mistake in them raises here."""
    letters = _letters(len(x_shape), len(k_shape), layout, kernel_layout, out_layout, axes)
    _check_sizes(letters, x_shape, k_shape, groups)
    spatial = letters.spatial
    size = tuple(x_shape[letters.x.index(a)] for a in spatial)
    kernel = tuple(k_shape[letters.k.index(a)] for a in spatial)
    steps = _per_axis("stride", stride, spatial)
    gaps = _per_axis("dilation", dilation, spatial)
    border = _boundary(boundary)
    result = _result_dtype(x_dtype, k_dtype, weak_kernel, dtype)
    pads, output = _window(spatial, size, kernel, steps, gaps, mode, border)
    x_axes, k_axes, y_axes, y_shape = layouts.canonical_axes(
        letters, x_shape, k_shape, output, groups
    )
    return Problem(
        op=op,
        x_shape=x_shape,
        k_shape=k_shape,
        y_shape=y_shape,
        x_dtype=x_dtype,
        k_dtype=k_dtype,
        dtype=result,
        x_axes=x_axes,
        k_axes=k_axes,
        y_axes=y_axes,
        spatial=len(spatial),
        padding=pads,
        boundary=border,
        cval=_held_cval(cval, result, boundary),
        stride=steps,
        dilation=gaps,
    )


def _letters(
    x_ndim: int,
    k_ndim: int,
    layout: str | None,
    kernel_layout: str | None,
    out_layout: str | None,
    axes: tuple[int, ...] | None,
) -> layouts.Letters:
    if layout is not None and axes is not None:
        raise ArgumentError(
            f"layout={layout!r} and axes={axes} were both given; name the axes with one of them"
        )
    if layout is not None:
        return layouts.from_layout(x_ndim, k_ndim, layout, kernel_layout, out_layout)
    for name, value in (("kernel_layout", kernel_layout), ("out_layout", out_layout)):
        if value is not None:
            raise ArgumentError(
                f"{name}={value!r} needs layout=: without it the axes of x have no letters"
            )
    return layouts.from_axes(x_ndim, k_ndim, axes)


def _check_sizes(
    letters: layouts.Letters, x_shape: tuple[int, ...], k_shape: tuple[int, ...], groups: int
) -> None:
    if 0 in k_shape:
        raise ArgumentError(
            f"kernel of shape {k_shape} is empty; pass a kernel with at least one tap per axis"
        )
    k = dict(zip(letters.k, k_shape, strict=True))
    channels = x_shape[letters.x.index("C")] if "C" in letters.x else 0
    if groups != 1:
        if "I" not in k or "O" not in k:
            raise ArgumentError(
                f"groups={groups} needs a kernel with I and O, such as kernel_layout "
                '"HWIO"; use C in the kernel for one kernel per channel'
            )
        if channels % groups or k["O"] % groups:
            raise ArgumentError(
                f"groups={groups} does not divide the channels of x (C = {channels}) and the "
                f"kernels (O = {k['O']}); both must be multiples of groups"
            )
    if "I" in k and k["I"] * groups != channels:
        raise ArgumentError(
            f"kernel has I = {k['I']} input channels but x has C = {channels} with "
            f"groups={groups}; I must be C / groups = {channels / groups:g}"
        )
    if "C" in k and k["C"] != channels:
        raise ArgumentError(
            f"kernel has C = {k['C']} channels but x has C = {channels}; "
            "a kernel per channel needs as many kernels as channels"
        )


def _per_axis(name: str, value: int | tuple[int, ...], spatial: tuple[str, ...]) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * len(spatial)
    if len(value) != len(spatial):
        raise ArgumentError(
            f"{name}={value} has {len(value)} entries but {len(spatial)} axes are convolved; "
            "give one int, or one per spatial axis of x in x's order"
        )
    return value


def _boundary(name: str) -> str:
    if not isinstance(name, str) or name not in ALIASES:
        raise ArgumentError(f"boundary={name!r} is unknown; the names are:{_BOUNDARY_TABLE}")
    return ALIASES[name]


def _window(
    spatial: tuple[str, ...],
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    mode: str | tuple[tuple[int, int], ...],
    boundary: str,
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Padding (low, high) and size of the result, per spatial axis."""
    if not isinstance(mode, str) and len(mode) != len(spatial):
        raise ArgumentError(
            f"mode={mode} has {len(mode)} pairs but {len(spatial)} axes are convolved; "
            "give one (low, high) pair per spatial axis of x in x's order"
        )
    explicit = () if isinstance(mode, str) else mode
    pads, output = [], []
    for i, label in enumerate(spatial):
        n, extent = size[i], (kernel[i] - 1) * dilation[i] + 1
        if mode == "full":
            low, high = extent - 1, extent - 1
        elif mode == "same":
            low, high = extent // 2, (extent - 1) // 2
        elif mode == "valid":
            low, high = 0, 0
        else:
            low, high = explicit[i]
        name = f"axis {label.strip('#')}"
        dilated = f" (dilated to {extent})" if extent != kernel[i] else ""
        if n == 0 and boundary != "constant":
            raise ArgumentError(
                f'x has size 0 along {name}, which boundary "{boundary}" cannot continue; '
                'use boundary="constant"'
            )
        before_stride = n + low + high - extent + 1
        if before_stride < 1 and mode != "same":
            raise ArgumentError(
                f"no output is left along {name}: x has size {n}"
                + (f" (padded to {n + low + high})" if low + high else "")
                + f" and the kernel {kernel[i]}{dilated}; "
                + 'use a smaller kernel, more padding, or mode="same" or "full"'
            )
        pads.append((low, high))
        output.append(-(-before_stride // stride[i]))
    return tuple(pads), tuple(output)


def _result_dtype(x_dtype: str, k_dtype: str, weak_kernel: bool, dtype: str | None) -> str:
    if dtype is None:
        scalars: dict[str, Any] = {"b": False, "i": 0, "u": 0, "f": 0.0, "c": 0j}
        if weak_kernel and x_dtype == "bfloat16" and not k_dtype.startswith("complex"):
            return x_dtype  # which ml_dtypes would promote to float64
        k: Any = scalars[np.dtype(k_dtype).kind] if weak_kernel else np.dtype(k_dtype)
        try:
            return np.result_type(np.dtype(x_dtype), k).name
        except TypeError:  # bfloat16 with float16, or with wider integers
            raise ArgumentTypeError(
                f"x of dtype {x_dtype} and a kernel of dtype {k_dtype} have no common dtype; "
                "name one, e.g. dtype='float32'"
            ) from None
    lossy = {"f": "iub", "c": "iubf", "i": "b", "u": "b"}
    for subject, given in (("x", x_dtype), ("the kernel", k_dtype)):
        source = _kind(given)
        if _kind(dtype) in lossy.get(source, ""):
            way = "take the real part or the magnitude" if source == "c" else "round or compare"
            raise ArgumentTypeError(
                f"dtype={dtype} would lose what {subject} of dtype {given} holds; {way} it "
                "yourself before the call, or ask for a dtype that holds it"
            )
    return dtype


def _held_cval(
    cval: int | str | tuple[str, str], dtype: str, boundary: str
) -> complex | float | int:
    """`cval` as a number that the result dtype holds."""
    value: complex | float | int
    if isinstance(cval, int):
        value = cval
    elif isinstance(cval, str):
        value = float.fromhex(cval)
    else:
        value = complex(*map(float.fromhex, cval))
    if boundary == "zeros" and value != 0:
        raise ArgumentError(
            f'boundary="zeros" was given with cval={value}; use boundary="constant" to continue '
            "the image with another value"
        )
    kind = _kind(dtype)
    if isinstance(value, complex):
        held = kind == "c" or (value.imag == 0 and kind == "f")
        value = value if kind == "c" else value.real if held else value
    elif kind in "iub":
        low, high = (0, 1) if kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        held = math.isfinite(value) and value == int(value) and low <= value <= high
        value = int(value) if held else value
    else:
        most = (2 - 2**-7) * 2.0**127 if dtype == "bfloat16" else float(np.finfo(dtype).max)
        held = not math.isfinite(value) or abs(value) <= most
    if not held:
        raise ArgumentError(
            f"cval={value} cannot be held by the result's dtype {dtype}; "
            "give a cval that it holds, or a wider dtype="
        )
    return value
