"""`scipy.ndimage`'s convolve, correlate, convolve1d and correlate1d, computed by xconv.

Signatures, defaults, dtypes, the rounding of the result and the built-in error types are SciPy's:
weights and sums are double precision, and the result takes the dtype of `input` unless `output`
says otherwise, cut off like a C cast where that is an integer.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from . import api

__all__ = ["convolve", "convolve1d", "correlate", "correlate1d"]

_BOUNDARIES = {
    "reflect": "reflect",
    "grid-mirror": "reflect",
    "mirror": "mirror",
    "constant": "constant",
    "grid-constant": "constant",
    "nearest": "nearest",
    "wrap": "wrap",
    "grid-wrap": "wrap",
}
_EPSILON = float(np.finfo(np.float64).eps)


def correlate(
    input: Any,
    weights: Any,
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Any:
    """The correlation of an array with weights, with the size of `input`.

    Parameters
    ----------
    input
        Array of a real or complex dtype; float16 and longdouble are refused, as in SciPy.
    weights
        Array with one axis for each of `axes`; complex weights are conjugated.
    output
        Array for the result, which may overlap `input`, or its dtype.
    mode, cval
        "reflect", "mirror", "constant" (with `cval`), "nearest", "wrap", or "grid-mirror",
        "grid-constant", "grid-wrap", which here mean "reflect", "constant" and "wrap".
    origin
        Shift of the weights, an int or one for each of `axes`; 0 centres them.
    axes
        Axes to filter; all unless given.

    Returns
    -------
    array
        Of the shape of `input`; `output` itself where that is an array.

    Raises
    ------
    RuntimeError
        For weights, output, modes or dtypes that do not fit.
    ValueError
        For an origin outside the weights, or axes out of range.
    TypeError
        For axes, origin or cval of a wrong type.

    Notes
    -----
    As in SciPy, weights of at most 2.2e-16 in magnitude are left out, so that NaN under a zero
    weight does not spread.

    Examples
    --------
    >>> from xconv import ndimage
    >>> ndimage.correlate([2, 8, 0, 4, 1, 9, 9, 0], [1, 3])
    array([ 8, 26,  8, 12,  7, 28, 36,  9])
    """
    return _over_axes("correlate", input, weights, output, mode, cval, origin, axes)


def convolve(
    input: Any,
    weights: Any,
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Any:
    """The convolution of an array with weights; the arguments are those of `correlate`.

    Examples
    --------
    >>> from xconv import ndimage
    >>> ndimage.convolve([[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 1, 0], [0, 1, 2], [0, 0, 0]])
    array([[3, 3, 0],
           [0, 1, 2],
           [0, 0, 0]])
    """
    return _over_axes("convolve", input, weights, output, mode, cval, origin, axes)


def correlate1d(
    input: Any,
    weights: Any,
    axis: Any = -1,
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    origin: Any = 0,
) -> Any:
    """The correlation with a sequence of weights along one axis.

    `axis` is an int, `origin` an int; the other arguments, the result and the errors are those
    of `correlate`, save that zero weights let NaN spread.

    Examples
    --------
    >>> from xconv import ndimage
    >>> ndimage.correlate1d([2, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([ 8, 26,  8, 12,  7, 28, 36,  9])
    """
    return _along_axis("correlate", input, weights, axis, output, mode, cval, origin)


def convolve1d(
    input: Any,
    weights: Any,
    axis: Any = -1,
    output: Any = None,
    mode: Any = "reflect",
    cval: Any = 0.0,
    origin: Any = 0,
) -> Any:
    """The convolution with a sequence of weights along one axis; see `correlate1d`.

    Examples
    --------
    >>> from xconv import ndimage
    >>> ndimage.convolve1d([2, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([14, 24,  4, 13, 12, 36, 27,  0])
    """
    weights = np.asarray(weights)
    if weights.ndim == 0:
        raise IndexError("weights have no axis; give a sequence of numbers")
    return _along_axis("convolve", input, weights, axis, output, mode, cval, origin)


def _over_axes(
    op: str, input: Any, weights: Any, output: Any, mode: Any, cval: Any, origin: Any, axes: Any
) -> Any:
    given = (weights, mode, cval, origin)
    x, w = np.asarray(input), np.asarray(weights)
    real = x.dtype.kind != "c" and w.dtype.kind != "c"
    y = None if real else _output(output, x, real)
    w = w.astype(np.float64 if w.dtype.kind != "c" else np.complex128, copy=False)
    chosen = _axes(axes, x.ndim)
    if w.ndim != len(chosen) or 0 in w.shape:
        raise RuntimeError(
            f"weights.ndim ({w.ndim}) must match len(axes) ({len(chosen)}) and no axis of the "
            f"weights may be empty; their shape is {w.shape}"
        )
    origins = _per_axis(origin, len(chosen))
    order = sorted(chosen)
    if len(chosen) < x.ndim:  # SciPy lets origins follow `axes` only where an axis is left out
        origins = [origins[chosen.index(axis)] for axis in order]
    pads = [_padding(op, k, o) for k, o in zip(w.shape, origins, strict=True)]
    y = _output(output, x, real) if y is None else y
    if not isinstance(mode, str) and isinstance(mode, Iterable):
        raise RuntimeError("a sequence of modes is not supported; give one mode for all axes")
    fill = _cval(cval, x, w)
    w, gaps = _without_tiny(w)
    # Weights that are left out must not meet NaN: a habit that no other sum has.
    if (gaps and not _finite(x, fill)) or not _exact(x, w, y.dtype):
        return _scipy(op, input, y, *given, axes=axes)
    return _compute(op, x, w, tuple(order), pads, y, mode, fill)


def _along_axis(
    op: str, input: Any, weights: Any, axis: Any, output: Any, mode: Any, cval: Any, origin: Any
) -> Any:
    x, w = np.asarray(input), np.asarray(weights)
    y = _output(output, x, x.dtype.kind != "c" and w.dtype.kind != "c")
    fill = _cval(cval, x, w)
    w = w.astype(np.float64 if w.dtype.kind != "c" else np.complex128, copy=False)
    if w.ndim != 1 or w.shape[0] < 1:
        raise RuntimeError(f"no filter weights given: shape {w.shape}, but one axis is needed")
    axis = normalize_axis_index(axis, x.ndim)
    pads = [_padding(op, w.shape[0], origin)]
    if not _exact(x, w, y.dtype):
        return _scipy(op + "1d", input, y, weights, mode, cval, origin, axis=axis)
    return _compute(op, x, w, (axis,), pads, y, mode, fill)


def _compute(
    op: str,
    x: np.ndarray,
    w: np.ndarray,
    axes: tuple[int, ...],
    pads: Sequence[tuple[int, int]],
    y: np.ndarray,
    mode: Any,
    cval: complex,
) -> np.ndarray:
    boundary = _BOUNDARIES.get(mode) if isinstance(mode, str) else None
    if boundary is None:
        raise RuntimeError(
            f"boundary mode {mode!r} not supported; the modes are {', '.join(_BOUNDARIES)}"
        )
    working = np.dtype(np.complex128 if "c" in (x.dtype.kind, w.dtype.kind) else np.float64)
    for dtype in (x.dtype, y.dtype):
        if dtype.char in "egG" or not np.can_cast(dtype, working, "same_kind"):
            raise RuntimeError(f"array type {dtype} not supported; convert to float64 first")
    if not y.flags.writeable:
        raise ValueError("output array is read-only")
    if x.size == 0:
        return y
    source = x if axes else x[np.newaxis]
    run = api.convolve if op == "convolve" else api.correlate
    in_place = y.dtype == working and bool(axes) and not np.may_share_memory(x, y)
    result = run(
        source,
        w if axes else w[np.newaxis],
        axes=axes or (0,),
        mode=pads or [(0, 0)],
        boundary=boundary,
        cval=cval if boundary == "constant" else 0,
        dtype=working,
        method="direct" if y.dtype.kind in "biu" else method_for(x.size, w.size),
        out=y if in_place else None,
    )
    if not in_place:
        _store(result.reshape(x.shape), y)
    return y


def method_for(outputs: int, taps: int) -> str:
    """Sums of few products are direct, so that whole numbers held in floats stay exact there,
    as in SciPy, whatever rates this machine was measured to have."""
    return "direct" if taps <= 256 and outputs * taps < 1 << 20 else "auto"


def _store(values: np.ndarray, y: np.ndarray) -> None:
    """Write doubles as a C cast does: integers cut off towards zero, and wrapping."""
    through = {"b1": "u1", "u4": "i8"}.get(y.dtype.str[1:])
    with np.errstate(invalid="ignore", over="ignore"):
        y[...] = (values.astype(through) if through else values).astype(y.dtype, copy=False)


def _exact(x: np.ndarray, w: np.ndarray, dtype: np.dtype) -> bool:
    """Whether an integer result does not depend on the order of summation.

    Cutting off makes the last bit of a sum visible: nine times a ninth is 0 or 1.  Whole weights
    are safe while no sum of products can reach 2^53.
    """
    if dtype.kind not in "biu":
        return True
    if x.dtype.kind not in "biu" or w.dtype.kind == "c" or not np.array_equal(w, np.trunc(w)):
        return False
    if x.dtype.kind == "b":
        peak = 1
    elif x.dtype.itemsize < 8:
        info = np.iinfo(x.dtype)
        peak = max(info.max, -info.min)
    else:
        peak = max(abs(int(x.max(initial=0))), abs(int(x.min(initial=0))))
    return float(np.abs(w).sum()) * peak < 2**53


def _scipy(name: str, input: Any, y: np.ndarray, *arguments: Any, **axes: Any) -> np.ndarray:
    """SciPy's own function, for the results that follow from its order of summation."""
    import scipy.ndimage

    weights, mode, cval, origin = arguments
    function = getattr(scipy.ndimage, name)
    if np.may_share_memory(input, y):  # SciPy reads complex input that it has overwritten
        input = np.array(input)
    function(input, weights, output=y, mode=mode, cval=cval, origin=origin, **axes)
    return y


def _without_tiny(w: np.ndarray) -> tuple[np.ndarray, bool]:
    """Weights without those that SciPy leaves out, and whether there are any."""
    parts = np.ascontiguousarray(w).view(np.float64) if w.ndim else w
    kept = np.where(np.abs(parts) > _EPSILON, parts, 0.0)
    return (kept.view(w.dtype) if w.ndim else kept), bool((kept == 0).any())


def _finite(x: np.ndarray, cval: complex) -> bool:
    """Whether all is finite; a sum that overflows counts as not, which is safe."""
    if x.dtype.kind not in "fc":
        return bool(np.isfinite(cval))
    with np.errstate(all="ignore"):
        return bool(np.isfinite(x.sum()) and np.isfinite(cval))


def _padding(op: str, size: int, origin: Any) -> tuple[int, int]:
    """Padding that makes correlating with `size` weights start at the centre, shifted."""
    if op == "convolve":
        origin = -origin - (size % 2 == 0)
    if origin < -(size // 2) or origin > (size - 1) // 2:
        raise ValueError(
            f"Invalid origin for {size} weights; it must keep the centre of the weights on one "
            "of them: -(size // 2) <= origin <= (size - 1) // 2 for correlation"
        )
    low = size // 2 + operator.index(origin)
    return low, size - 1 - low


def _axes(axes: Any, ndim: int) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(ndim))
    if not np.isscalar(axes) and not isinstance(axes, Iterable):
        raise ValueError(f"axes must be an integer, iterable of integers, or None, not {axes!r}")
    given: Iterable[Any] = axes if isinstance(axes, Iterable) else (axes,)
    numbers = tuple(operator.index(a) for a in given)
    for axis in numbers:
        if not -ndim <= axis < ndim:
            raise ValueError(f"specified axis: {axis} is out of range for {ndim} axes")
    numbers = tuple(axis % ndim for axis in numbers)
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"axes must be unique, not {numbers}")
    return numbers


def _per_axis(origin: Any, count: int) -> list[Any]:
    if isinstance(origin, str) or not np.iterable(origin):
        return [origin] * count
    origins = list(origin)
    if len(origins) != count:
        raise RuntimeError(
            f"sequence argument must have length equal to input rank: {len(origins)} origins "
            f"were given for {count} axes"
        )
    return origins


def _cval(cval: Any, x: np.ndarray, w: np.ndarray) -> complex:
    if x.dtype.kind == "c":
        return complex(cval)
    if w.dtype.kind == "c" and np.iscomplexobj(cval):
        raise ValueError("Cannot provide a complex-valued cval when the input is real.")
    return math.ldexp(cval, 0)  # a float; TypeError for whatever is no real number


def _output(output: Any, x: np.ndarray, real: bool) -> np.ndarray:
    """The array for the result, from SciPy's `output`: None, a dtype, its name, or an array."""
    if output is None:
        dtype = np.dtype(x.dtype.name)
        return np.zeros(x.shape, dtype if real else np.promote_types(dtype, np.complex64))
    if isinstance(output, type | np.dtype):
        dtype = np.dtype(output)
        if not real and dtype.kind != "c":
            warnings.warn("promoting specified output dtype to complex", stacklevel=4)
            dtype = np.promote_types(dtype, np.complex64)
        return np.zeros(x.shape, dtype)
    if isinstance(output, str):
        dtype = np.dtype(output)
        if real and not issubclass(dtype.type, np.number):
            raise RuntimeError(f"output must have numeric dtype, not {dtype}")
        y = np.zeros(x.shape, dtype)
    else:
        y = np.asarray(output)
        if y.shape != x.shape:
            raise RuntimeError(f"output shape {y.shape} not correct; input has {x.shape}")
    if not real and y.dtype.kind != "c":
        raise RuntimeError(f"output must have complex dtype, not {y.dtype}")
    return y
