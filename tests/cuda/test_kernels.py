"""The tiled and the general kernel by themselves: roles of axes, dtypes, and ways to break them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xconv import api, reference
from xconv.backends.cuda import CUDABackend
from xconv.cuda import direct, launch, tiling
from xconv.cuda.direct import AnyDirect, TiledDirect

from .emulator import COMPILER, DeviceArray, EmulatedDevice, on_device

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")

RNG = np.random.default_rng(5)


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return RNG.random(shape) < 0.4
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return RNG.integers(info.min, info.max, shape, kind, endpoint=True)
    drawn = RNG.standard_normal(shape)
    if kind.kind == "c":
        drawn = drawn + 1j * RNG.standard_normal(shape)
    return drawn.astype(kind)


def wrong(
    device: EmulatedDevice, x: np.ndarray, k: Any, method: Any = None, **keywords: Any
) -> str:
    """What is wrong with the direct answer of the device, or nothing."""
    backend = CUDABackend(device)
    backend.methods = (method or TiledDirect(),)
    y = api.plan_on(backend, "convolve", on_device(x), k, **keywords)(on_device(x), k)
    assert isinstance(y, DeviceArray)
    right = reference.expected(x, np.asarray(k), **keywords)
    return right.disagreement(np.asarray(y), right.direct)


@pytest.fixture
def specialised(monkeypatch: pytest.MonkeyPatch) -> EmulatedDevice:
    monkeypatch.setattr(direct, "WORTH_COMPILING", 0)
    return EmulatedDevice(specialise=True)


@pytest.mark.parametrize(
    ("layout", "kernel_layout", "shape", "kernel", "keywords"),
    [
        ("NHW", "HW", (2, 37, 141), (5, 3), {"boundary": "reflect"}),
        ("HWN", "HW", (19, 23, 50), (3, 4), {"boundary": "wrap", "mode": "same"}),
        ("NHWC", "HWC", (2, 9, 11, 40), (3, 3, 40), {"boundary": "mirror"}),
        ("NHWC", "HWIO", (2, 9, 8, 3), (3, 2, 3, 5), {}),
        ("NHW", "OHW", (2, 20, 21), (4, 3, 3), {"stride": 2, "dilation": (2, 1)}),
        ("NDHW", "DHW", (2, 5, 9, 10), (2, 3, 3), {"boundary": "nearest", "mode": "same"}),
        ("NL", "L", (9, 300), (13,), {"dilation": 2}),
        ("LN", "L", (60, 33), (7,), {"stride": 3, "mode": "valid"}),
        ("L", "L", (3000,), (9,), {"boundary": "wrap", "mode": "same"}),
    ],
)
@pytest.mark.parametrize("where", ["host", "device"])
def test_kernels_compiled_for_their_taps(
    specialised: EmulatedDevice,
    layout: str,
    kernel_layout: str,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    keywords: dict[str, Any],
    where: str,
) -> None:
    """With taps passed by value (a kernel on the host), and read from the device."""
    x, k = values(shape, "float32"), values(kernel, "float32")
    given = on_device(k) if where == "device" else k
    assert not wrong(specialised, x, given, layout=layout, kernel_layout=kernel_layout, **keywords)
    assert specialised.launches == ["tiled"]


@pytest.fixture
def strips_only(specialised: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> EmulatedDevice:
    """Strips are cheaper than any tile."""
    monkeypatch.setattr(tiling, "cycles", lambda *_: float("inf"))
    return specialised


@pytest.mark.parametrize("boundary", ["constant", "reflect", "mirror", "nearest", "wrap"])
@pytest.mark.parametrize(
    ("layout", "shape", "kernel", "keywords"),
    [
        ("HWN", (40, 23, 50), (3, 4), {"mode": "same"}),
        ("HWN", (9, 30, 33), (5, 3), {"mode": "valid", "dilation": (1, 2)}),
        ("HWN", (7, 3, 130), (2, 3), {"mode": "valid", "stride": (1, 2)}),
        ("HWBN", (12, 11, 3, 20), (4, 5), {"mode": "full", "cval": 1.5}),
        ("BHNW", (2, 9, 19, 8), (3, 3), {"mode": "same"}),
    ],
)
def test_strips(
    strips_only: EmulatedDevice,
    layout: str,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    boundary: str,
    keywords: dict[str, Any],
) -> None:
    """In memory lanes come last; "W" may too, where x is a transposed view."""
    x, k = values(shape, "float32"), values(kernel, "float32")
    if layout[-1] == "W":
        x = np.ascontiguousarray(x.swapaxes(2, 3)).swapaxes(2, 3)
    if boundary != "constant":
        keywords = {name: value for name, value in keywords.items() if name != "cval"}
    keywords = dict(keywords, layout=layout, boundary=boundary)
    assert not wrong(strips_only, x, k, **keywords)
    assert strips_only.launches == ["strips"]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64", "complex64"])
def test_strips_of_other_dtypes(strips_only: EmulatedDevice, dtype: str) -> None:
    x, k = values((20, 15, 33), dtype), values((3, 5), dtype)
    assert not wrong(strips_only, x, k, layout="HWN", boundary="reflect")
    assert strips_only.launches == ["strips"]


def test_strips_give_the_bits_of_tiles(strips_only: EmulatedDevice) -> None:
    x, k = values((30, 21, 40), "float32"), values((5, 3), "float32")
    answers = []
    for device in (strips_only, EmulatedDevice()):
        plan = api.plan_on(CUDABackend(device), "convolve", on_device(x), k, layout="HWN")
        answers.append(np.asarray(plan(on_device(x))).tobytes())
    assert answers[0] == answers[1]
    assert strips_only.launches == ["strips"]


BROKEN_STRIPS = [
    ("above + r, call.rows_in", "above + r + 1, call.rows_in", "halo off by one"),
    ("column > last ? last : column", "column > last ? last - 1 : column", "columns misplaced"),
    ("__syncthreads();", "", "no barrier"),
    ("- 1 - a) * TAPS_W", "- 1 - a) * TAPS_W + 1", "another tap"),
]


@pytest.mark.parametrize(
    ("text", "instead", "what"), BROKEN_STRIPS, ids=[b[-1] for b in BROKEN_STRIPS]
)
def test_broken_strips_are_found(
    strips_only: EmulatedDevice,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    instead: str,
    what: str,
) -> None:
    def broken(*given: Any) -> str:
        source = intact(*given)
        assert source.count(text) == 1
        return source.replace(text, instead)

    intact = launch.kernel_source
    monkeypatch.setattr(launch, "kernel_source", broken)
    device = EmulatedDevice(specialise=True, order=1)
    x, k = values((60, 21, 40), "float32"), values((5, 3), "float32")
    found = wrong(device, x, k, layout="HWN", boundary="reflect", mode="same")
    assert "outputs off" in found


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint16", "int32", "uint64", "float16", "float64", "complex64", "complex128"],
)
def test_tiled_kernel_with_other_dtypes(dtype: str) -> None:
    device = EmulatedDevice()
    for layout, shape in (("NHW", (2, 12, 30)), ("HWN", (12, 11, 9))):
        x, k = values(shape, dtype), values((3, 5), dtype)
        assert not wrong(device, x, k, layout=layout, boundary="reflect")


@pytest.mark.parametrize(
    ("x_dtype", "k_dtype", "dtype"),
    [
        ("uint8", "float32", None),
        ("bool", "complex64", None),
        ("float64", "float64", "float16"),
        ("int64", "float32", "float16"),
        ("int64", "int8", "int8"),
        ("float32", "complex128", None),
    ],
)
def test_operands_are_converted_once(x_dtype: str, k_dtype: str, dtype: str | None) -> None:
    x, k = values((3, 40), x_dtype), values((4,), k_dtype)
    if x_dtype == "int64" and dtype == "float16":
        x //= 1 << 48
    for method in (TiledDirect(), AnyDirect()):
        assert not wrong(EmulatedDevice(), x, k, method, dtype=dtype)


def test_half_precision_rounds_as_numpy_does() -> None:
    """Every half, and the numbers between two of them, through a kernel of one tap."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    halves = halves[np.isfinite(halves)]
    x = np.concatenate([halves, (np.sort(halves)[1:] + np.sort(halves)[:-1]) / 2])
    backend = CUDABackend(EmulatedDevice())
    y = api.plan_on(backend, "convolve", on_device(x), [1.0], dtype="float16")(
        on_device(x), np.array([1.0])
    )
    np.testing.assert_array_equal(np.asarray(y), x.astype(np.float16))


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_neighbours_in_memory_along_another_axis(order: tuple[int, ...]) -> None:
    """Images stored column by column are read, and results written, along their columns."""
    x = values((3, 20, 40), "float32").transpose(order)
    x = np.ascontiguousarray(x).transpose(np.argsort(order))
    device = EmulatedDevice()
    assert not wrong(device, x, values((3, 5), "float32"), boundary="reflect", mode="same")
    assert device.launches == ["tiled"]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_answers_do_not_depend_on_the_order_of_threads(order: int) -> None:
    x, k = values((2, 30, 50), "float32"), values((5, 5), "float32")
    backends = [CUDABackend(EmulatedDevice(order=n)) for n in (0, order)]
    first, other = (
        np.asarray(api.plan_on(b, "convolve", on_device(x), k, method="direct")(on_device(x), k))
        for b in backends
    )
    assert first.tobytes() == other.tobytes()


