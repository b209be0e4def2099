"""Transforms an axis at a time, by SciPy's library and by ducc0's where it is installed."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

import xconv
from xconv.backends import transforms
from xconv.backends.transforms import ducc_version, forward, inverse
from xconv.methods import fft
from xconv.methods.fft import FFT, Tiles
from xconv.problem import Problem
from xconv.reference import expected

LIBRARIES = [
    "scipy",
    pytest.param(
        "ducc0",
        marks=pytest.mark.skipif(ducc_version() is None, reason="ducc0 is not installed"),
    ),
]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "scipy":
        monkeypatch.setattr(transforms, "_ducc", lambda dtype: None)
    return str(request.param)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128", "longdouble"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_forward_and_inverse_are_numpys(library: str, dtype: str, order: str) -> None:
    rng = np.random.default_rng(0)
    real = np.dtype(dtype).kind == "f"
    for size, n in product([(5,), (4, 6), (3, 5, 2)], [0, 3]):
        lengths = tuple(s + n for s in size)
        axes = tuple(range(1, 1 + len(size)))
        x = rng.standard_normal((2, *size)) + (0 if real else 1j * rng.standard_normal((2, *size)))
        x = np.asarray(x, dtype, order=order)  # type: ignore[call-overload]
        spectrum = forward(x, lengths, axes)
        tolerance = 50 * np.finfo(dtype).eps * math.prod(lengths)
        exact = (np.fft.rfftn if real else np.fft.fftn)(x.astype(complex if not real else float),
                                                        s=lengths, axes=axes)  # fmt: skip
        assert np.abs(spectrum - exact).max() < max(tolerance, 1e-13)
        assert spectrum.dtype == np.result_type(dtype, np.complex64)
        keep = tuple(slice(1, s, 2) for s in size)
        found = inverse(spectrum, lengths, axes, real, keep)
        assert found.dtype == x.dtype
        assert np.abs(found - x[(slice(None), *keep)]).max() < max(tolerance, 1e-13)


@pytest.mark.parametrize("layout", ["NHW", "HWN"])
@pytest.mark.parametrize("boundary", ["constant", "mirror"])
def test_convolve_is_direct(library: str, layout: str, boundary: str) -> None:
    rng = np.random.default_rng(1)
    sizes = {"N": 3, "H": 150, "W": 61}
    x = rng.standard_normal([sizes[a] for a in layout])
    k = rng.standard_normal((31, 9))
    options = {
        "layout": layout, "kernel_layout": "HW", "mode": "same", "boundary": boundary,
        "cval": 2.0 if boundary == "constant" else 0.0,
    }  # fmt: skip
    exact = xconv.convolve(x, k, method="direct", **options)
    for memory in (1 << 26, 1 << 20):  # one tile and many
        found = xconv.convolve(x, k, method="fft", max_memory=memory, workers=1, **options)
        assert np.abs(found - exact).max() < 1e-11


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize(
    ("layout", "kernel", "shape", "options"),
    [
        ("HWN", (9, 12), (90, 70, 41), {"mode": "same", "boundary": "reflect"}),
        ("HWN", (9, 12), (90, 70, 41), {"mode": "valid", "stride": (2, 1)}),
        ("HNWB", (9, 12), (50, 2, 60, 37), {"mode": "full"}),
        ("LN", (101,), (3000, 45), {"mode": "same", "boundary": "wrap"}),
        ("CHWN", (2, 3, 9, 8), (6, 50, 60, 35), {"kernel_layout": "OIHW", "groups": 2}),
    ],
)
def test_images_whose_batch_is_innermost_are_copied(
    layout: str,
    kernel: tuple[int, ...],
    shape: tuple[int, ...],
    options: dict[str, Any],
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of several images are copied and transformed in parts."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal(shape)
    k = rng.standard_normal(kernel)
    if dtype == "complex64":
        x, k = x + 1j * rng.standard_normal(shape), k + 1j * rng.standard_normal(kernel)
    x, k = x.astype(dtype), k.astype(dtype)
    x[tuple(n // 3 for n in shape)] = np.nan
    x[tuple(n // 2 for n in shape)] = np.inf
    wanted = expected(x, k, layout=layout, **options)
    parts: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def copied(problem: Problem, tiles: Tiles, shape: Sequence[int], *rest: Any) -> Any:
        found = _copied(problem, tiles, shape, *rest)
        if found is not None:
            parts.append((tuple(shape), found))
        return found

    _copied = transforms._copied
    monkeypatch.setattr(transforms, "_copied", copied)
    for block in (1 << 16, 1 << 20):  # bytes of one image or less, and of some
        monkeypatch.setattr(fft, "_most", lambda problem, limits, block=block: block)
        plan = xconv.plan(x, k, layout=layout, method="fft", workers=2, **options)
        y = plan(x)
        assert not wanted.disagreement(y, FFT().rounding(plan.problem))
    assert any(found > shape for shape, found in parts)
    assert all(found >= shape for shape, found in parts)
