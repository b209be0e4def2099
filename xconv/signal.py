"""`scipy.signal`'s convolve, correlate, fftconvolve, oaconvolve, convolve2d and correlate2d.

Signatures, defaults, dtypes and the built-in error types are SciPy's; the sums are xconv's:
integers are exact, NaN stays within its windows, and "same" keeps the broadcast axes whole.
Two kinds of operands go to SciPy itself: those that are no numbers (objects, strings), whose
arithmetic is Python's; and empty ones, where the answer differs by function, mode and size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from . import api
from .errors import MethodRefused
from .ndimage import method_for

__all__ = ["convolve", "convolve2d", "correlate", "correlate2d", "fftconvolve", "oaconvolve"]

_MODES = ("valid", "same", "full")
_METHODS = ("auto", "direct", "fft")
_BOUNDARIES = {
    "fill": "constant",
    "pad": "constant",
    "wrap": "wrap",
    "circular": "wrap",
    "symm": "reflect",
    "symmetric": "reflect",
    "reflect": "",
}
"""SciPy's names of boundaries; it knows "reflect" only to refuse it."""


def convolve(in1: Any, in2: Any, mode: Any = "full", method: Any = "auto") -> Any:
    """The convolution of two arrays of equal dimension, over all axes.

    Parameters
    ----------
    in1, in2
        Arrays of equally many axes; or two numbers, which are multiplied.
    mode
        "full", "same" (the size of `in1`), or "valid", where either may be the larger.
    method
        "auto", "direct" or "fft"; a transform is never used where it could round an integer.

    Returns
    -------
    array
        Of the dtype that NumPy promotes the two to.

    Raises
    ------
    ValueError
        For dimensions, sizes or names that do not fit.

    Examples
    --------
    >>> from xconv import signal
    >>> signal.convolve([1, 2, 3], [0, 1, 2])
    array([0, 1, 4, 7, 6])
    """
    a, b = np.asarray(in1), np.asarray(in2)
    if a.ndim == b.ndim == 0:
        return a * b
    _check_dimensions(a, b)
    if _is_scipys(a, b):
        return _scipy("convolve", in1, in2, mode=mode, method=method)
    _check_mode(mode)
    return _over_all(a, b, mode, method)


def correlate(in1: Any, in2: Any, mode: Any = "full", method: Any = "auto") -> Any:
    """The cross-correlation of two arrays of equal dimension: `in2` is reversed and conjugated.

    The arguments, the result and the errors are those of `convolve`.

    Examples
    --------
    >>> from xconv import signal
    >>> signal.correlate([1, 2, 3], [0, 1, 2])
    array([2, 5, 8, 3, 0])
    """
    a, b = np.asarray(in1), np.asarray(in2)
    if a.ndim == b.ndim == 0:
        return a * np.conj(b) if b.dtype.kind == "c" else a * b
    _check_dimensions(a, b)
    if _is_scipys(a, b):
        return _scipy("correlate", in1, in2, mode=mode, method=method)
    _check_mode(mode)
    return _over_all(a, _reversed(b), mode, method)


def fftconvolve(in1: Any, in2: Any, mode: Any = "full", axes: Any = None) -> Any:
    """The convolution of two arrays over `axes` (all unless given), in floating point.

    The other axes are broadcast.  The cheapest of xconv's methods is used, so that NaN and inf
    stay within their windows.

    Parameters
    ----------
    in1, in2
        Arrays of equally many axes; or two numbers, which are multiplied.
    mode
        "full", "same" (the size of `in1` on the axes convolved) or "valid".
    axes
        An int or several.

    Returns
    -------
    array
        Integers and bools are computed in float64 and float16 in float32, save where no axis
        has more than one element in both arrays: then the product's dtype stays.

    Raises
    ------
    ValueError
        For dimensions, sizes, axes or names that do not fit.

    Examples
    --------
    >>> from xconv import signal
    >>> signal.fftconvolve([[1, 2, 3]], [[0, 1, 2], [1, 0, 0]], axes=1)
    array([[0., 1., 4., 7., 6.],
           [1., 2., 3., 0., 0.]])
    """
    return _over_axes("fftconvolve", in1, in2, mode, axes)


