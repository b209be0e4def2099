"""The kernel of a convolution, on the host where it came from there, and on the devices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..layout import correlation_form
from ..problem import Problem
from .device import Device
from .launch import BY_VALUE_BYTES
from .source import sum_dtype

__all__ = ["Weights"]


class Weights:
    """The kernel in correlation form, canonical (G, O, I, spatial...).

    What is made from it is kept per device, so that a plan sends a kernel over once; of what takes
    more than `most` bytes nothing is.
    """

    def __init__(
        self, device: Device, problem: Problem, kernel: Any, most: float = math.inf
    ) -> None:
        weights = correlation_form(problem, kernel)
        if problem.k_dtype != problem.dtype:
            with np.errstate(all="ignore"):
                weights = weights.astype(np.dtype(problem.dtype))
        self._array = weights
        self._total = sum_dtype(problem.dtype)
        self._ready: Any = None
        """When a kernel that is on a device may be read there."""
        if device.owns(kernel):
            with device.active(kernel):
                self._ready = device.mark()
        self._values = b""
        self.by_value = 0
        """How many weights are passed by value: all, or none."""
        if self._ready is None and weights.size * self._total.itemsize <= BY_VALUE_BYTES:
            self._values = weights.astype(self._total, copy=False).tobytes()
            self.by_value = weights.size
        self.again: Callable[[Device, Problem, Weights, Any, Any], bool] | None = None
        """Repeats the last call, if it can, for other arrays."""
        self._most = most
        self._kept: dict[tuple[int, str], tuple[Any, Any]] = {}

    def kept(
        self,
        device: Device,
        name: str,
        make: Callable[[Any], Any],
        dtype: Any,
        on_host: bool = False,
    ) -> Any:
        """What `make` returned for the weights on the current device, as contiguous `dtype`.

        It is made once, and not used before it is ready, on whatever stream.  With `on_host`
        weights that came from the host are not sent over: `make` gets the NumPy array.
        """
        key = (device.number(), name)
        found = self._kept.get(key)
        if found is None:
            array = self._array
            if self._ready is None:
                array = np.ascontiguousarray(array, dtype)
            else:
                device.wait(self._ready)
            made = make(array if on_host else device.xp.asarray(array, dtype=dtype, order="C"))
            found = made, device.mark()
            if _bytes(made) <= self._most:
                self._kept[key] = found
        made, ready = found
        device.wait(ready)
        return made

    def given(self, device: Device) -> int | bytes:
        """What a launch is given: the weights, or their address on the current device.

        They are contiguous there, of the dtype of the sums.
        """
        if self.by_value:
            return self._values
        return device.pointer(self.kept(device, "weights", lambda array: array, self._total))


def _bytes(made: Any) -> int:
    """Of an array, or of arrays in tuples and lists."""
    if isinstance(made, tuple | list):
        return sum(map(_bytes, made))
    return getattr(made, "nbytes", 0)
