"""The transform's kernels by themselves: layouts, tiles, values that spoil a transform, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xconv import api, reference
from xconv.backends.cuda import CUDABackend
from xconv.cuda import blocks, fourier, planes
from xconv.cuda.transforms import CuFFT
from xconv.errors import MemoryLimitError

from .emulator import COMPILER, EmulatedDevice, EmulatedTransform, on_device

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")

RNG = np.random.default_rng(23)
KERNELS = ["gather", "multiply", "scatter"]


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    drawn = RNG.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        drawn = drawn + 1j * RNG.standard_normal(shape)
    return drawn.astype(dtype)


def only(monkeypatch: pytest.MonkeyPatch, summed: bool) -> None:
    """From now on only rows are transformed (`summed`), where that can be, or only all axes."""
    candidates = planes._candidates

    def those(shape: planes.Shape) -> Any:
        return (
            tiles for tiles in candidates(shape) if tiles.summed == (summed and shape.may_sum())
        )

    monkeypatch.setattr(planes, "_candidates", those)
    for name in ("choose", "work"):
        monkeypatch.setattr(planes, name, getattr(planes, name).__wrapped__)
    monkeypatch.setattr(fourier, "choose", planes.choose)


def backend_on(device: EmulatedDevice) -> CUDABackend:
    backend = CUDABackend(device)
    backend.methods = (CuFFT(),)
    return backend


def wrong(device: EmulatedDevice, x: np.ndarray, k: np.ndarray, **keywords: Any) -> str:
    """What is wrong with the device's answer, or nothing."""
    there = on_device(x)
    plan = api.plan_on(backend_on(device), "convolve", there, k, **keywords)
    y = np.asarray(plan(there, k))
    keywords.pop("max_memory", None)
    right = reference.expected(x, k, **keywords)
    return right.disagreement(y, CuFFT().rounding(plan.problem))