def oaconvolve(in1: Any, in2: Any, mode: Any = "full", axes: Any = None) -> Any:
    """`fftconvolve` under the name that SciPy gives to its way in blocks.

    Examples
    --------
    >>> from xconv import signal
    >>> signal.oaconvolve([1, 2, 3], [0, 1, 2], mode="same")
    array([1., 4., 7.])
    """
    return _over_axes("oaconvolve", in1, in2, mode, axes)


def convolve2d(
    in1: Any, in2: Any, mode: Any = "full", boundary: Any = "fill", fillvalue: Any = 0
) -> Any:
    """The convolution of two 2-D arrays.

    Parameters
    ----------
    in1, in2
        2-D arrays of numbers; bool and float16 are refused, as in SciPy.
    mode
        "full", "same" (the size of `in1`) or "valid", where either may be the larger.
    boundary, fillvalue
        How `in1` continues: "fill" or "pad" (with `fillvalue`), "wrap" or "circular", "symm" or
        "symmetric".

    Returns
    -------
    array
        Of the dtype that NumPy promotes the two to.

    Raises
    ------
    ValueError
        For shapes, dtypes, names or a fillvalue that do not fit.

    Examples
    --------
    >>> from xconv import signal
    >>> signal.convolve2d([[1, 2], [3, 4]], [[1, 1]], mode="same", boundary="wrap")
    array([[3, 3],
           [7, 7]])
    """
    a, b, mode, options = _in_two(in1, in2, mode, boundary, fillvalue)
    if _swapped(a.shape, b.shape, mode, range(2)):
        a, b = b, a
    return _in_two_sum(api.convolve, a, b, mode, options)


