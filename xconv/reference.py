"""The definition of convolution that every method is tested against: slow, plain, NumPy only.

It shares no code with the rest of the package, so that one mistake cannot stand on both sides
of a comparison.  Letters are turned into one form, a batch of grouped banks::

    y[b, g, o, p] = sum over i, t of  x[b, g, i, source(p, t)] * k[g, o, i, t]

and `source(p, t)`, the pixel under tap t of output p, is a table per spatial axis that holds
mode, boundary, stride, dilation and the reversal of the kernel.  Integers are exact modulo
2^bits; floats are summed in long double.  (Where long double is no wider than double its own
error is at most half of what `Expected.bound` allows a method, so the check stays sound.)
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .errors import ArgumentError, ArgumentTypeError
from .tolerance import Expected

__all__ = ["convolve", "correlate", "expected"]

Array = NDArray[Any]
_BOUNDARIES = {
    **dict.fromkeys(("constant", "fill", "zeros"), "constant"),
    **dict.fromkeys(("reflect", "symmetric"), "reflect"),
    **dict.fromkeys(("mirror", "reflect_101"), "mirror"),
    **dict.fromkeys(("nearest", "edge", "replicate"), "nearest"),
    **dict.fromkeys(("wrap", "circular", "periodic"), "wrap"),
}

_WIDE = {"b": np.bool_, "i": np.uint64, "u": np.uint64, "f": np.longdouble, "c": np.clongdouble}
"""What each kind of dtype is summed in; unsigned integers are exact modulo 2^64."""


def convolve(x: ArrayLike, k: ArrayLike, /, **keywords: Any) -> Array:
    """What `xconv.convolve(x, k, **keywords)` must return, rounded from long double.

    Takes the keywords that change the answer: layout, kernel_layout, out_layout, axes, mode,
    boundary, cval, stride, dilation, groups and dtype.

    >>> convolve([1, 2, 3], [1, 10])
    array([ 1, 12, 23, 30])
    """
    answer = expected(x, k, op="convolve", **keywords)
    with np.errstate(all="ignore"):
        return answer.values.astype(answer.dtype)


def correlate(x: ArrayLike, k: ArrayLike, /, **keywords: Any) -> Array:
    """What `xconv.correlate(x, k, **keywords)` must return, rounded from long double.

    >>> correlate([1, 2, 3], [1, 10])
    array([10, 21, 32,  3])
    """
    answer = expected(x, k, op="correlate", **keywords)
    with np.errstate(all="ignore"):
        return answer.values.astype(answer.dtype)


def expected(
    x: ArrayLike,
    k: ArrayLike,
    /,
    *,
    op: str = "convolve",
    layout: str | None = None,
    kernel_layout: str | None = None,
    out_layout: str | None = None,
    axes: Sequence[int] | None = None,
    mode: str | Sequence[tuple[int, int]] = "full",
    boundary: str = "constant",
    cval: complex = 0,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    dtype: DTypeLike | None = None,
) -> Expected:
    """The right answer of `xconv.convolve` or `xconv.correlate` (`op`), with its error bound.

    Raises ArgumentError or ArgumentTypeError where there is no answer.
    """
    result, image, kernel, fill = _operands(x, k, dtype, cval)
    if boundary == "zeros" and cval != 0:
        raise ArgumentError(f'boundary="zeros" with cval={cval}')
    boundary = _BOUNDARIES[boundary]
    converted = result.kind == "c" or {image.dtype, kernel.dtype} != {result}
    x_labels, k_labels, y_labels = _labels(
        image.ndim, kernel.ndim, layout, kernel_layout, out_layout, axes
    )
    spatial = [a for a in x_labels if a in k_labels and a != "C"]
    batch = [a for a in x_labels if a not in k_labels and not (a == "C" and "I" in k_labels)]
    with np.errstate(all="ignore"):
        image = _grouped_image(image.astype(result), x_labels, k_labels, batch, spatial, groups)
        kernel = _grouped_kernel(kernel.astype(result), k_labels, spatial, groups)
        kernel = kernel.conj() if op == "correlate" and result.kind == "c" else kernel
    dims = len(spatial)
    if image.shape[-dims - 2 : -dims] != kernel.shape[:3:2]:
        raise ArgumentError(f"channels of {np.shape(x)} and {np.shape(k)} with groups={groups}")
    sources = [
        _sources(op, size, taps, padding, step, spread, boundary)
        for size, taps, padding, step, spread in zip(
            image.shape[-dims:],
            kernel.shape[-dims:],
            [mode] * dims if isinstance(mode, str) else mode,
            [stride] * dims if isinstance(stride, int) else stride,
            [dilation] * dims if isinstance(dilation, int) else dilation,
            strict=True,
        )
    ]
    values = _sum_of_products(image, kernel, fill, sources, _WIDE[result.kind])
    bad = _sum_of_products(
        ~np.isfinite(image), np.ones(kernel.shape), ~np.isfinite(fill), sources, np.bool_
    )
    reached = tuple(range(2, kernel.ndim))  # I and the taps: all of them reach every output
    bad |= np.expand_dims(~np.isfinite(kernel).all(axis=reached), tuple(range(2, 2 + dims)))
    largest = _magnitude(image).max(
        axis=(-dims - 1, *range(-dims, 0)),
        initial=_magnitude(fill).item() if boundary == "constant" else 0,
    )[..., np.newaxis]
    total = _magnitude(kernel).sum(axis=reached)

    def per_output(y: Array) -> Array:
        y = y.reshape(*y.shape, *(1,) * (values.ndim - y.ndim))
        y = np.broadcast_to(y, values.shape)
        return _ungrouped(y, k_labels, batch, spatial, y_labels)

    return Expected(
        values=per_output(values.astype(result) if result.kind in "iu" else values),
        dtype=result,
        touched=per_output(bad),
        scale=per_output(largest * total),
        absolute=per_output(1 + largest + total),
        terms=math.prod(kernel.shape[2:]),
        converted=converted,
    )


def _operands(
    x: ArrayLike, k: ArrayLike, dtype: DTypeLike | None, cval: complex
) -> tuple[np.dtype[Any], Array, Array, Array]:
    """Dtype of the result, image, kernel, and `cval` in the dtype of the result."""
    image, kernel = np.asarray(x), np.asarray(k)
    if dtype is not None:
        result = np.dtype(dtype).newbyteorder("=")
    elif isinstance(k, np.ndarray | np.generic):
        result = np.result_type(image.dtype, kernel.dtype)
    else:  # a list of Python numbers promotes as a Python number does
        weak = {"b": False, "i": 0, "f": 0.0, "c": 0j}[kernel.dtype.kind]
        result = np.result_type(image.dtype, weak)
    kinds = "biufc"
    for name, array in (("x", image), ("k", kernel)):
        kind = array.dtype.kind.replace("u", "i")
        if kinds.find(kind) < 0 or kinds.find(kind) > kinds.find(result.kind.replace("u", "i")):
            raise ArgumentTypeError(f"{name} of dtype {array.dtype} for a result of {result}")
    fill = np.asarray(cval)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
        held_fill = fill.astype(result)
    if result.kind in "biu":
        held = fill.dtype.kind in "biuf" and fill == held_fill
    else:
        held = result.kind == "c" or fill.dtype.kind != "c"
        held = held and bool(np.isfinite(fill) == np.isfinite(held_fill))
    if not held:
        raise ArgumentError(f"cval={cval} does not fit a result of dtype {result}")
    return result, image, kernel, held_fill


def _magnitude(array: Array) -> NDArray[np.longdouble]:
    """|array| in long double, 0 where it is not finite."""
    size = np.abs(array.astype(np.clongdouble))
    return np.where(np.isfinite(array), size, 0)


def _labels(
    x_ndim: int,
    k_ndim: int,
    layout: str | None,
    kernel_layout: str | None,
    out_layout: str | None,
    axes: Sequence[int] | None,
) -> tuple[list[str], list[str], list[str]]:
    """One label per axis of image, kernel and result: letters, and numbers for unnamed axes."""
    if layout is None:
        chosen = range(x_ndim - k_ndim, x_ndim) if axes is None else axes
        numbers = [str(axis % x_ndim) for axis in chosen]
        every = [str(axis) for axis in range(x_ndim)]
        # Axes that are not convolved are batch axes; any label that the kernel lacks makes them so.
        return every, numbers, every
    before, dots, after = layout.partition("...")
    hidden = [f"...{i}" for i in range(x_ndim - len(before) - len(after))]
    x = [*before, *hidden, *after]
    spatial = [a for a in x if a not in {"N", "B", "C", *hidden}]
    k = list(kernel_layout) if kernel_layout is not None else spatial
    if len(x) != x_ndim or len(k) != k_ndim or {*k} - {*"COI"} != {*spatial}:
        raise ArgumentError(f"{layout} and {k} do not name {x_ndim} and {k_ndim} axes")
    y = [a for a in x if not (a == "C" and "I" in k)]
    if out_layout is not None:
        before, dots, after = out_layout.partition("...")
        given = [*before, *(hidden if dots else []), *after]
        if sorted(given) != sorted([*y, *("O" for a in k if a == "O")]):
            raise ArgumentError(f"{out_layout} does not name the axes of the result")
        return x, k, given
    if "O" in k and "I" in k:
        y.insert(x.index("C"), "O")
    elif k[0] == "O":
        y.insert(x.index(spatial[0]), "O")
    elif k[-1] == "O":
        y.append("O")
    elif "O" in k:
        raise ArgumentError(f"O in the middle of {kernel_layout} needs out_layout")
    return x, k, y


def _arranged(array: Array, labels: list[str], wanted: list[str]) -> Array:
    """`array` with its axes in the order `wanted`; a label it lacks gives an axis of length 1."""
    present = [a for a in wanted if a in labels]
    array = array.transpose([labels.index(a) for a in present])
    return np.expand_dims(array, [i for i, a in enumerate(wanted) if a not in labels])


def _grouped_image(
    image: Array, x: list[str], k: list[str], batch: list[str], spatial: list[str], groups: int
) -> Array:
    """The image as (batch..., G, I, spatial...)."""
    if "I" not in k:
        per_channel = "C" if "C" in k else "none"
        return _arranged(image, x, [*batch, per_channel, "none", *spatial])
    image = _arranged(image, x, [*batch, "C", *spatial])
    axis = len(batch)
    shape = image.shape
    split = (groups, shape[axis] // groups)
    return image.reshape(*shape[:axis], *split, *shape[axis + 1 :])


def _grouped_kernel(kernel: Array, k: list[str], spatial: list[str], groups: int) -> Array:
    """The kernel as (G, O, I, spatial...)."""
    if "I" not in k:
        return _arranged(kernel, k, ["C", "O", "I", *spatial])
    kernel = _arranged(kernel, k, ["O", "I", *spatial])
    return kernel.reshape(groups, kernel.shape[0] // groups, *kernel.shape[1:])


def _ungrouped(
    y: Array, k: list[str], batch: list[str], spatial: list[str], wanted: list[str]
) -> Array:
    """(batch..., G, O, spatial...) with its axes as `wanted` names them."""
    head, tail = y.shape[: len(batch)], y.shape[len(batch) + 2 :]
    groups, outputs = y.shape[len(batch) : len(batch) + 2]
    if "I" in k:
        middle = {"O": groups * outputs} if "O" in k else {}
    else:
        middle = {a: n for a, n in (("C", groups), ("O", outputs)) if a in k}
    y = y.reshape(*head, *middle.values(), *tail)
    return np.ascontiguousarray(_arranged(y, [*batch, *middle, *spatial], wanted))


def _sources(
    op: str, size: int, taps: int, padding: Any, stride: int, dilation: int, boundary: str
) -> list[list[int]]:
    """For each tap of one axis: the pixel under it for each output, `size` for beyond the edge."""
    extent = (taps - 1) * dilation + 1
    if padding == "full":
        before, after = extent - 1, extent - 1
    elif padding == "same":  # the centre of "full": skip (extent - 1) // 2 of it
        before = extent - 1 - (extent - 1) // 2
        after = (extent - 1) // 2
    elif padding == "valid":
        before, after = 0, 0
    else:
        before, after = padding
    count = size + before + after - extent + 1
    if count < 1 and padding != "same":
        raise ArgumentError(f"size {size} with a kernel of extent {extent} leaves no output")
    table = []
    for tap in range(taps):
        place = tap if op == "correlate" else taps - 1 - tap
        first = place * dilation - before
        table.append([_continued(first + p, size, boundary) for p in range(0, count, stride)])
    return table


def _continued(index: int, size: int, boundary: str) -> int:
    """The pixel that stands at `index` of an axis continued beyond its edges; `size` for none."""
    if 0 <= index < size:
        return index
    if boundary == "constant":
        return size
    if size == 0:
        raise ArgumentError(f"an axis of size 0 cannot be continued by {boundary}")
    if boundary == "nearest":
        return 0 if index < 0 else size - 1
    if boundary == "wrap":
        return index % size
    if boundary == "reflect":  # a b c c b a, a b c c b a, ...
        index %= 2 * size
        return min(index, 2 * size - 1 - index)
    period = max(2 * size - 2, 1)  # mirror: a b c b, a b c b, ...
    index %= period
    return min(index, period - index)


def _sum_of_products(
    image: Array, kernel: Array, fill: Array, sources: list[list[list[int]]], wide: Any
) -> Array:
    """y[..., g, o, p] = sum over i, t of image[..., g, i, sources[t][p]] * kernel[g, o, i, t].

    Summed in the dtype `wide`; in bool, sums are ORs and products ANDs.
    """
    dims = len(sources)
    # One more pixel at the end of each spatial axis stands for all that lies beyond the edges.
    image = np.pad(image, [(0, 0)] * (image.ndim - dims) + [(0, 1)] * dims, constant_values=fill)
    image, kernel = image.astype(wide), kernel.astype(wide)
    points = tuple(len(table[0]) for table in sources)
    y = np.zeros((*image.shape[: -dims - 1], kernel.shape[1], *points), wide)
    for i, *tap in itertools.product(*map(range, kernel.shape[2:])):
        pixels = np.take(image, i, axis=-dims - 1)[..., np.newaxis, *[slice(None)] * dims]
        for axis, (table, t) in enumerate(zip(sources, tap, strict=True), start=-dims):
            pixels = np.take(pixels, table[t], axis=axis)
        at: Any = (slice(None), slice(None), i, *tap)
        weights = kernel[at]
        with np.errstate(all="ignore"):
            y += pixels * weights.reshape(*weights.shape, *(1,) * dims)
    return y
