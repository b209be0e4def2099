"""The kernel that measures a card's peak does all the multiply-adds that it is taken for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xconv.bench import gpu, machine
from xconv.cuda import peak

from .emulator import COMPILER, EmulatedDevice

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_multiply_add_is_done(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(peak, "BLOCKS", 1)
    monkeypatch.setattr(peak, "STEPS", 3)
    device = EmulatedDevice()
    call, y, operations = peak.multiply_adds(device, dtype, rounds=2)
    call()
    start = np.arange(peak.THREADS)[:, None] + np.arange(peak.CHAINS)
    expected = (2 + (start - 2) / 2**6).sum(axis=1)
    np.testing.assert_allclose(np.asarray(y).reshape(-1, peak.THREADS), 4 * [expected], rtol=1e-6)
    assert operations == 2 * 6 * start.size * device.processors()


def test_limits_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "BLOCKS", 1)
    monkeypatch.setattr(peak, "ROUNDS", 1)
    device = EmulatedDevice()
    assert peak.flops(device, "float32") > 0
    assert device.launches == peak.TIMES * ["peak"]
    assert peak.bandwidth(device, nbytes=1 << 20) > 0


def test_the_record_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks are read while multiply-adds are under way."""
    monkeypatch.setattr(peak, "BLOCKS", 1)
    monkeypatch.setattr(peak, "ROUNDS", 1)
    monkeypatch.setattr(peak, "bandwidth", lambda device: 4e12)
    device = EmulatedDevice()

    def seconds(run: Callable[[], Any]) -> float:
        run()
        return 0.125

    def card() -> dict[str, str]:
        launched.append(len(device.launches))
        return {"name": "made-up"}

    launched: list[int] = []
    monkeypatch.setattr(device, "seconds", seconds)
    monkeypatch.setattr(machine, "gpu", card)
    record = gpu.roofline(device)
    assert launched == [2 * peak.TIMES + 1 + 4]  # half a second of them
    assert record["flops"] == {
        dtype: peak.multiply_adds(device, dtype)[2] / 0.125 for dtype in ("float32", "float64")
    }
    assert record["copy"] == 4e12
    assert record["card"] == {"name": "made-up"}
    assert record["device 0"] == "emulated, sm_00"