def correlate2d(
    in1: Any, in2: Any, mode: Any = "full", boundary: Any = "fill", fillvalue: Any = 0
) -> Any:
    """The cross-correlation of two 2-D arrays; `in2` is conjugated.

    The arguments, the result and the errors are those of `convolve2d`.  Its "same" is centred on
    element `size // 2` of "full", for an even size one later than that of `correlate`.

    Examples
    --------
    >>> from xconv import signal
    >>> signal.correlate2d([[1, 2, 3]], [[1, 10]], mode="same")
    array([[21, 32,  3]])
    """
    a, b, mode, options = _in_two(in1, in2, mode, boundary, fillvalue)
    if _swapped(a.shape, b.shape, mode, range(2)):
        return _in_two_sum(api.correlate, b, a, mode, options)[::-1, ::-1]
    pads: Any = tuple(((k - 1) // 2, k // 2) for k in b.shape) if mode == "same" else mode
    return _in_two_sum(api.correlate, a, b, pads, options)


def _over_all(a: np.ndarray, b: np.ndarray, mode: str, method: Any) -> Any:
    """convolve of arrays that have elements."""
    swap = _swapped(a.shape, b.shape, mode, range(a.ndim))
    if method not in _METHODS:
        raise ValueError(f"Acceptable method flags are 'auto', 'direct', or 'fft', not {method!r}.")
    if swap or (mode == "full" and b.size > a.size):
        a, b = b, a  # the same sums, with the smaller as the kernel
    dtype = np.result_type(a, b)
    if method == "fft" and not (_finite(a) and _finite(b)):
        warnings.warn(
            "Use of fft convolution on input with NAN or inf: outputs whose window holds one "
            "are not finite. Consider using method='direct' instead.",
            category=RuntimeWarning,
            stacklevel=3,
        )
    if dtype.kind in "biu":
        if method != "direct" and dtype.kind != "b" and _transform_is_exact(a, b, mode):
            sums = np.rint(api.convolve(a, b, mode=mode, dtype=np.float64))
            return sums.astype(np.int64).astype(dtype)
        return api.convolve(a, b, mode=mode)
    if method == "auto":
        method = method_for(a.size, b.size)
    try:
        return api.convolve(a, b, mode=mode, method=method)
    except MethodRefused:  # a kernel of zeros or with NaN is not transformed
        return api.convolve(a, b, mode=mode)


def _transform_is_exact(a: np.ndarray, b: np.ndarray, mode: str) -> bool:
    """Whether integers are so many that a transform pays, and so small that it cannot round.

    Its error is at most 100 eps sum|b| max|a| (the constant is near 10 log2 of the length), and
    must stay below a half: sum|b| max|a| < 2^44.
    """
    if method_for(a.size, b.size) == "direct":
        return False
    peak = max(abs(int(a.max())), abs(int(a.min())))
    return float(np.abs(b.astype(np.float64)).sum()) * peak < 2**44


def _over_axes(name: str, in1: Any, in2: Any, mode: Any, axes: Any) -> Any:
    a, b = np.asarray(in1), np.asarray(in2)
    if a.ndim == b.ndim == 0:
        return a * b
    _check_dimensions(a, b)
    if a.size == 0 or b.size == 0:
        return np.array([])
    if _is_scipys(a, b):
        return _scipy(name, in1, in2, mode=mode, axes=axes)
    wanted = _axes(axes, a.ndim)
    # Along an axis of length 1 the convolution is a product, which broadcasting does.
    convolved = sorted(i for i in wanted if a.shape[i] != 1 and b.shape[i] != 1)
    others = [i for i in range(a.ndim) if i not in convolved]
    if any(a.shape[i] != b.shape[i] and 1 not in (a.shape[i], b.shape[i]) for i in others):
        raise ValueError(f"incompatible shapes for in1 and in2: {a.shape} and {b.shape}")
    if mode not in _MODES:
        raise ValueError(f"acceptable mode flags are 'valid', 'same', or 'full', not {mode!r}")
    size = a.shape
    if _swapped(a.shape, b.shape, mode, convolved) or (mode == "full" and b.size > a.size):
        a, b = b, a
    y = _broadcast(_floating(a), _floating(b), mode, others, convolved) if convolved else a * b
    if mode == "same":
        y = y[tuple(_centre(n, size[i] if i in wanted else n) for i, n in enumerate(y.shape))]
    return y


def _broadcast(
    a: np.ndarray, b: np.ndarray, mode: str, others: list[int], convolved: list[int]
) -> np.ndarray:
    """The convolution over some axes, broadcast over the others.

    Among the others those that only `a` has are batch axes (...), those that both have become a
    kernel per channel (C), and those that only `b` has a bank (O).
    """
    bank = [i for i in others if a.shape[i] == 1 and b.shape[i] != 1]
    channels = [i for i in others if a.shape[i] != 1 and b.shape[i] != 1]
    batch = [i for i in others if i not in bank and i not in channels]
    x = a.transpose(*batch, *channels, *bank, *convolved)
    k = b.transpose(*batch, *channels, *bank, *convolved)
    n, c, o = (len(batch), len(channels), len(bank))
    x_space, k_space = x.shape[n + c + o :], k.shape[n + c + o :]
    letters = "".join(chr(ord("P") + i) for i in range(len(convolved)))
    x = x.reshape(*x.shape[:n], -1, *x_space)
    k = k.reshape(x.shape[n], -1, *k_space)
    y: np.ndarray = api.convolve(
        x,
        k,
        layout=f"...C{letters}",
        kernel_layout=f"CO{letters}",
        out_layout=f"...CO{letters}",
        mode=mode,
        method=method_for(a.size, b.size),
    )
    lead = [a.shape[i] if i in batch else b.shape[i] for i in (*batch, *channels, *bank)]
    return y.reshape(*lead, *y.shape[n + 2 :]).transpose(
        np.argsort([*batch, *channels, *bank, *convolved])
    )


def _in_two(
    in1: Any, in2: Any, mode: Any, boundary: Any, fillvalue: Any
) -> tuple[np.ndarray, np.ndarray, str, dict[str, Any]]:
    """convolve2d's arguments, checked in SciPy's order."""
    a, b = np.asarray(in1), np.asarray(in2)
    if not a.ndim == b.ndim == 2:
        raise ValueError(f"inputs must both be 2-D arrays, not {a.ndim}-D and {b.ndim}-D")
    _swapped(a.shape, b.shape, mode, range(2))
    _check_mode(mode)
    if boundary not in _BOUNDARIES:
        raise ValueError(
            "Acceptable boundary flags are 'fill', 'circular' (or 'wrap'), and 'symmetric' "
            f"(or 'symm'), not {boundary!r}."
        )
    dtype = np.result_type(a, b) if a.dtype.kind in "biufc" and b.dtype.kind in "biufc" else None
    if dtype is None or dtype.char in "?e":
        raise ValueError(
            f"2-D convolution is not available for {a.dtype} with {b.dtype}; convert to float32"
        )
    if not _BOUNDARIES[boundary]:
        raise ValueError('boundary "reflect" is not available; "symmetric" is the nearest to it')
    fill = _fill(fillvalue, dtype) if _BOUNDARIES[boundary] == "constant" else 0
    if 0 in a.shape and _BOUNDARIES[boundary] != "constant":
        raise ValueError(f"in1 of shape {a.shape} is empty and has nothing to continue with")
    return a, b, mode, {"boundary": _BOUNDARIES[boundary], "cval": fill, "dtype": dtype}


def _in_two_sum(
    run: Callable[..., Any], a: np.ndarray, b: np.ndarray, mode: Any, options: dict[str, Any]
) -> Any:
    if 0 in (a.size, b.size):
        change = {"full": -1, "valid": 1}
        sizes = [
            max(0, m - change[mode] * (n - 1)) if mode in change else m
            for m, n in zip(a.shape, b.shape, strict=True)
        ]
        if b.size == 0 or 0 in sizes:  # sums without terms, or no sums
            return np.zeros(sizes, options["dtype"])
    return run(a, b, mode=mode, method=method_for(a.size, b.size), **options)


def _fill(fillvalue: Any, dtype: np.dtype) -> complex:
    """`fillvalue` as SciPy takes it: through complex, then cut to the result's dtype."""
    given = np.asarray(fillvalue)
    if given.size == 0:
        raise ValueError("`fillvalue` cannot be an empty array.")
    if given.size != 1:
        raise ValueError("`fillvalue` must be scalar or an array with one element.")
    value = complex(given.astype(np.complex128).reshape(())[()])
    if dtype.kind == "c":
        return value
    fits = given.dtype.kind != "c"
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        fits = fits and np.isfinite(value.real) and info.min <= int(value.real) <= info.max
    if not fits:
        raise ValueError(
            "could not cast `fillvalue` directly to the output type "
            f"(it was first converted to complex): {fillvalue!r} to {dtype}."
        )
    return value.real if dtype.kind == "f" else int(value.real)


def _swapped(one: Any, two: Any, mode: Any, axes: Any) -> bool:
    """Whether "valid" takes the second array for the larger."""
    if mode != "valid" or all(one[i] >= two[i] for i in axes):
        return False
    if any(two[i] < one[i] for i in axes):
        raise ValueError(
            "For 'valid' mode, one must be at least as large as the other in every dimension; "
            f"the shapes are {one} and {two}"
        )
    return True


def _check_dimensions(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != b.ndim:
        raise ValueError(
            f"in1 and in2 should have the same dimensionality, not {a.ndim} and {b.ndim} axes; "
            "give in2 axes of length 1, or use xconv.convolve, which filters a batch"
        )


def _check_mode(mode: Any) -> None:
    if mode not in _MODES:
        raise ValueError(f"Acceptable mode flags are 'valid', 'same', or 'full', not {mode!r}.")


def _axes(axes: Any, ndim: int) -> list[int]:
    if axes is None:
        return list(range(ndim))
    numbers = np.atleast_1d(np.asarray(axes))
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(f"axes must be a scalar or iterable of integers, not {axes!r}")
    if not numbers.size:
        raise ValueError("when provided, axes cannot be empty")
    if any(not -ndim <= int(i) < ndim for i in numbers):
        raise ValueError(f"axes exceeds dimensionality of input: {axes} of {ndim} axes")
    wanted = [int(i) % ndim for i in numbers]
    if len(set(wanted)) != len(wanted):
        raise ValueError(f"all axes must be unique, not {axes}")
    return wanted


def _is_scipys(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the operands are of the kinds that the module's docstring leaves to SciPy."""
    return 0 in (a.size, b.size) or a.dtype.kind not in "biufc" or b.dtype.kind not in "biufc"


def _scipy(name: str, in1: Any, in2: Any, **options: Any) -> Any:
    import scipy.signal

    return getattr(scipy.signal, name)(in1, in2, **options)


def _reversed(k: np.ndarray) -> np.ndarray:
    return np.conj(np.flip(k)) if k.dtype.kind == "c" else np.flip(k)


def _floating(a: np.ndarray) -> np.ndarray:
    """The array in the dtype that SciPy transforms it in."""
    if a.dtype.kind in "biu":
        return a.astype(np.float64)
    return a.astype(np.float32) if a.dtype.char == "e" else a


def _finite(a: np.ndarray) -> bool:
    return a.dtype.kind not in "fc" or bool(np.isfinite(a).all())


def _centre(full: int, size: int) -> slice:
    start = (full - size) // 2
    return slice(start, start + size)
