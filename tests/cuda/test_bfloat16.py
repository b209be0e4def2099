"""bfloat16, which NumPy and CuPy have by the package ml_dtypes: stored so, summed in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xconv
from xconv import api, reference
from xconv.backends.cuda import CUDABackend
from xconv.cuda import direct
from xconv.errors import ArgumentError, ArgumentTypeError, MethodRefused

from .emulator import COMPILER, EmulatedDevice, on_device

bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
emulated = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")
RNG = np.random.default_rng(16)


def halves(shape: tuple[int, ...]) -> Any:
    return RNG.standard_normal(shape).astype(bfloat16)


def check(y: Any, x: np.ndarray, k: np.ndarray, **keywords: Any) -> None:
    """Within float32's bound of the sum, and half a unit in the last of bfloat16's 8 bits."""
    right = reference.expected(x.astype("f4"), k.astype("f4"), **keywords)
    wide = np.asarray(y).astype(np.longdouble)
    bound = right.bound(right.direct)
    allowed = bound + (2.0**-8 * (np.abs(right.values) + bound) if y.dtype == bfloat16 else 0)
    assert wide.shape == right.values.shape
    assert (np.abs(wide - right.values) <= allowed).all()


@emulated
@pytest.mark.parametrize("kernel", ["any", "tiled", "tiled for its taps"])
@pytest.mark.parametrize("place", ["host", "device", "streamed"])
def test_sums_in_float32(monkeypatch: pytest.MonkeyPatch, kernel: str, place: str) -> None:
    monkeypatch.setattr(direct, "WORTH_COMPILING", 0)
    card = CUDABackend(EmulatedDevice(specialise=kernel == "tiled for its taps"))
    card.methods = CUDABackend.methods[1:] if kernel == "any" else CUDABackend.methods
    x, k = halves((3, 40, 50)), halves((15, 15))  # 225 products: 8 bits would not do
    backend: Any = card.for_host() if place == "streamed" else card
    image = x if place == "streamed" else on_device(x)
    taps = on_device(k) if place == "device" else k
    keywords: dict[str, Any] = {"mode": "same", "boundary": "mirror"}
    y = api.plan_on(backend, "convolve", image, taps, **keywords)(image)
    assert y.dtype == bfloat16
    check(y, x, k, **keywords)


@emulated
def test_with_other_dtypes() -> None:
    backend = CUDABackend(EmulatedDevice())
    x, k = halves((2, 12, 14)), RNG.standard_normal((3, 3)).astype("f4")
    there = on_device(x)
    y = api.plan_on(backend, "convolve", there, k)(there)
    assert y.dtype == np.float32
    check(y, x, k)
    y = api.plan_on(backend, "convolve", there, [[0.5, 2.0]])(there)
    assert y.dtype == bfloat16, "a list is weak"
    check(y, x, np.array([[0.5, 2.0]]))
    wide = on_device(RNG.standard_normal((2, 9)))
    y = api.plan_on(backend, "convolve", wide, [1.0], dtype=bfloat16)(wide)
    np.testing.assert_array_equal(np.asarray(y), np.asarray(wide).astype(bfloat16))


@emulated
def test_conversion_of_every_value() -> None:
    """Ties, subnormals, overflow, infinity and NaN as ml_dtypes rounds them."""
    patterns = np.arange(0, 1 << 32, 0x4001, dtype=np.uint64).astype(np.uint32)
    edges = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x00008000, 0x7F800000], np.uint32)
    x = np.concatenate([patterns, edges, edges | 0x80000000]).view(np.float32)
    backend = CUDABackend(EmulatedDevice())
    y = api.plan_on(backend, "convolve", on_device(x), [1.0], dtype=bfloat16)(on_device(x))
    with np.errstate(invalid="ignore"):  # NaN
        expected = x.astype(bfloat16).astype("f4")
    np.testing.assert_array_equal(np.asarray(y).astype("f4"), expected)


def test_errors_name_the_way_out() -> None:
    backend = CUDABackend(EmulatedDevice())
    x, k = on_device(halves((4, 5))), halves((2, 2))
    with pytest.raises(ArgumentTypeError, match=r"CUDA devices alone; convert .* to float32"):
        xconv.convolve(np.asarray(x), k)
    with pytest.raises(ArgumentTypeError, match="no common dtype; name one"):
        api.plan_on(backend, "convolve", x, k.astype("f2"))
    with pytest.raises(ArgumentTypeError, match="dtype=int32 would lose"):
        api.plan_on(backend, "convolve", x, k, dtype="int32")
    with pytest.raises(ArgumentError, match="cannot be held"):
        api.plan_on(backend, "convolve", x, k, cval=3.4e38)
    with pytest.raises(MethodRefused, match="no array operations of bfloat16"):
        api.plan_on(backend, "convolve", x, k, method="separable")
