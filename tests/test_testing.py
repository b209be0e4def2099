"""The conformance suite passes on our backends, and fails on deliberately wrong ones."""

from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch

from xconv.backends.array_api import ArrayAPIBackend
from xconv.backends.cpu import CPUBackend
from xconv.methods.direct import Direct
from xconv.methods.fft import FFT
from xconv.methods.separable import Separable
from xconv.testing import EVERY, check_backend

TORCH_DTYPES = ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", *EVERY[-4:])
STRICT_DTYPES = tuple(d for d in EVERY if d != "float16")


def test_cpu() -> None:
    report = check_backend(CPUBackend(), count=400)
    assert set(report.passed) == {"direct", "fft", "separable"}
    assert min(report.passed.values()) > 50


@pytest.mark.parametrize("rows", [(Direct(),), (FFT(),), (Separable(),)])
def test_array_operations_on_numpy(rows: tuple[Any, ...]) -> None:
    """The plain methods are right too where the compiled one would be taken."""

    class Plain(CPUBackend):
        methods = rows

    assert check_backend(Plain(), count=100, in_place=rows[0].name == "direct").passed[rows[0].name]


def test_torch() -> None:
    report = check_backend(
        ArrayAPIBackend(),
        lambda a: torch.asarray(np.ascontiguousarray(a)),
        dtypes=TORCH_DTYPES,
        count=100,
    )
    assert min(report.passed.values()) > 30


def test_array_api_strict() -> None:
    report = check_backend(
        ArrayAPIBackend(), array_api_strict.asarray, dtypes=STRICT_DTYPES, count=100
    )
    assert min(report.passed.values()) > 30


# Negative controls: each wrong backend must be caught, and for its own mistake.


class OffByOne(CPUBackend):
    def assign(self, target: Any, index: Any, values: Any) -> Any:
        return super().assign(target, index, np.roll(values, 1, axis=-1))


class NoFlip(CPUBackend):
    def weights(self, problem: Any, kernel: Any, like: Any) -> Any:
        weights = super().weights(problem, kernel, like)
        return np.flip(weights, tuple(range(3, weights.ndim)))


class SinglePrecision(CPUBackend):
    def weighted_sum(self, terms: Any, dtype: str) -> Any:
        def narrow(a: Any) -> Any:
            name = {"float64": "float32", "complex128": "complex64"}.get(a.dtype.name)
            return a.astype(name or a.dtype)

        terms = list(terms)
        total = super().weighted_sum(((narrow(a), narrow(b)) for a, b in terms), dtype)
        return total.astype(np.result_type(*terms[0]))


class MutatesInput(CPUBackend):
    def accept(self, x: Any) -> Any:
        x = super().accept(x)
        if x.size:
            x.flags.writeable = True
            x.flat[0] = x.flat[0] == 0
        return x


class SwappedLayout(CPUBackend):
    def accept(self, x: Any) -> Any:
        x = super().accept(x)
        if x.ndim > 1 and x.shape[-1] == x.shape[-2]:
            return x.swapaxes(-1, -2)
        return x


class SpreadsNaN(CPUBackend):
    def peak(self, x: Any, axes: Any) -> Any:
        return np.nan_to_num(super().peak(x, axes), nan=1.0, posinf=1.0)


class IgnoresBorder(CPUBackend):
    def full(self, shape: Any, value: Any, dtype: str, like: Any) -> Any:
        return super().full(shape, 0, dtype, like)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (OffByOne, "outputs off"),
        (NoFlip, "outputs off"),
        (SinglePrecision, "outputs off"),
        (MutatesInput, "the input was changed"),
        (SwappedLayout, "outputs off"),
        (SpreadsNaN, "fft: .* outputs off"),
        (IgnoresBorder, "outputs off"),
    ],
)
def test_wrong_backends_are_caught(wrong: type[CPUBackend], complaint: str) -> None:
    class Wrong(wrong):  # type: ignore[misc, valid-type]
        methods = (Direct(), FFT(), Separable())

    with pytest.raises(AssertionError, match=complaint):
        check_backend(Wrong(), count=50)


def test_method_that_never_runs_is_reported() -> None:
    class Refuses(Direct):
        name = "lazy"

        def refuses(self, problem: Any) -> str:
            return "not today"

    class Lazy(CPUBackend):
        methods = (Direct(), Refuses())

    with pytest.raises(AssertionError, match="lazy: refused every case"):
        check_backend(Lazy(), count=0)