CASES: list[tuple[str, str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("NHW", "HW", (3, 37, 41), (5, 3), {"boundary": "reflect"}),
    ("NHW", "HW", (3, 37, 41), (5, 3), {"cval": 2.5}),
    ("HWN", "HW", (19, 23, 50), (3, 4), {"boundary": "wrap", "mode": "same"}),
    ("HWN", "WH", (70, 23, 9), (4, 9), {"mode": "valid", "stride": (3, 2)}),
    ("NHWC", "HWC", (2, 9, 11, 40), (3, 3, 40), {"boundary": "mirror"}),
    ("NHWC", "HWIO", (2, 9, 8, 9), (3, 2, 9, 10), {}),
    ("HWN", "HWO", (9, 8, 12), (3, 2, 9), {}),
    ("NCHW", "OIHW", (3, 6, 9, 8), (4, 3, 3, 2), {"groups": 2}),
    ("NHW", "OHW", (2, 20, 21), (6, 3, 3), {"stride": 2, "dilation": (2, 1)}),
    ("NDHW", "DHW", (2, 5, 9, 10), (2, 3, 3), {"boundary": "nearest", "mode": "same"}),
    ("NL", "L", (9, 1300), (13,), {"dilation": 2}),
    ("LN", "L", (60, 33), (7,), {"stride": 3, "mode": "valid"}),
    ("L", "L", (3000,), (9,), {"boundary": "wrap", "mode": "same"}),
]


@pytest.mark.parametrize(("layout", "kernel_layout", "shape", "kernel", "keywords"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("summed", [False, True], ids=["all axes", "rows"])
def test_layouts(
    monkeypatch: pytest.MonkeyPatch,
    layout: str, kernel_layout: str, shape: Any, kernel: Any, keywords: Any, dtype: str,
    summed: bool,
) -> None:  # fmt: skip
    only(monkeypatch, summed)
    device = EmulatedDevice()
    x, k = values(shape, dtype), values(kernel, dtype)
    assert not wrong(device, x, k, layout=layout, kernel_layout=kernel_layout, **keywords)
    product = "rows" if "rows" in device.launches else "multiply"
    assert summed or product == "multiply"
    assert device.launches == ["spread", "gather", product, "scatter", "repair"], "one block"


@pytest.mark.parametrize("taps", [1, 11, 12, 13, 25, 32])
@pytest.mark.parametrize(("layout", "dtype"), [("NHW", "float32"), ("HWN", "float64")])
def test_taps_down_the_rows(
    monkeypatch: pytest.MonkeyPatch, taps: int, layout: str, dtype: str
) -> None:
    """In one piece and in chunks; several tiles above each other, the last one cut off."""
    only(monkeypatch, summed=True)
    device = EmulatedDevice()
    shape = tuple({"N": 9, "H": 200, "W": 70}[letter] for letter in layout)
    x, k = values(shape, dtype), values((taps, 5), dtype)
    x.flat[[5, x.size // 2]] = np.nan, 3e38
    assert not wrong(device, x, k, layout=layout, boundary="mirror", mode="same", stride=(1, 2))
    assert device.launches == ["spread", "gather", "rows", "scatter", "repair"], "one block"


def test_only_kernels_of_few_rows_are_summed() -> None:
    backend = backend_on(EmulatedDevice())

    def note(taps: int, **keywords: Any) -> str:
        x, k = api.Spec((50, 1000, 1000), "f4"), api.Spec((taps, 11), "f4")
        return str(api.plan_on(backend, "convolve", x, k, **keywords)._choice()[0].work.note)

    assert note(11).endswith("rows transformed")
    for other in (note(33), note(11, stride=(2, 1)), note(11, dilation=(2, 1))):
        assert not other.endswith("rows transformed")


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64"])
@pytest.mark.parametrize("case", [0, 2, 5])
def test_other_dtypes(dtype: str, case: int) -> None:
    layout, kernel_layout, shape, kernel, keywords = CASES[case]
    x, k = values(shape, dtype), values(kernel, dtype)
    keywords = dict(keywords, layout=layout, kernel_layout=kernel_layout)
    assert not wrong(EmulatedDevice(), x, k, **keywords)


def test_images_of_integers() -> None:
    x = RNG.integers(0, 256, (3, 20, 30)).astype("u1")
    assert not wrong(EmulatedDevice(), x, values((3, 5), "float32"), boundary="reflect")


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_neighbours_in_memory_along_another_axis(order: tuple[int, ...]) -> None:
    x = np.ascontiguousarray(values((3, 20, 40), "float32").transpose(order))
    x = x.transpose(np.argsort(order))
    k = values((3, 5), "float32")
    assert not wrong(EmulatedDevice(), x, k, boundary="reflect", mode="same")
    assert not wrong(EmulatedDevice(), x[::-1, ::2, ::-1], k, boundary="reflect", mode="same")


@pytest.mark.parametrize("layout", ["NHW", "HWN"])
def test_many_tiles_in_many_blocks(layout: str) -> None:
    shape = tuple({"N": 11, "H": 60, "W": 70}[letter] for letter in layout)
    x, k = values(shape, "float32"), values((5, 4), "float32")
    device = EmulatedDevice()
    limit = 9_000
    assert not wrong(device, x, k, layout=layout, boundary="wrap", max_memory=limit)
    of_blocks = [name for name in device.launches if name in KERNELS]
    assert len(of_blocks) > 3 * 11, "an image takes several tiles"
    assert of_blocks == KERNELS * (len(of_blocks) // 3)
    assert device.launches[-1] == "repair"
    assert device.launches.count("repair") < len(of_blocks) // 3


SPOILT = [np.nan, np.inf, -3e38, 1e36]


@pytest.mark.parametrize("value", SPOILT)
@pytest.mark.parametrize(("layout", "max_memory"), [("NHW", None), ("NHW", 9_000), ("HWN", 20_000)])
def test_values_that_spoil_a_transform(value: float, layout: str, max_memory: int | None) -> None:
    """They change nothing but the outputs that the definition lets them change."""
    shape = tuple({"N": 12, "H": 40, "W": 30}[letter] for letter in layout)
    x, k = values(shape, "float32"), values((5, 4), "float32")
    x.flat[[7, x.size // 2]] = value
    keywords = {"max_memory": max_memory} if max_memory else {}
    assert not wrong(EmulatedDevice(), x, k, layout=layout, boundary="mirror", **keywords)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_images_near_the_ends_of_the_range(dtype: str) -> None:
    info = np.finfo(dtype)
    x, k = values((6, 12, 15), dtype), values((3, 3), dtype)
    x[0] *= info.smallest_normal * 4
    x[1] = 0
    x[2] *= info.max / 100
    x[3] *= info.smallest_subnormal * 1e3
    x[4] = info.smallest_subnormal
    assert not wrong(EmulatedDevice(), x, k)


@pytest.mark.parametrize("limit", [1 << 20, 2_500])
def test_what_is_safe_is_transformed(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """A kernel that is wrong in its taps alone shows which images were summed directly."""
    only(monkeypatch, summed=False)
    x, k = values((6, 12, 15), "float32"), values((3, 3), "float32")
    x[1, 5, 5] = np.inf
    spectrum = fourier._spectrum

    def twice(*given: Any) -> Any:
        taps, spectra = spectrum(*given)
        return (np.frombuffer(taps, "f4") * 2).tobytes(), spectra

    monkeypatch.setattr(fourier, "_spectrum", twice)
    device = EmulatedDevice()
    plan = api.plan_on(backend_on(device), "convolve", on_device(x), k, max_memory=limit)
    y = plan(on_device(x))
    assert device.launches.count("gather") == (1 if limit > 1 << 16 else 3)
    right = reference.expected(x, k).values
    ratio = (np.asarray(y)[np.isfinite(right)] / right[np.isfinite(right)]).astype("f8")
    image = np.broadcast_to(np.arange(6)[:, None, None], right.shape)[np.isfinite(right)]
    assert np.median(ratio[image != 1]) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(ratio[image == 1], 2, rtol=1e-3)


def test_peaks_that_are_safe() -> None:
    for dtype, magnitude, points in [("float32", 3.0, 1000), ("float64", 1e-9, 50)]:
        low, high = fourier.safe_peaks(dtype, points, magnitude)
        upper = np.uint32 if dtype == "float32" else np.uint64
        shift = upper(0 if dtype == "float32" else 32)
        ends = [(np.array([p], upper) << shift).view(dtype).astype(float)[0] for p in (low, high)]
        info = np.finfo(dtype)
        assert ends[0] * min(magnitude, 1) >= float(info.smallest_normal / info.eps)
        assert ends[1] * max(magnitude, 1) * points * 8 <= float(info.max)
        assert 0 < low < high


@pytest.mark.parametrize("order", [0, 1, 2])
def test_answers_do_not_depend_on_the_order_of_threads(order: int) -> None:
    x, k = values((20, 18, 40), "float32"), values((5, 5), "float32")
    for layout in ("NHW", "HWN"):
        first, other = (
            np.asarray(
                api.plan_on(backend_on(EmulatedDevice(order=n)), "convolve", on_device(x), k,
                            layout=layout)(on_device(x), k)
            )
            for n in (0, order)
        )  # fmt: skip
        assert first.tobytes() == other.tobytes()


def test_a_call_takes_a_plan_of_each_transform_and_what_it_counted() -> None:
    """The work areas are no more than assumed, and those of the next call are the same ones."""
    x, k = on_device(values((9, 50, 60), "float32")), values((7, 7), "float32")
    device = EmulatedDevice()
    plan = api.plan_on(backend_on(device), "convolve", x, k)
    plan(x)
    made = list(device.plans)
    assert len(made) == 3, "one for the kernel, one for each direction"
    plan(x)
    assert set(device.plans) == set(made)
    work = plan._choice()[0].work
    scratch = 9 * 56 * (66 + 2) * 4
    assert scratch < work.scratch < 1.5 * scratch
    assert work.kept == 56 * 68 * 4 or work.kept <= work.scratch


def test_work_areas_beyond_what_was_assumed_make_blocks_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EmulatedTransform, "PLAIN", 0)
    x, k = values((16, 20, 21), "float32"), values((3, 3), "float32")
    device = EmulatedDevice()
    limit = 30_000
    assert not wrong(device, x, k, max_memory=limit)
    assert device.plans.nbytes <= limit
    assert len(device.launches) > 6
    with pytest.raises(MemoryLimitError, match="work areas; raise max_memory"):
        wrong(EmulatedDevice(), x[:1, :4, :4], k, max_memory=500)


def test_a_transform_of_a_padded_image_is_no_longer_than_image_and_kernel() -> None:
    """What lies beyond one edge may be what lies beyond the other, where both are constant."""
    x, k = api.Spec((1000, 1000), "float32"), api.Spec((255, 255), "float32")
    backend = backend_on(EmulatedDevice())

    def note(**keywords: Any) -> str:
        return str(api.plan_on(backend, "convolve", x, k, **keywords)._choice()[0].work.note)

    assert note(mode="valid") == "tiles of 1024x1024", "a power of two is worth 24 more"
    assert note(mode="same") == "tiles of 1134x1134"
    assert note(mode="full") == "tiles of 1260x1260"
    assert note(mode="same", boundary="reflect") == "tiles of 1260x1260"


def test_good_sizes() -> None:
    for least in range(1, 400):
        for even in (False, True):
            size = planes.good_size(least, even)
            rest = size
            for prime in (2, 3, 5, 7):
                while rest % prime == 0:
                    rest //= prime
            assert rest == 1
            assert least <= size <= 2 * least
            assert not even or size % 2 == 0


BROKEN: list[tuple[str, str, str, str, str]] = [
    (
        "gather",
        "HWN",
        "__syncthreads();\n    if (y == 0 && mine < planes",
        "if (y == 0 && mine < planes",
        "no barrier",
    ),
    (
        "gather",
        "NHW",
        "- axis.low + c);\n        if",
        "- axis.low + c + 1);\n        if",
        "halo off by one",
    ),
    ("gather", "NHW", "if (peak) atomicMax(&peaks[plane.tile - first], peak)", "", "no peaks"),
    (
        "gather",
        "HWN",
        "atomicMax(&peaks[x], peak)",
        "atomicMax(&peaks[0], peak)",
        "peaks of another image",
    ),
    (
        "multiply",
        "NHW",
        "mad(x[t], k, sum[t][o])",
        "mad(k, Sum{x[t].re, -x[t].im}, sum[t][o])",
        "a correlation",
    ),
    ("rows", "NHW", "(call.taps - 1 - first - t)", "(first + t)", "rows of taps turned around"),
    ("rows", "NHW", "(top + call.taps - 1)", "top", "sums in the place of the first row"),
    ("rows", "NHW", "(outputs - 1) / ROWS * ROWS", "outputs / ROWS * ROWS - ROWS", "rows left out"),
    ("spread", "NHW", "(call.count[a] - 1 - t)", "t", "taps not turned around"),
    ("scatter", "HWN", "__syncthreads();", "", "no barrier before storing"),
    ("scatter", "NHW", "at < call.length[a] ? at : at - call.length[a]", "at", "not wrapped"),
    (
        "scatter",
        "NHW",
        "left < most ? static_cast<int>(left) : most",
        "most",
        "store past the edge",
    ),
    ("repair", "NHW", "peak <= call.high", "peak <= 0xffffffff", "NaN is transformed"),
]


@pytest.mark.parametrize(
    ("kernel", "layout", "text", "instead", "what"), BROKEN, ids=[b[4] for b in BROKEN]
)
def test_broken_kernels_are_found(
    monkeypatch: pytest.MonkeyPatch, kernel: str, layout: str, text: str, instead: str, what: str
) -> None:
    intact: Callable[..., str] = blocks.kernel_source

    def broken(name: str, *rest: Any) -> str:
        source = intact(name, *rest)
        if name != kernel:
            return source
        assert source.count(text) == 1
        return source.replace(text, instead)

    only(monkeypatch, summed=kernel == "rows")
    monkeypatch.setattr(blocks, "kernel_source", broken)
    shape = (12, 30, 50) if layout == "NHW" else (30, 50, 12)
    x, k = values(shape, "float32"), values((5, 5), "float32")
    x[3, 4, 5] = np.nan
    keywords = {"max_memory": 9_000} if what == "store past the edge" else {}
    assert wrong(EmulatedDevice(order=0), x, k, layout=layout, **keywords)
