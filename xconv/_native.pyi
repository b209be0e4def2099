"""Types of the compiled module; direct.h says what it computes."""

from collections.abc import Sequence
from typing import Any, TypedDict

from numpy.typing import NDArray

class KernelRow(TypedDict):
    name: str
    op: str
    dtype: str
    rows: int
    vectors: int
    isa: str

def isa() -> str: ...
def isas() -> list[str]: ...
def kernels() -> list[KernelRow]: ...
def cpu_count() -> int: ...
def fma_peak(dtype: str, seconds: float) -> float: ...
def position_lanes(dtype: str, groups: int, outputs: int) -> int: ...
def position_sums(
    x: NDArray[Any],
    gy: NDArray[Any],
    total: NDArray[Any],
    x_dtype: str,
    dtype: str,
    taps: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pad_lo: Sequence[int],
    boundary: int,
    cval: complex | float,
    block: Sequence[int],
    shares: int,
    workers: int,
    max_memory: int,
) -> None: ...
def vector_bytes() -> int: ...
def window_sums(
    gx: NDArray[Any],
    gy: NDArray[Any],
    weights: NDArray[Any],
    dtype: str,
    taps: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pad_lo: Sequence[int],
    workers: int,
    max_memory: int,
) -> None: ...

class Direct:
    def __init__(
        self,
        x_dtype: str,
        dtype: str,
        x_axes: Sequence[tuple[int, int, int]],
        y_axes: Sequence[tuple[int, int, int]],
        nspatial: int,
        kernel_shape: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        pad_lo: Sequence[int],
        boundary: int,
        cval: complex | float | int,
        kernel_is_real: bool = False,
    ) -> None: ...
    def run(
        self,
        x: NDArray[Any],
        k: NDArray[Any] | None,
        out: NDArray[Any],
        workers: int,
        max_memory: int,
        turned: NDArray[Any] | None = None,
    ) -> None: ...
    def turned_elements(self) -> int: ...
    def turn(self, k: NDArray[Any], turned: NDArray[Any]) -> None: ...
    def scratch(self, workers: int) -> int: ...
    def least(self, workers: int = 1) -> int: ...

class Passes:
    def __init__(
        self,
        x_dtype: str,
        dtype: str,
        x_shape: Sequence[int],
        y_shape: Sequence[int],
        taps: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        pad_lo: Sequence[int],
        boundary: int,
    ) -> None: ...
    def run(
        self,
        x: NDArray[Any],
        vectors: Sequence[NDArray[Any]],
        k: NDArray[Any],
        magnitude: float,
        out: NDArray[Any],
        block: Sequence[int],
        workers: int,
        max_memory: int,
    ) -> None: ...
    def bytes(self, block: Sequence[int]) -> int: ...
    def least(self) -> int: ...
