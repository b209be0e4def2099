"""Layers as a product of matrices: layouts, options, tiles, and ways to break the kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xconv import api, reference
from xconv.backends.cuda import CUDABackend
from xconv.cuda import layers
from xconv.cuda.layers import LayerDirect, Tile

from .emulator import COMPILER, EmulatedDevice, on_device
from .test_kernels import values, wrong

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")

# Many channels, so many that steps of 8 are ragged, and so few that a step spans taps.
LAYOUTS = [
    ("NCHW", "OIHW", (3, 16, 9, 13), (20, 16, 3, 2)),
    ("NCHW", "OIHW", (3, 12, 9, 13), (20, 12, 3, 2)),
    ("NCHW", "OIHW", (3, 3, 9, 13), (20, 3, 3, 2)),
    ("NHWC", "HWIO", (3, 9, 13, 16), (3, 2, 16, 20)),
    ("NHWC", "HWIO", (3, 9, 13, 12), (3, 2, 12, 20)),
    ("NHWC", "HWIO", (3, 9, 13, 3), (3, 2, 3, 20)),
    ("HWCN", "IHWO", (9, 13, 16, 5), (16, 3, 2, 20)),
]


def layer_is_wrong(x: Any, k: Any, device: EmulatedDevice | None = None, **keywords: Any) -> str:
    device = device or EmulatedDevice()
    found = wrong(device, x, k, LayerDirect(), **keywords)
    assert device.launches == ["layer"]
    return found


@pytest.mark.parametrize(
    "keywords",
    [
        {"mode": "same"},
        {"mode": "valid", "stride": 2},
        {"cval": -1.5, "dilation": (1, 3)},
        {"boundary": "reflect", "stride": (1, 3)},
        {"boundary": "mirror", "mode": ((20, 3), (2, 30))},
        {"boundary": "nearest", "dilation": 2},
        {"boundary": "wrap", "mode": "same"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("layout", "kernel_layout", "shape", "kernel"), LAYOUTS)
def test_layouts(
    layout: str,
    kernel_layout: str,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    keywords: dict[str, Any],
) -> None:
    x, k = values(shape, "float32"), values(kernel, "float32")
    assert not layer_is_wrong(x, k, layout=layout, kernel_layout=kernel_layout, **keywords)


@pytest.mark.parametrize(
    ("layout", "kernel_layout", "shape", "kernel", "keywords"),
    [
        ("NCL", "OIL", (3, 16, 50), (20, 16, 5), {"stride": 3}),
        ("NCDHW", "OIDHW", (2, 9, 4, 5, 6), (20, 9, 2, 3, 3), {"boundary": "reflect"}),
        ("NDHWC", "DHWIO", (2, 4, 5, 6, 3), (2, 3, 3, 3, 20), {"mode": "same"}),
        ("NCHW", "OIHW", (2, 24, 8, 9), (30, 8, 3, 3), {"groups": 3}),
        ("NHWC", "HWIO", (2, 8, 9, 24), (3, 3, 8, 30), {"groups": 3}),
        ("NHWC", "HWIO", (2, 8, 9, 6), (3, 3, 2, 30), {"groups": 3, "boundary": "wrap"}),
        ("NHW", "OHW", (4, 20, 21), (30, 3, 3), {"mode": "same"}),
        ("NHWC", "HWCO", (2, 8, 9, 3), (3, 3, 3, 9), {}),
        ("NCHW", "IHW", (2, 16, 8, 9), (16, 3, 3), {}),
        ("BNCHW", "OIHW", (2, 3, 16, 8, 9), (140, 16, 3, 3), {"out_layout": "HOBWN"}),
        ("NCHW", "OIHW", (3, 9, 1, 1), (17, 9, 1, 1), {}),
    ],
)
def test_roles(
    layout: str,
    kernel_layout: str,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    keywords: dict[str, Any],
) -> None:
    x, k = values(shape, "float32"), values(kernel, "float32")
    assert not layer_is_wrong(x, k, layout=layout, kernel_layout=kernel_layout, **keywords)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint16", "int32", "uint64", "float16", "float64", "complex64", "complex128"],
)
@pytest.mark.parametrize(("layout", "kernel_layout", "shape", "kernel"), LAYOUTS[2:5])
def test_dtypes(
    layout: str, kernel_layout: str, shape: tuple[int, ...], kernel: tuple[int, ...], dtype: str
) -> None:
    x, k = values(shape, dtype), values(kernel, dtype)
    keywords = {"layout": layout, "kernel_layout": kernel_layout, "boundary": "reflect"}
    assert not layer_is_wrong(x, k, **keywords)


@pytest.mark.parametrize(
    ("dtype", "tile"),
    [
        (dtype, tile)
        for dtype, item in (("float32", 4), ("float64", 8), ("complex128", 16))
        for tile in (*layers.TILES[item], layers.SMALL)
    ],
)
@pytest.mark.parametrize("near", ["positions", "channels"])
def test_tiles(monkeypatch: pytest.MonkeyPatch, dtype: str, tile: Tile, near: str) -> None:
    """Several blocks of positions, of outputs and of groups, the last of them not full."""
    monkeypatch.setattr(layers, "choose", lambda *_: tile)
    x, k = values((2, 24, 13, 17), dtype), values((2 * tile.bn + 6, 12, 2, 3), dtype)
    keywords: dict[str, Any] = {"groups": 2, "layout": "NCHW", "kernel_layout": "OIHW"}
    if near == "channels":
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        keywords["layout"] = "NHWC"
    assert not layer_is_wrong(x, k, **keywords)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("begin", [0, 1, 2])
def test_channels_that_begin_anywhere(dtype: str, begin: int) -> None:
    """They are read several at once only where all positions allow it."""
    x = values((2, 8, 9, 19), dtype)[..., begin : begin + 16]
    k = values((3, 3, 16, 20), dtype)
    there = on_device(x)
    backend = CUDABackend(EmulatedDevice())
    backend.methods = (LayerDirect(),)
    for images in (there, there[:, ::-1, ::2], there[..., ::-1], there.copy()):
        keywords = {"layout": "NHWC", "kernel_layout": "HWIO"}
        y = api.plan_on(backend, "convolve", images, k, **keywords)(images)
        right = reference.expected(np.asarray(images), k, **keywords)
        assert not right.disagreement(np.asarray(y), right.direct)
    assert backend.device.launches == ["layer"] * 4


def test_values_that_are_not_finite_stay_where_they_are() -> None:
    """Steps end with products of 0, also where what lies beyond the edges is not finite."""
    for layout, kernel_layout, shape, kernel in LAYOUTS:
        x, k = values(shape, "float32"), values(kernel, "float32")
        x.flat[x.size // 2] = np.nan
        keywords = {"layout": layout, "kernel_layout": kernel_layout}
        assert not layer_is_wrong(x, k, **keywords)
        assert not layer_is_wrong(x, k, cval=np.inf, **keywords)


def test_offsets_beyond_32_bits() -> None:
    """Images that lie 2^31 + 5 elements apart; the pages between are never touched."""
    apart = (1 << 31) + 5
    memory = np.zeros(2 * apart, np.uint8)
    for layout, kernel_layout, shape, kernel in (
        ("NCHW", "OIHW", (9, 5, 6), (20, 9, 2, 3)),
        ("NHWC", "HWIO", (5, 6, 9), (2, 3, 9, 20)),
    ):
        inside = np.zeros(shape, np.uint8).strides
        x = np.lib.stride_tricks.as_strided(memory, (2, *shape), (apart, *inside))
        x[...] = values(x.shape, "uint8")
        k = values(kernel, "uint8")
        assert not layer_is_wrong(x, k, layout=layout, kernel_layout=kernel_layout)


@pytest.mark.parametrize("order", [1, 2])
def test_answers_do_not_depend_on_the_order_of_threads(order: int) -> None:
    x, k = values((2, 12, 30, 20), "float32"), values((70, 12, 3, 3), "float32")
    answers = []
    for n in (0, order):
        backend = CUDABackend(EmulatedDevice(order=n))
        backend.methods = (LayerDirect(),)
        plan = api.plan_on(
            backend, "convolve", on_device(x), k, layout="NCHW", kernel_layout="OIHW"
        )
        answers.append(np.asarray(plan(on_device(x))).tobytes())
    assert answers[0] == answers[1]


def test_what_has_no_tile_runs_on_the_general_kernel() -> None:
    device = EmulatedDevice(shared=512)
    x, k = values((2, 9, 8, 8), "float32"), values((9, 9, 3, 3), "float32")
    assert not wrong(device, x, k, LayerDirect(), layout="NCHW", kernel_layout="OIHW")
    assert device.launches == ["any"]


def test_a_plan_arranges_its_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    arrange = layers.panels

    def counted(*given: Any) -> Any:
        made.append(given)
        return arrange(*given)

    monkeypatch.setattr(layers, "panels", counted)
    backend = CUDABackend(EmulatedDevice())
    backend.methods = (LayerDirect(),)
    x, k = values((2, 9, 8, 8), "float32"), values((20, 9, 3, 3), "float32")
    keywords = {"layout": "NCHW", "kernel_layout": "OIHW"}
    plan = api.plan_on(backend, "correlate", on_device(x), k, **keywords)
    right = reference.expected(x, k, op="correlate", **keywords)
    for _ in range(3):
        assert not right.disagreement(np.asarray(plan(on_device(x))), right.direct)
    assert len(made) == 1


def chosen(x: tuple[int, ...], k: tuple[int, ...], **keywords: Any) -> str:
    """The row that is taken on an H100."""
    backend = CUDABackend(EmulatedDevice())
    plan = api.plan_on(
        backend, "correlate", api.Spec(x, "float32"), api.Spec(k, "float32"), **keywords
    )
    return next(c.note for c in plan.candidates if c.chosen)


def test_layers_are_chosen_where_channels_are_summed() -> None:
    nchw: Any = {"layout": "NCHW", "kernel_layout": "OIHW", "mode": "same"}
    nhwc: Any = {"layout": "NHWC", "kernel_layout": "HWIO", "mode": "same"}
    for times in (
        chosen((64, 64, 56, 56), (64, 64, 3, 3), **nchw),
        chosen((64, 56, 56, 64), (3, 3, 64, 64), **nhwc),
        chosen((32, 3, 224, 224), (64, 3, 7, 7), stride=2, **nchw),
        chosen((64, 512, 7, 7), (512, 512, 3, 3), **nchw),
    ):
        assert times == LayerDirect.variant
    single: Any = {"layout": "NHWC", "kernel_layout": "HWC", "mode": "same"}
    assert chosen((8, 56, 56, 64), (3, 3, 64), **single) != LayerDirect.variant
    assert chosen((64, 64, 56, 56), (1, 64, 3, 3), **nchw) != LayerDirect.variant


@pytest.mark.parametrize(
    ("layout", "kernel_layout", "shape", "kernel", "reason"),
    [
        ("NHW", "HW", (2, 9, 9), (3, 3), "few outputs"),
        ("NHWC", "HWC", (2, 9, 9, 16), (3, 3, 16), "few outputs"),
        ("CTDHW", "OITDHW", (2, 3, 3, 3, 3), (9, 2, 2, 2, 2, 2), "more axes"),
    ],
)
def test_refusals(
    layout: str, kernel_layout: str, shape: tuple[int, ...], kernel: tuple[int, ...], reason: str
) -> None:
    backend = CUDABackend(EmulatedDevice())
    plan = api.plan_on(
        backend, "correlate", api.Spec(shape), api.Spec(kernel),
        layout=layout, kernel_layout=kernel_layout,
    )  # fmt: skip
    assert reason in str(LayerDirect().refuses(plan.problem))


BROKEN = [
    ("wait_for_copies();\n        __syncthreads();", "", "no barrier between steps"),
    ("__syncthreads();\n        store", "store", "no barrier before storing"),
    ("along.stride - static_cast<int>(along.low)", "along.stride - static_cast<int>(along.low) + 1",
     "halo off by one"),
    ("next.channel += STEP;", "next.channel += 2 * STEP;", "channels left out"),
    ("to[e * PITCH + p * APART] = v[e][p]", "to[(EACH - 1 - e) * PITCH + p * APART] = v[e][p]",
     "channels in another order"),
    ("v[e + i][p] = e < left ? call.cval : Sum{}", "v[e + i][p] = call.cval",
     "cval beyond the last channel"),
    ("thread / 16 % 2 * 2 + thread % 2", "thread / 16 % 2 + thread % 2 * 2", None),
]  # fmt: skip


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts another text into the kernel."""

    def put(text: str, instead: str) -> None:
        def edited(*given: Any) -> str:
            source = intact(*given)
            assert source.count(text) == 1
            return source.replace(text, instead)

        monkeypatch.setattr(layers, "kernel_source", edited)

    intact = layers.kernel_source
    return put