def test_both_kernels_give_the_same_bits() -> None:
    """They sum in one order: channels, then taps in the kernel's order."""
    x, k = values((2, 4, 17, 23), "float32"), values((3, 4, 5, 3), "float32")
    keywords = {"layout": "NCHW", "kernel_layout": "OIHW", "boundary": "mirror"}
    answers = []
    for method in (TiledDirect(), AnyDirect()):
        backend = CUDABackend(EmulatedDevice())
        backend.methods = (method,)
        plan = api.plan_on(backend, "correlate", on_device(x), k, **keywords)
        answers.append(np.asarray(plan(on_device(x), k)).tobytes())
    assert answers[0] == answers[1]


@pytest.mark.parametrize("method", [TiledDirect(), AnyDirect()])
def test_offsets_beyond_32_bits(method: Any) -> None:
    """Rows that lie 2^31 + 5 elements apart; the pages between are never touched."""
    apart = (1 << 31) + 5
    memory = np.zeros(3 * apart, np.uint8)
    x = np.lib.stride_tricks.as_strided(memory, (4, 12), (apart // 2, 1))
    x[...] = values((4, 12), "uint8")
    assert not wrong(EmulatedDevice(), x, values((2, 3), "uint8"), method, boundary="wrap")


def test_what_has_no_tile_runs_on_the_general_kernel() -> None:
    device = EmulatedDevice(shared=512)
    assert not wrong(device, values((4, 60), "float64"), values((3, 9), "float64"))
    assert device.launches == ["any"]


BROKEN = [
    ("tiled", "__syncthreads();\n        const Sum* window", "const Sum* window", "no barrier"),
    ("tiled", "STRIDE_W - call.columns_low", "STRIDE_W - call.columns_low + 1", "halo off by one"),
    ("tiled", "column >= call.columns_out) break", "column > call.columns_out) break",
     "store past the edge"),
    ("tiled", "begin > last ? last : begin", "begin > last ? last - 1 : begin",
     "last tile misplaced"),
    ("any", "at < size ? at : 2 * size - 1 - at", "at < size ? at : 2 * size - at", "wrong border"),
    ("any", "tap_at(call, at.w++)", "tap_at(call, at.w)", "one tap for all"),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "text", "instead", "what"), BROKEN, ids=[b[3] for b in BROKEN])
def test_broken_kernels_are_found(
    monkeypatch: pytest.MonkeyPatch, kernel: str, text: str, instead: str, what: str
) -> None:
    intact = launch.kernel_source

    def broken(name: str, *rest: Any) -> str:
        source = intact(name, *rest)
        assert source.count(text) == 1
        return source.replace(text, instead)

    monkeypatch.setattr(launch, "kernel_source", broken)
    method = TiledDirect() if kernel == "tiled" else AnyDirect()
    past = what == "store past the edge"  # of a tile that is wider than the result
    x, k = values((2, 30, 9) if past else (2, 70, 101), "float32"), values((5, 5), "float32")
    mode = "valid" if past else "full"
    found = wrong(EmulatedDevice(), x, k, method, boundary="reflect", mode=mode)
    assert "outputs off" in found


@pytest.mark.parametrize("method", ["direct", "fft", "separable"])
def test_more_batch_axes_that_do_not_join_than_a_kernel_has_room_for(method: str) -> None:
    backend = CUDABackend(EmulatedDevice())
    x = on_device(RNG.standard_normal((*(4, 3) * 5, 6, 7)))[(slice(None, None, 2),) * 10]
    x[(1,) * 10][3, 4] = np.inf  # such an image is computed directly, also by the transforms
    k = np.outer([1.0, 2.0], [3.0, -1.0, 2.0])
    plan = api.plan_on(backend, "convolve", x, k, mode="same", method=method)
    right = reference.expected(np.asarray(x), k, mode="same")
    assert not right.disagreement(
        np.asarray(plan(x)), plan._choice()[0].method.rounding(plan.problem)
    )
    assert ("scatter" if method == "fft" else "any") in backend.device.launches


def test_more_convolved_axes_than_a_kernel_has_room_for() -> None:
    x, k = RNG.standard_normal((2,) * 9), RNG.standard_normal((2,) * 9)
    backend = CUDABackend(EmulatedDevice())
    plan = api.plan_on(backend, "convolve", on_device(x), k, mode="same")
    right = reference.expected(x, k, mode="same")
    assert not right.disagreement(np.asarray(plan(on_device(x))), right.direct)
    assert backend.device.launches == [], "array operations do it"
