"""Plans of transforms: made once per shape, kept while there is room, safe on any stream."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["CuFFT", "Plans", "Transform"]


class Transform(Protocol):
    """A batch of transforms in place."""

    nbytes: int
    """Of its work area, which stays as long as the plan."""

    def __call__(self, planes: Any) -> None:
        """Transform a flat array of planes, on the current stream.

        Rows of real planes have room for their spectrum: 2 * (n // 2 + 1) elements.  The inverse is
        not divided by the number of points.
        """


class Plans:
    """The plans of a process, the one used last at the end."""

    _MOST = 64
    """cuFFT takes some memory of its own for each, which it does not tell."""

    def __init__(self, make: Callable[..., Transform]) -> None:
        self._make = make
        self._kept: dict[Any, Transform] = {}
        self._lock = threading.Lock()

    def get(self, *key: Any) -> Transform:
        """The plan that was made for this key, which `make` gets."""
        with self._lock:
            found = self._kept.pop(key, None) or self._make(*key)
            self._kept[key] = found
            return found

    def trim(self, most: int) -> None:
        """Forget those used least recently while all work areas take more bytes."""
        with self._lock:
            while len(self._kept) > self._MOST or self.nbytes > most:
                del self._kept[next(iter(self._kept))]

    @property
    def nbytes(self) -> int:
        return sum(plan.nbytes for plan in self._kept.values())

    def __iter__(self) -> Any:
        return iter(list(self._kept))

    def __len__(self) -> int:
        return len(self._kept)


class CuFFT:
    """A Transform by cuFFT, through CuPy, on the device that is current when it is made."""

    def __init__(
        self, device: Any, lengths: tuple[int, ...], planes: int, dtype: str, inverse: bool
    ) -> None:
        from cupy.cuda import cufft

        pitch = 2 * (lengths[-1] // 2 + 1)
        real, half = (*lengths[:-1], pitch), (*lengths[:-1], pitch // 2)
        source, target, kind = {
            ("float32", False): (real, half, cufft.CUFFT_R2C),
            ("float32", True): (half, real, cufft.CUFFT_C2R),
            ("float64", False): (real, half, cufft.CUFFT_D2Z),
            ("float64", True): (half, real, cufft.CUFFT_Z2D),
        }.get((dtype, inverse)) or (
            lengths,
            lengths,
            cufft.CUFFT_C2C if dtype == "complex64" else cufft.CUFFT_Z2Z,
        )
        self._plan = cufft.PlanNd(
            lengths, source, 1, math.prod(source), target, 1, math.prod(target),
            kind, planes, "C", len(lengths) - 1, None,
        )  # fmt: skip
        self._direction = cufft.CUFFT_INVERSE if inverse else cufft.CUFFT_FORWARD
        self._device = device
        self._lock = threading.Lock()
        self._used: Any = None
        area = self._plan.work_area
        self.nbytes = int(area.mem.size) if area is not None else 0

    def __call__(self, planes: Any) -> None:
        with self._lock:  # the plan holds the stream on which it runs
            if self._used is not None:
                self._device.wait(self._used)
            self._plan.fft(planes, planes, self._direction)
            if self.nbytes:
                self._used = self._device.mark()