@pytest.mark.parametrize(("text", "instead", "what"), BROKEN, ids=[str(b[2]) for b in BROKEN])
def test_broken_kernels_are_found(broken: Any, text: str, instead: str, what: str | None) -> None:
    """The last one is not broken: which thread sums what is of no consequence."""
    broken(text, instead)
    x, k = values((3, 20, 8, 13), "float32"), values((13, 20, 3, 3), "float32")
    keywords: dict[str, Any] = {"layout": "NCHW", "kernel_layout": "OIHW", "out_layout": "ONHW"}
    if what and "cval" in what:
        keywords["cval"] = np.inf
    found = wrong(EmulatedDevice(order=1), x, k, LayerDirect(), **keywords)
    assert ("outputs off" in found or "finite" in found) if what else not found


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("", ""),
        ("output + o >= call.outputs", "output + o > call.outputs"),
        (
            "if (position >= call.positions) at.y = nullptr;",
            "if (position >= call.positions) at.y += 3 * 8 * 9 * 20;",
        ),
    ],
    ids=["intact", "an output more", "positions more"],
)
def test_what_lies_around_the_result_stays(broken: Any, text: str, instead: str) -> None:
    if text:
        broken(text, instead)
    x, k = on_device(values((3, 8, 9, 12), "float32")), values((3, 3, 12, 19), "float32")
    backend = CUDABackend(EmulatedDevice())
    backend.methods = (LayerDirect(),)
    room = on_device(np.full((4, 8, 9, 20), 7, "f4"))
    plan = api.plan_on(backend, "correlate", x, k, layout="NHWC", kernel_layout="HWIO", mode="same")
    y = room[:3, ..., :19]
    plan(x, out=y)
    right = reference.expected(
        np.asarray(x), k, op="correlate", layout="NHWC", kernel_layout="HWIO", mode="same"
    )
    assert not right.disagreement(np.asarray(y), right.direct)
    around = (np.asarray(room[3]) != 7).any() or (np.asarray(room[..., 19]) != 7).any()
    assert around == bool(text)
