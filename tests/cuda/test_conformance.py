"""The conformance suite over the CUDA backend and its kernels, on the emulated device."""

from __future__ import annotations

from typing import Any

import pytest

from xconv.backends.cuda import CUDABackend
from xconv.cuda.direct import AnyDirect, TiledDirect
from xconv.cuda.layers import LayerDirect
from xconv.testing import check_backend

from .emulator import COMPILER, EmulatedDevice, on_device

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")


def backend_with(*methods: Any) -> CUDABackend:
    backend = CUDABackend(EmulatedDevice())
    backend.methods = methods
    return backend


def test_general_kernel_with_every_dtype() -> None:
    backend = backend_with(AnyDirect())
    report = check_backend(backend, on_device, count=20)
    assert set(backend.device.launches) == {"any"}
    assert report.passed["direct"] >= len(backend.device.launches) - 14  # those of out=x
    assert not report.refused


def test_tiled_kernel() -> None:
    backend = backend_with(TiledDirect())
    report = check_backend(backend, on_device, dtypes=("float32",), count=40)
    assert set(backend.device.launches) == {"tiled"}
    assert not report.refused


def test_layers_with_every_dtype() -> None:
    backend = backend_with(LayerDirect())
    report = check_backend(backend, on_device, count=60, in_place=False)
    assert set(backend.device.launches) == {"layer"}
    assert report.passed["direct"] > 60
    assert all("few outputs" in reason for reason in report.refused["direct"])


def test_fft_separable_and_array_operations() -> None:
    backend = backend_with(*CUDABackend.methods[3:])
    report = check_backend(backend, on_device, dtypes=("float32",), count=20)
    assert report.passed["fft"] > 100
    assert report.passed["separable"] > 30
    assert set(report.refused) == {"separable", "fft"}
    assert all("up to 3 axes" in reason for reason in report.refused["fft"])


def test_a_backend_that_reads_a_kernel_backwards_fails() -> None:
    class Backwards(AnyDirect):
        def launch(self, device: Any, problem: Any, weights: Any, x: Any, y: Any) -> None:
            weights._array, weights.by_value = weights._array[..., ::-1], 0
            super().launch(device, problem, weights, x, y)

    with pytest.raises(AssertionError, match="outputs off"):
        check_backend(backend_with(Backwards()), on_device, dtypes=("float32",), count=0)
