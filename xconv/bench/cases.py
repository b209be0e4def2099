"""What is timed: the suites and their cases.  No arrays here; `arrays` makes them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

__all__ = ["GPU", "PUBLISHED", "QUESTION", "SEED", "SUITES", "Case", "arrays", "cases"]

QUESTION = "Stack Overflow, question 39220929"

SEED = ((100, 50, 11), (1000, 50, 11), (100, 5, 11), (100, 500, 11), (100, 50, 5), (100, 50, 31))
"""Image size S, number of images N and kernel size K of the first table: the cases of an answer of
2016 to `QUESTION`, images in the last axis."""

PUBLISHED = {
    SEED[0]: {
        "scipy.signal.convolve": 0.909,
        "scipy.signal.fftconvolve": 0.116,
        "scipy.ndimage.convolve": 0.0549,
    }
}
"""Seconds that this answer gives (float64). Of its cells only the first could be consulted. Then
`convolve` was always direct, and `fftconvolve` transformed the axis of the images too."""

GPU = "gpu"
"""The suite whose cases run on a CUDA device."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One convolution to time, in the words of `xconv.convolve`."""

    suite: str
    x: tuple[int, ...]
    k: tuple[int, ...]
    layout: str
    kernel_layout: str
    dtype: str = "float32"
    k_dtype: str = ""
    """The dtype of `x` unless given."""
    out_layout: str = ""
    """The layout of `x` unless given."""
    op: str = "convolve"
    mode: str = "valid"
    boundary: str = "constant"
    stride: int = 1
    groups: int = 1
    values: str = "random"
    """random; gaussian: a separable kernel; nan: one pixel of `x` is not a number; huge: one
    image is 1e12 times the others; negative, fortran, swapped: how `x` lies in memory."""
    series: str = ""
    """Plot that the case is a point of; `at` is its abscissa."""
    at: float = 0.0
    forced: bool = False
    """Whether xconv's other methods are timed beside "auto"."""
    plan: bool = False
    """Whether a `Plan` with `out=` is timed too."""
    host: bool = False
    """Whether what a call costs the host is timed, without waiting for the device."""
    quick: bool = False
    """Whether `--quick` runs it."""

    @property
    def name(self) -> str:
        shape = "x".join(map(str, self.x))
        kernel = "x".join(map(str, self.k))
        parts = [self.suite, f"{self.layout}{shape}", f"{self.kernel_layout}{kernel}", self.dtype]
        parts += [self.mode] + [
            str(value)
            for value, usual in (
                (self.k_dtype, ""),
                (self.op, "convolve"),
                (self.boundary, "constant"),
                (f"stride{self.stride}", "stride1"),
                (f"groups{self.groups}", "groups1"),
                (self.values, "random"),
                ("host" if self.host else "", ""),
            )
            if value != usual
        ]
        return "/".join(parts)

    @property
    def spatial(self) -> str:
        """The letters convolved, in the order of `x`."""
        return "".join(a for a in self.layout if a in self.kernel_layout and a not in "CI")

    @property
    def summed(self) -> bool:
        return "I" in self.kernel_layout

    @property
    def on_gpu(self) -> bool:
        return self.suite == GPU

    @property
    def result_layout(self) -> str:
        return self.out_layout or self.layout

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of `xconv.convolve` that differ from its defaults."""
        wanted = {
            "layout": self.layout, "kernel_layout": self.kernel_layout,
            "out_layout": self.out_layout or None, "mode": self.mode, "boundary": self.boundary,
            "stride": self.stride, "groups": self.groups,
        }  # fmt: skip
        usual = {"out_layout": None, "mode": "full", "boundary": "constant", "stride": 1}
        usual["groups"] = 1
        return {name: value for name, value in wanted.items() if usual.get(name, "") != value}

    def record(self) -> dict[str, Any]:
        """What the results file says of the case."""
        return {"name": self.name, **asdict(self), "x": list(self.x), "k": list(self.k)}


def arrays(case: Case) -> tuple[Array, Array]:
    """The image and the kernel of a case: the same values on every machine."""
    random = np.random.default_rng(sum(map(ord, case.name)))
    x = _random(random, case.x, case.dtype)
    k = _random(random, case.k, case.k_dtype or case.dtype)
    if case.values == "gaussian":
        k = np.ones(case.k)
        for axis, size in enumerate(case.k):
            line = np.exp(-0.5 * (np.linspace(-2.5, 2.5, size)) ** 2)
            k *= np.expand_dims(line / line.sum(), [a for a in range(k.ndim) if a != axis])
        k = k.astype(case.k_dtype or case.dtype)
    elif case.values == "nan":
        x[(0, *(s // 2 for s in x.shape[1:]))] = np.nan
    elif case.values == "huge":
        x[tuple(0 if a == "N" else slice(None) for a in case.layout)] *= 1e12
    elif case.values == "negative":
        x = x[tuple(slice(None, None, -1) for _ in x.shape)]
    elif case.values == "fortran":
        x = np.asfortranarray(x)
    elif case.values == "swapped":
        x = x.astype(x.dtype.newbyteorder())
    return x, k


def _random(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    kind = np.dtype(dtype).kind
    if kind in "iu":
        return random.integers(0, 100, shape, dtype=dtype)
    if kind == "c":
        half = np.float32 if dtype == "complex64" else np.float64
        real, imaginary = (random.standard_normal(shape, half) for _ in range(2))
        return np.asarray(real + 1j * imaginary, dtype)
    if dtype in ("float32", "float64"):
        return random.standard_normal(shape, np.dtype(dtype).type)
    return random.standard_normal(shape, np.float32).astype(dtype)


def _batch(suite: str, s: int, n: int, k: int, layout: str = "HWN", **more: Any) -> Case:
    """N square images of S with a square kernel of K."""
    sizes = {"H": s, "W": s, "N": n}
    return Case(suite, tuple(sizes[a] for a in layout), (k, k), layout, "HW", **more)


def _seed() -> list[Case]:
    return [
        _batch(
            "seed", s, n, k, layout, dtype=dtype, forced=True,
            quick=s == 100 and n < 500 and (layout == "HWN" or n == 50),
        )
        for s, n, k in SEED
        for dtype in ("float32", "float64")
        for layout in ("HWN", "NHW")
    ]  # fmt: skip


def _layouts() -> list[Case]:
    found = []
    for layout in ("HWN", "NHW", "HNW"):
        found.append(_batch("layouts", 200, 32, 7, layout, quick=layout == "HNW"))
    channels = {"N": 16, "H": 128, "W": 128, "C": 3}
    for layout in ("NHWC", "NCHW", "CHWN"):
        found.append(Case("layouts", tuple(channels[a] for a in layout), (5, 5), layout, "HW"))
        found.append(Case("layouts", tuple(channels[a] for a in layout), (5, 5, 3), layout, "HWC"))
    for dtype in ("float16", "float64", "complex64", "complex128", "int32", "uint8", "int64"):
        found.append(_batch("layouts", 200, 16, 7, "NHW", dtype=dtype, quick=dtype == "float64"))
    found.append(
        _batch("layouts", 512, 16, 5, "NHW", dtype="uint8", k_dtype="float32", mode="same",
               boundary="mirror", quick=True)
    )  # fmt: skip
    for boundary in ("constant", "reflect", "mirror", "nearest", "wrap"):
        found.append(_batch("layouts", 200, 32, 7, "NHW", mode="same", boundary=boundary))
    for k in (3, 5):
        for layout in ("NHW", "HWN"):
            found.append(_batch("layouts", 28, 10000, k, layout, quick=k == 5 and layout == "NHW"))
    found.append(Case("layouts", (2000, 32, 32, 3), (5, 5), "NHWC", "HW"))
    found.append(_batch("layouts", 8, 20000, 3, "NHW"))
    for k in (3, 5):
        for layout in ("NHW", "HWN"):
            found.append(_batch("layouts", 1000, 50, k, layout, plan=True))
    return found


def _kernels() -> list[Case]:
    found = [
        _batch("kernels", 256, 16, k, "NHW", dtype=dtype, mode="same", series=f"kernel, {dtype}",
               at=k, forced=True, quick=dtype == "float32" and k in (3, 11, 31))
        for dtype in ("float32", "float64")
        for k in (3, 5, 7, 11, 15, 21, 31, 45, 63, 95, 127)
    ]  # fmt: skip
    found += [
        _batch("kernels", s, 16, 11, "NHW", series="image size", at=s, quick=s in (64, 256))
        for s in (16, 32, 64, 128, 256, 512, 1024)
    ]
    found += [
        _batch("kernels", 100, n, 11, "HWN", series="number of images", at=n, quick=n in (1, 100))
        for n in (1, 3, 10, 30, 100, 300, 1000)
    ]
    found += [
        _batch("kernels", 1000, 8, k, "NHW", dtype=dtype, mode="same")
        for k in (63, 127)
        for dtype in ("float32", "float64")
    ]
    found.append(_batch("kernels", 1000, 50, 31, "NHW", mode="same", values="gaussian"))
    found.append(_batch("kernels", 256, 8, 31, "NHW", mode="same", values="gaussian", quick=True))
    found += [
        Case("kernels", (100, 1_000_000), (10_001,), "NL", "L", dtype, mode="same")
        for dtype in ("float32",)
    ]
    found.append(Case("kernels", (64, 16384), (129,), "NL", "L", mode="same", quick=True))
    found += [
        Case("kernels", (4, 128, 128, 128), (5, 5, 5), "NDHW", "DHW", dtype, mode="same")
        for dtype in ("float32", "float64")
    ]
    found.append(Case("kernels", (2, 32, 32, 32), (3, 3, 3), "NDHW", "DHW", quick=True))
    found.append(Case("kernels", (16, 128, 128), (8, 7, 7), "NHW", "OHW", out_layout="NOHW"))
    return found


def _cnn() -> list[Case]:
    layers = (
        (16, 64, 56, 64, 3, 1, 1), (32, 1, 28, 32, 5, 1, 1), (16, 3, 224, 64, 7, 2, 1),
        (16, 64, 56, 64, 3, 1, 64), (8, 256, 14, 256, 3, 1, 1), (64, 16, 32, 32, 3, 1, 1),
    )  # fmt: skip
    return [
        _layer("cnn", *layer, *order, dtype=dtype,
               quick=dtype == "float32" and order[0] == "NHWC" and (layer[1], layer[4]) != (3, 7))
        for layer in layers
        for dtype in ("float32", "float64")
        for order in _ORDERS
    ]  # fmt: skip


_ORDERS = (("NCHW", "OIHW", "NOHW"), ("NHWC", "HWIO", "NHWO"))
"""Layouts of the image, the kernel and the result of layers."""


def _layer(
    suite: str, n: int, c: int, s: int, o: int, k: int, stride: int, groups: int,
    layout: str, kernel_layout: str, out_layout: str, **more: Any,
) -> Case:  # fmt: skip
    """A layer of O kernels of K over N square images of S with C channels."""
    x, w = {"N": n, "C": c, "H": s, "W": s}, {"O": o, "I": c // groups, "H": k, "W": k}
    return Case(
        suite, tuple(x[a] for a in layout), tuple(w[a] for a in kernel_layout), layout,
        kernel_layout, out_layout=out_layout, op="correlate", mode="same", stride=stride,
        groups=groups, **more,
    )  # fmt: skip


def _hostile() -> list[Case]:
    return [
        _batch("hostile", 256, 8, 31, "NHW", values="nan", mode="same", quick=True),
        _batch("hostile", 256, 8, 9, "NHW", values="huge"),
        _batch("hostile", 256, 8, 9, "NHW", values="negative", quick=True),
        _batch("hostile", 256, 8, 9, "NHW", values="fortran"),
        _batch("hostile", 256, 8, 9, "NHW", values="swapped"),
        _batch("hostile", 16, 64, 40, "NHW", mode="same", boundary="reflect"),
        _batch("hostile", 1021, 2, 10, "NHW"),
    ]


def _overhead() -> list[Case]:
    return [
        Case("overhead", (8, 8), (3, 3), "HW", "HW", dtype, plan=True, quick=dtype == "float32")
        for dtype in ("float32", "float64")
    ]


def _threads() -> list[Case]:
    """Timed with one worker, two, four and so on, and all."""
    return [
        _batch("threads", 256, 32, 11, "NHW", mode="same", series="threads, K = 11", quick=True),
        _batch("threads", 512, 32, 3, "NHW", mode="same", series="threads, K = 3"),
        _batch("threads", 512, 16, 63, "NHW", mode="same", series="threads, K = 63"),
    ]


def _busy() -> list[Case]:
    return [replace(case, suite="busy", forced=False) for case in _seed() if 1000 not in case.x]


def _gpu() -> list[Case]:
    """On the device, quick ones first: the seed's cases, other shapes, what a small call costs the
    host, and more sizes of kernels."""
    cells = (*SEED, *((1000, 50, k) for k in (3, 5, 15)))
    found = [
        _batch(GPU, s, n, k, layout, dtype=dtype, forced=True, plan=True,
               quick=(s == 100 and k == 11 and n > 5) or (s == 1000 and k == 5))
        for s, n, k in cells
        for dtype in ("float32", "float64")
        for layout in ("HWN", "NHW")
    ]  # fmt: skip
    found.append(
        _batch(GPU, 1000, 50, 5, "NHW", dtype="uint8", k_dtype="float32", mode="same",
               boundary="mirror")
    )  # fmt: skip
    found += [
        _batch(GPU, 1000, 50, 31, layout, mode="same", values="gaussian", forced=True)
        for layout in ("HWN", "NHW")
    ]
    found.append(Case(GPU, (8, 128, 128, 128), (5, 5, 5), "NDHW", "DHW", mode="same"))
    found += [_layer(GPU, 64, 64, 56, 64, 3, 1, 1, *order) for order in _ORDERS]
    found.append(_layer(GPU, 64, 64, 56, 64, 3, 1, 64, *_ORDERS[0]))
    found.append(Case(GPU, (8, 8), (3, 3), "HW", "HW", plan=True, host=True, quick=True))
    found += [
        _batch(
            GPU, 1024, 64, k, "NHW", mode="same", series="kernel, float32, GPU", at=k, forced=True
        )
        for k in (3, 5, 7, 11, 15, 31, 63, 127)
    ]
    return found


SUITES = {
    "seed": _seed,
    "layouts": _layouts,
    "kernels": _kernels,
    "cnn": _cnn,
    "hostile": _hostile,
    "overhead": _overhead,
    "threads": _threads,
    "busy": _busy,
    GPU: _gpu,
}
"""The suites by name; the random problems of "regret" are made in its own module."""


def cases(suite: str, quick: bool = False) -> list[Case]:
    """The cases of a suite, those of `--quick` alone if `quick`.

    >>> len(cases("seed"))
    24
    >>> cases("seed", quick=True)[0].name
    'seed/HWN100x100x50/HW11x11/float32/valid'
    """
    found = [case for case in SUITES[suite]() if case.quick or not quick]
    names = [case.name for case in found]
    assert len(set(names)) == len(names), "two cases of one name"
    return found
