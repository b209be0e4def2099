"""Transforms an axis at a time, by SciPy's library and by ducc0's where it is installed."""

import math
from itertools import product

import numpy as np
import pytest

import xconv
from xconv.backends import transforms
from xconv.backends.transforms import ducc_version, forward, inverse

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
