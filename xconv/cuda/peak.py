"""What a device can do at most: multiply-adds in registers, and copies from memory to memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .device import Device
from .geometry import record
from .source import kernel_source

__all__ = ["bandwidth", "flops", "keep_busy", "multiply_adds", "source"]

CHAINS, STEPS, THREADS = 8, 32, 256
BLOCKS = 96
"""Of each processor: full rounds of them, be it 4, 6 or 8 that run at the same time."""
ROUNDS = 80
"""About 2 ms of float32 on a card of 2023, far more than a launch takes."""
COPIES = 4
"""In turn, for the same reason."""
TIMES = 12


def source(dtype: str) -> str:
    return kernel_source("peak", dtype, dtype, {"CHAINS": CHAINS, "STEPS": STEPS, "FILTER": 0})


def multiply_adds(
    device: Device, dtype: str, rounds: int = ROUNDS
) -> tuple[Callable[[], None], Any, float]:
    """A call that does nothing but multiply-adds, the array of its totals, and its operations.

    Each of the threads has `CHAINS` sums, which begin at its number in the block plus 0, 1, ...
    and become s / 2 + 1 `rounds * STEPS` times.
    """
    blocks = BLOCKS * device.processors()
    y = device.empty(blocks * THREADS, np.dtype(dtype))
    kernel = device.kernel("peak", source(dtype))
    value = np.dtype(dtype)
    struct = record(
        [("y", np.uint64, 0), ("factor", value, 0), ("addend", value, 0), ("rounds", np.int32, 0)]
    )

    def call() -> None:  # which keeps `y` in being
        argument = np.array((device.pointer(y), 0.5, 1.0, rounds), struct).tobytes()
        kernel(blocks, (THREADS, 1), 0, argument)

    return call, y, 2.0 * CHAINS * STEPS * rounds * y.size


def flops(device: Device, dtype: str) -> float:
    """Floating-point operations per second, the highest of some short runs."""
    call, _, operations = multiply_adds(device, dtype)
    return operations / min(device.seconds(call) for _ in range(TIMES))


def keep_busy(device: Device, seconds: float) -> None:
    """Order about so many seconds of multiply-adds; the host does not wait for them."""
    call, _, _ = multiply_adds(device, "float32")
    for _ in range(int(seconds / device.seconds(call))):
        call()


def bandwidth(device: Device, nbytes: int = 1 << 30) -> float:
    """Bytes read and written per second by copies of so many bytes, far more than caches hold."""
    x = device.xp.ones(nbytes // 8, dtype=np.dtype(np.float64))
    y = device.xp.empty_like(x)

    def copies() -> None:
        for _ in range(COPIES):
            y[...] = x

    return 2.0 * COPIES * nbytes / min(device.seconds(copies) for _ in range(TIMES))
