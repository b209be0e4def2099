"""Kernels of rank 1 by passes over the user's arrays: layouts, chunks, values out of range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xconv import api, reference
from xconv.backends.cuda import CUDABackend
from xconv.cuda import direct, launch, passes
from xconv.cuda.transforms import SeparablePasses

from .emulator import COMPILER, EmulatedDevice, on_device

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")

RNG = np.random.default_rng(31)


def kernel(*sizes: int, dtype: str = "float32") -> np.ndarray:
    """An outer product."""
    found = np.ones((), dtype)
    for size in sizes:
        found = np.multiply.outer(found, RNG.standard_normal(size).astype(dtype))
    return found


def wrong(device: EmulatedDevice, x: np.ndarray, k: np.ndarray, **keywords: Any) -> str:
    backend = CUDABackend(device)
    backend.methods = (SeparablePasses(),)
    plan = api.plan_on(backend, "convolve", on_device(x), k, **keywords)
    y = np.asarray(plan(on_device(x), k))
    keywords.pop("max_memory", None)
    right = reference.expected(x, k, **keywords)
    return right.disagreement(y, SeparablePasses().rounding(plan.problem))


@pytest.mark.parametrize("part", [1, 3])
@pytest.mark.parametrize(
    ("layout", "shape", "taps", "keywords"),
    [
        ("NHW", (3, 30, 21), (5, 4), {"boundary": "reflect"}),
        ("HWN", (20, 13, 33), (3, 6), {"boundary": "wrap", "mode": "same"}),
        ("HNW", (30, 3, 21), (5, 7), {"mode": "valid", "stride": (2, 3)}),
        ("BNHW", (2, 3, 11, 20), (3, 4), {"dilation": (2, 1)}),
        ("NDHW", (2, 9, 8, 7), (3, 2, 4), {"boundary": "mirror", "mode": "same"}),
        ("DHWN", (9, 8, 7, 17), (2, 3, 3), {}),
        ("HW", (40, 60), (9, 1, 3)[::2], {"boundary": "nearest"}),
    ],
)
def test_layouts(
    layout: str,
    shape: tuple[int, ...],
    taps: tuple[int, ...],
    keywords: dict[str, Any],
    part: int,
) -> None:
    """With all the memory that they take, and with a third of it."""
    x, k = RNG.standard_normal(shape).astype("f4"), kernel(*taps)
    backend = CUDABackend(EmulatedDevice())
    backend.methods = (SeparablePasses(),)
    plan = api.plan_on(backend, "convolve", on_device(x), k, layout=layout, **keywords)
    limit = plan._choice()[0].work.scratch // part
    device = EmulatedDevice()
    assert not wrong(device, x, k, layout=layout, max_memory=limit, **keywords)
    assert device.launches[-2:] == ["scan", "any"]
    assert set(device.launches[:-2]) == {"tiled"}
    assert part <= len(device.launches[:-2]) / len(taps) <= 2 * part - 1


@pytest.mark.parametrize("dtype", ["float64", "complex64", "complex128"])
def test_other_dtypes(dtype: str) -> None:
    device = EmulatedDevice()
    x = RNG.standard_normal((2, 20, 30)).astype(dtype)
    x = x + 1j * x[::-1] if dtype.startswith("c") else x
    k = kernel(3, 5, dtype=dtype)
    assert not wrong(device, x.astype(dtype), k * (1 - 2j) if dtype.startswith("c") else k)
    assert device.launches == ["tiled", "tiled", "scan", "any"]


def test_groups_have_their_own_taps() -> None:
    device = EmulatedDevice()
    k = np.stack([kernel(3, 5), kernel(3, 5)], axis=-1)
    x = RNG.standard_normal((3, 12, 11, 2)).astype("f4")
    assert not wrong(device, x, k, layout="NHWC", kernel_layout="HWC")
    assert device.launches == ["tiled", "tiled", "scan", "any"]


@pytest.mark.parametrize(("layout", "shape"), [("CNHW", (6, 2, 30, 20)), ("CHW", (6, 30, 20))])
def test_chunks_of_groups(layout: str, shape: tuple[int, ...]) -> None:
    k = np.stack([kernel(3, 5) for _ in range(6)])
    x = RNG.standard_normal(shape).astype("f4")
    device = EmulatedDevice()
    assert not wrong(device, x, k, layout=layout, kernel_layout="CHW", max_memory=6000)
    assert device.launches.count("tiled") > 2
    assert device.launches[-1] == "any"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_values_that_spread(value: float) -> None:
    """Outputs that the definition keeps finite are, although a pass made them NaN or infinite."""
    x = RNG.standard_normal((2, 40, 30)).astype("f4")
    x[1, 7, 9] = value
    k = kernel(5, 4)
    k[:, 2] = 0  # an infinity times 0 is NaN
    for boundary in ("constant", "wrap"):
        assert not wrong(EmulatedDevice(), x, k, boundary=boundary)


def near_overflow() -> np.ndarray:
    """Sums that are finite in the kernel's order, but not in the order of the passes."""
    x, k = np.full((30, 40, 70), 3e38, "f4"), np.array([[1, -1], [1, -1]], "f4")
    x[:7] = x[8:] = 1
    backend = CUDABackend(EmulatedDevice())
    backend.methods = (SeparablePasses(),)
    return np.asarray(api.plan_on(backend, "convolve", on_device(x), k, mode="valid")(on_device(x)))


