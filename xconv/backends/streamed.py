"""NumPy arrays that a CUDA device computes, however much larger than its memory they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cuda.streaming import Streamed
from ..cuda.weights import Weights
from ..methods.base import Limits
from ..problem import Problem
from .cpu import CPUBackend

if TYPE_CHECKING:
    from .cuda import CUDABackend

__all__ = ["StreamedBackend"]


class StreamedBackend(CPUBackend):
    """What `backend="cuda"` means for NumPy arrays: NumPy in and out, each row streamed."""

    name = "cuda"
    bfloat16 = True

    def __init__(self, card: CUDABackend) -> None:
        self.card = card
        self.methods = tuple(Streamed(card, row) for row in card.methods)  # type: ignore[misc]
        self.block_bytes = card.block_bytes

    @property
    def rates(self) -> Mapping[str, float]:  # type: ignore[override]
        return self.card.rates

    def workers(self) -> int:
        return 1

    def accept_kernel(self, k: Any, x: Any) -> Any:
        return self.card.accept_kernel(k, x)

    def to_numpy(self, x: Any) -> np.ndarray:
        return self.card.to_numpy(x)

    def bound(self, problem: Problem, kernel: Any, like: Any) -> Weights:
        return self.card.bound(problem, kernel, like)

    def bound_once(self, problem: Problem, kernel: Any, like: Any) -> Weights:
        return self.card.bound_once(problem, kernel, like)

    def kernel_sums(self, problem: Problem, x: Any, gy: Any, limits: Limits) -> Any:
        """None: the device computes what the CPU has a way of its own for."""
        return None

    def input_sums(self, *arguments: Any) -> bool:
        """False, for the same reason."""
        return False
