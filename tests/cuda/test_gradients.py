"""Gradients and transposed convolution where the arrays are the device's, or sent through it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xconv
from xconv import reference, registry
from xconv.backends.cuda import CUDABackend
from xconv.testing import cases

from ..test_gradients import like, rounding
from .emulator import COMPILER, DeviceArray, EmulatedDevice, on_device

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> CUDABackend:
    """The backend of the emulated device, asked before NumPy's, which would take its arrays."""
    backend = CUDABackend(EmulatedDevice())
    known = {"cuda": backend, **{n: b for n, b in registry.backends().items() if n != "cuda"}}
    monkeypatch.setattr(registry, "backends", lambda: known)
    return backend


@pytest.mark.parametrize("place", ["device", "kernel on the host", "streamed"])
def test_adjoint_identity(card: CUDABackend, place: str) -> None:
    """<gy, A x> = <A^H gy, x> and = <B^H gy, k>, over every role, mode and boundary."""
    there = np.asarray if place == "streamed" else on_device
    kernel_there = on_device if place == "device" else np.asarray
    more = {"backend": "cuda"} if place == "streamed" else {}
    checked = 0
    for case in cases(("float64", "complex128"), 40, seed=3):
        options = {name: v for name, v in case.keywords.items() if name != "cval"}
        y = getattr(reference, case.op)(case.x, case.k, **options)
        gy = like(y)
        k = kernel_there(case.k)
        gx, gk = xconv.gradients(there(case.x), k, there(gy), case.op, **options, **more)
        assert type(gx) is (np.ndarray if place == "streamed" else DeviceArray)
        wanted, allowed = np.vdot(gy, y).real, rounding(case, y, gy, case.x, case.k)
        for gradient, operand in ((gx, case.x), (gk, case.k)):
            gradient = card.to_numpy(gradient)
            assert (gradient.shape, gradient.dtype) == (operand.shape, operand.dtype)
            assert abs(np.vdot(gradient, operand).real - wanted) <= allowed, str(case)
        checked += 1
    assert checked > 80
    assert len(card.device.launches) > 2 * checked


def test_transposed(card: CUDABackend) -> None:
    """The matrix of the map, column by column, is the transpose of the forward map's."""
    k: Any = np.random.default_rng(2).integers(-4, 5, (3, 2)).astype(float)
    shape, options = (4, 5), {"mode": "full", "stride": 2}
    columns = np.eye(20).reshape(20, *shape)
    forward = np.stack([reference.convolve(x, k, **options).ravel() for x in columns])
    rows = np.eye(forward.shape[1]).reshape(-1, 3, 3)
    back = [xconv.transpose_convolve(on_device(y), k, shape, **options).ravel() for y in rows]
    np.testing.assert_array_equal(np.stack(back), forward.T)