def test_what_is_finite_directly_is_finite() -> None:
    np.testing.assert_array_equal(near_overflow(), 0)


def test_result_with_gaps_is_written_by_blocks() -> None:
    backend = CUDABackend(EmulatedDevice())
    backend.methods = (SeparablePasses(),)
    x, k = RNG.standard_normal((2, 12, 11)).astype("f4"), kernel(3, 3)
    out = on_device(np.zeros((2, 14, 26), "f4"))[..., ::2]
    api.plan_on(backend, "convolve", on_device(x), k)(on_device(x), out=out)
    right = reference.expected(x, k)
    assert not right.disagreement(np.asarray(out), right.direct + 60)
    assert "scan" not in backend.device.launches


def test_scratch_is_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x, k = RNG.standard_normal((5, 64, 50)).astype("f4"), kernel(7, 7)
    for limit in (3000, 30_000, 1 << 20):
        device = EmulatedDevice()
        backend = CUDABackend(device)
        backend.methods = (SeparablePasses(),)
        plan = api.plan_on(backend, "convolve", on_device(x), k, max_memory=limit)
        said = plan._choice()[0].work.scratch
        run = passes.passes(
            device, plan.problem, plan.limits, 0, x.strides, on_device(plan(on_device(x))).strides
        )
        assert run is not None
        assert sum(run.parts) * 4 <= said <= limit


@pytest.mark.parametrize(
    ("kernel_name", "text", "instead"),
    [
        ("scan", "if (!good) *call.flag = 1;", ""),
        ("any", "MEND ? is_finite(*y)", "MEND ? true"),
        ("scan", "first < call.count; first += step", "first < 1; first += step"),
    ],
)
def test_broken_kernels_are_found(
    monkeypatch: pytest.MonkeyPatch, kernel_name: str, text: str, instead: str
) -> None:
    intact = launch.kernel_source

    def broken(name: str, *rest: Any) -> str:
        source = intact(name, *rest)
        if name == kernel_name:
            assert source.count(text) == 1
            source = source.replace(text, instead)
        return source

    monkeypatch.setattr(launch, "kernel_source", broken)
    monkeypatch.setattr(passes, "kernel_source", broken)
    assert not np.isfinite(near_overflow()).all()


def test_kernels_are_compiled_for_large_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "WORTH_COMPILING", 0)
    device = EmulatedDevice(specialise=True)
    x = RNG.standard_normal((20, 30, 40)).astype("f4")
    for layout in ("NHW", "HWN"):
        assert not wrong(device, x, kernel(5, 6), layout=layout, boundary="reflect", mode="same")
    assert direct.WORTH_COMPILING > 0
