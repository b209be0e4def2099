"""Random canonical problems for the compiled core, and the slow definition they are held to."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xconv import _native
from xconv.problem import BOUNDARIES

Array = NDArray[Any]

FLOATS = ("float16", "float32", "float64", "complex64", "complex128")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
DTYPES = ("bool", *INTEGERS, *FLOATS)


def accumulator(dtype: str) -> str:
    return "float32" if dtype == "float16" else dtype


@dataclass
class Case:
    """One problem: canonical arrays x (batch..., G, I, spatial...) and w (G, O, I, spatial...)."""

    x: Array
    w: Array
    dtype: str
    spatial: int
    output: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pad: tuple[int, ...]
    boundary: str = "constant"
    cval: Any = 0
    kernel_is_real: bool = False

    @property
    def y_shape(self) -> tuple[int, ...]:
        lead = self.x.shape[: -self.spatial - 1]
        return (*lead, self.w.shape[1], *self.output)

    def direct(
        self, x_order: tuple[int, ...] | None = None, y_order: tuple[int, ...] | None = None
    ) -> Any:
        """The prepared convolution for arrays whose axis order[j] is canonical axis j."""

        def axes(shape: tuple[int, ...], order: tuple[int, ...] | None) -> list[Any]:
            return [(n, j if order is None else order[j], 1) for j, n in enumerate(shape)]

        return _native.Direct(
            str(self.x.dtype),
            self.dtype,
            axes(self.x.shape, x_order),
            axes(self.y_shape, y_order),
            self.spatial,
            self.w.shape,
            self.stride,
            self.dilation,
            self.pad,
            BOUNDARIES.index(self.boundary),
            self.cval,
            self.kernel_is_real,
        )

    def run(
        self,
        x: Array | None = None,
        out: Array | None = None,
        workers: int = 1,
        max_memory: int = 1 << 26,
        turned: bool = True,
    ) -> Array:
        """The result, by kernels with kernels or groups as lanes too if `turned`."""
        if out is None:
            out = np.empty(self.y_shape, self.dtype)
        direct, weights = self.direct(), None
        if turned and direct.turned_elements():
            weights = np.empty(direct.turned_elements(), self.w.dtype)
            direct.turn(self.w, weights)
        direct.run(self.x if x is None else x, self.w, out, workers, max_memory, weights)
        return out


def source(p: int, t: int, case: Case, axis: int) -> int:
    """The pixel under tap t of output p along a spatial axis, or -1 for the constant."""
    n = case.x.shape[len(case.x.shape) - case.spatial + axis]
    i = p * case.stride[axis] + t * case.dilation[axis] - case.pad[axis]
    if 0 <= i < n:
        return i
    if case.boundary == "constant":
        return -1
    if case.boundary == "nearest":
        return min(max(i, 0), n - 1)
    if case.boundary == "wrap":
        return i % n
    if case.boundary == "reflect":
        i %= 2 * n
        return min(i, 2 * n - 1 - i)
    if n == 1:
        return 0
    i %= 2 * n - 2
    return min(i, 2 * n - 2 - i)


def expected(case: Case) -> tuple[Array, Array]:
    """The result, in the widest type, and sum|w||x|, which scales the error bound."""
    wide: Any = {
        "b": np.bool_,
        "i": np.uint64,
        "u": np.uint64,
        "f": np.longdouble,
        "c": np.clongdouble,
    }[np.dtype(case.dtype).kind]
    with np.errstate(over="ignore"):
        x = case.x.astype(case.dtype).astype(wide)
    w = case.w.astype(wide)
    fill = np.asarray(case.cval).astype(case.dtype).astype(wide)
    y = np.zeros(case.y_shape, wide)
    magnitude = np.zeros(case.y_shape, np.longdouble)
    for taps in product(*map(range, w.shape[3:])):
        picked = x
        outside = np.zeros(case.output, bool)
        for axis, tap in enumerate(taps):
            table = np.array([source(p, tap, case, axis) for p in range(case.output[axis])])
            at = x.ndim - case.spatial + axis
            if x.shape[at] == 0:
                picked = np.zeros((*picked.shape[:at], len(table), *picked.shape[at + 1 :]), wide)
            else:
                picked = np.take(picked, np.maximum(table, 0), axis=at)
            shape = [1] * case.spatial
            shape[axis] = len(table)
            outside = outside | (table < 0).reshape(shape)
        picked = np.where(outside, fill, picked)
        for i in range(case.w.shape[2]):
            term_x = np.take(picked, [i], axis=x.ndim - case.spatial - 1)
            weights = w[(slice(None), slice(None), i, *taps)]
            weights = weights.reshape(*weights.shape, *[1] * case.spatial)
            with np.errstate(all="ignore"):
                if case.dtype == "bool":
                    y |= term_x & weights
                else:
                    y += term_x * weights
                    magnitude += np.abs(term_x * weights).astype(np.longdouble)
    return y, magnitude


def assert_right(case: Case, actual: Array) -> None:
    right, magnitude = expected(case)
    assert actual.dtype == case.dtype
    assert actual.shape == right.shape
    if np.dtype(case.dtype).kind in "biu":
        np.testing.assert_array_equal(actual, right.astype(case.dtype))
        return
    terms = int(np.prod(case.w.shape[2:]))
    info = np.finfo(accumulator(case.dtype))
    bound = (terms + 2) * (info.eps * magnitude + info.smallest_subnormal)
    if case.dtype == "float16":  # half a unit in the last place of the result
        bound = bound + 2.0 ** (np.maximum(np.frexp(np.abs(right) + bound)[1], -13) - 12)
    sound = np.isfinite(right) & (np.abs(right) + bound < np.finfo(case.dtype).max)
    with np.errstate(all="ignore"):
        error = np.abs(actual.astype(right.dtype) - right)
    assert (error <= bound)[sound].all(), (error / np.maximum(bound, 1e-300))[sound].max()
    assert not np.isfinite(actual[~np.isfinite(right)]).any()


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.random(shape) < 0.3
    if kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    if kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def random_case(rng: np.random.Generator) -> Case:
    dtype = str(rng.choice(DTYPES))
    kind = np.dtype(dtype).kind
    pools = {
        "b": ("bool",),
        "i": INTEGERS,
        "u": INTEGERS,
        "f": (*INTEGERS, "bool", *FLOATS[:3]),
        "c": (*INTEGERS, *FLOATS),
    }
    x_dtype = dtype if rng.random() < 0.5 else str(rng.choice(pools[kind]))
    spatial = int(rng.choice([1, 2, 2, 2, 3, 4]))
    small = {1: 70, 2: 26, 3: 9, 4: 5}[spatial]
    batch = tuple(int(n) for n in rng.choice([1, 2, 3, 8, 19, 40], int(rng.integers(0, 3))))
    if np.prod(batch) > 100:
        batch = batch[:1]
    g, o, i = (int(rng.choice(c)) for c in ([1, 1, 1, 3, 17], [1, 1, 2, 7, 21], [1, 1, 1, 3, 40]))
    size = tuple(int(n) for n in rng.integers(1, small, spatial))
    kernel = tuple(int(n) for n in rng.integers(1, {1: 12, 2: 7, 3: 4, 4: 3}[spatial], spatial))
    stride = tuple(int(n) for n in rng.choice([1, 1, 1, 2, 3], spatial))
    dilation = tuple(int(n) for n in rng.choice([1, 1, 1, 2, 3], spatial))
    boundary = str(rng.choice(BOUNDARIES))
    pad, output = [], []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        extent = (k - 1) * d + 1
        low = int(rng.choice([0, extent // 2, extent - 1, 2 * n]))
        high = int(rng.choice([0, extent // 2, extent - 1, n]))
        high = max(high, extent - n - low)
        pad.append(low)
        output.append((n + low + high - extent) // s + 1)
    x = values(rng, (*batch, g, i, *size), x_dtype)
    real = kind == "c" and bool(rng.random() < 0.4)
    weight_dtype = accumulator(dtype)
    if real:
        weight_dtype = "float32" if dtype == "complex64" else "float64"
    w = values(rng, (g, o, i, *kernel), "float16" if dtype == "float16" else weight_dtype)
    cval = {"b": True, "i": 3, "u": 7, "f": 0.75, "c": 0.5 - 2j}[kind]
    return Case(
        x,
        w.astype(weight_dtype),
        dtype,
        spatial,
        tuple(output),
        stride,
        dilation,
        tuple(pad),
        boundary,
        cval,
        real,
    )


def in_memory_order(rng: np.random.Generator, a: Array) -> Array:
    """The same values with the axes in another order in memory, some reversed or with gaps."""
    order = rng.permutation(a.ndim)
    steps = rng.choice([1, 1, 1, -1, 2], a.ndim)
    shape = [a.shape[j] * abs(int(steps[j])) for j in order]
    base = np.empty(shape, a.dtype)
    view = base.transpose(np.argsort(order))
    view = view[tuple(slice(None, None, int(s)) for s in steps)]
    view[...] = a
    return view
