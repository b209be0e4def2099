"""What NVRTC makes of the kernels, per architecture: registers, spills, share of multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from xconv import api
from xconv.backends.cuda import CUDABackend
from xconv.cuda import blocks, launch, layers, peak, planes, strips, tiling
from xconv.cuda.geometry import Geometry, Outer, Spatial
from xconv.cuda.source import kernel_source, sum_dtype
from xconv.problem import itemsize

from . import nvrtc
from .emulator import EmulatedDevice

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        nvrtc.LIBRARY is None or nvrtc.DISASSEMBLER is None,
        reason="NVRTC or nvdisasm is not installed: pip install 'xconv[cuda-test]'",
    ),
]


@dataclass(frozen=True)
class Row:
    """A kernel of the table and what it may take."""

    name: str
    dtype: str
    layout: str
    taps: int
    by_value: bool = True
    fixed: bool = True
    """Whether it is compiled for its taps, where they are few enough."""
    registers: int = 255
    share: float = 0.0
    """Least share of multiply-adds among the instructions of the loop that makes the sums."""
    loop: float = 0.0
    """The same of the whole loop, with its loads, and the branches that are seldom taken."""


TABLE = (
    Row("tiled", "float32", "NHW", 3, registers=80),
    Row("tiled", "float32", "NHW", 11, registers=128, share=0.80),
    Row("tiled", "float32", "HWN", 11, registers=168, share=0.80),
    Row("tiled", "float64", "NHW", 11, registers=192, share=0.60),
    Row("tiled", "float32", "NHW", 31, by_value=False, registers=128),
    Row("tiled", "float32", "HWN", 31, by_value=False, registers=168),
    Row("tiled", "float32", "NHW", 5, fixed=False, registers=128),
    Row("tiled", "float64", "HWN", 5, fixed=False, registers=192),
    Row("strips", "float32", "HWN", 3, registers=72),
    Row("strips", "float32", "HWN", 11, registers=168, share=0.80),
    Row("strips", "float32", "HWN", 15, registers=255, share=0.80),
    Row("strips", "float64", "HWN", 11, registers=200, share=0.60),
    Row("strips", "complex64", "HWN", 5, registers=200),
    Row("strips", "uint8", "HWN", 5, registers=128),
    Row("tiled", "complex64", "NHW", 5, registers=168, share=0.50),
    Row("tiled", "int32", "NHW", 5, registers=128),
    Row("tiled", "float16", "NHW", 5, registers=128, share=0.50),
    Row("tiled", "bfloat16", "NHW", 5, registers=128, share=0.50),
    Row("any", "float32", "NHW", 5, registers=96),
    Row("any", "complex128", "NHW", 5, registers=128),
    Row("any", "bfloat16", "NHW", 5, registers=96),
    *(
        Row(name, dtype, "NDHW", 5, registers=104)
        for name in ("repair", "spread")
        for dtype in ("float32", "complex128")
    ),
    *(
        Row(name, dtype, layout, 5, registers=88)
        for name in ("gather", "scatter")
        for dtype in ("float32", "complex128", "bfloat16")
        for layout in ("NHW", "HWN", "NDHW")
    ),
    Row("multiply", "complex64", "one output", 5, registers=64),
    Row("multiply", "complex128", "outputs", 5, registers=168),
    Row("rows", "complex64", "", 11, registers=168, share=0.70),
    Row("rows", "complex64", "", 31, registers=168, share=0.70),
    Row("rows", "complex128", "", 11, registers=200, share=0.60),
    Row("rows", "complex128", "", 31, registers=200, share=0.60),
    Row("layer", "float32", "NCHW 64", 3, registers=128, share=0.90, loop=0.77),
    Row("layer", "float32", "NCHW 128", 3, registers=128, share=0.90, loop=0.79),
    Row("layer", "float32", "NHWC 64", 3, registers=128, share=0.90, loop=0.76),
    Row("layer", "float32", "NCHW 32", 3, registers=128, share=0.85, loop=0.66),
    Row("layer", "float32", "NHWC 16", 3, registers=128, share=0.80),
    Row("layer", "float32", "NCHW 512", 3, registers=128, share=0.80, loop=0.66),
    Row("layer", "float32", "NHWC 512", 3, registers=128, share=0.80, loop=0.66),
    Row("layer", "float32", "NDHWC 64", 3, registers=128, share=0.90),
    Row("layer", "float32", "NCHW first", 7, registers=128, share=0.90, loop=0.50),
    Row("layer", "float64", "NCHW 64", 3, registers=255, share=0.75, loop=0.58),
    Row("layer", "float64", "NHWC 64", 3, registers=255, share=0.70, loop=0.56),
    Row("layer", "float64", "NCHW 32", 3, registers=168, share=0.75, loop=0.55),
    Row("layer", "float16", "NHWC 64", 3, registers=128, share=0.85, loop=0.74),
    Row("layer", "bfloat16", "NCHW 64", 3, registers=128, share=0.85, loop=0.74),
    *(
        Row("layer", dtype, "NCHW 64", 3, registers=255)
        for dtype in ("complex64", "complex128", "int64", "uint8", "bool")
    ),
    Row("peak", "float32", "", 0, registers=32, share=0.80),
    Row("peak", "float64", "", 0, registers=40, share=0.80),
)
CASES = [
    (row, architecture)
    for row in TABLE
    # The targets on all; NVRTC takes seconds for each.
    for architecture in ((75, 80, 90, "newest") if row.share >= 0.8 else (75, 90))
]
ADDS = ("FFMA", "DFMA")


def layer_source(row: Row) -> str:
    """For 64 images of 56 x 56, or 7 x 7 if there are 512 outputs; as many channels, or 3."""
    layout, _, given = row.layout.partition(" ")
    outputs = 64 if given == "first" else int(given)
    channels = 3 if given == "first" else outputs
    spatial = layout.strip("NC")
    sizes = {"N": 64, "C": channels, "I": channels, "O": outputs}
    first = layout[1] == "C"
    kernel_layout = "OI" + spatial if first else spatial + "IO"
    x, k = (
        api.Spec(tuple(sizes.get(letter, size) for letter in letters), row.dtype)
        for letters, size in ((layout, 7 if outputs == 512 else 56), (kernel_layout, row.taps))
    )
    plan = api.plan_on(
        CUDABackend(EmulatedDevice()), "correlate", x, k,
        layout=layout, kernel_layout=kernel_layout, mode="same", boundary="constant",
    )  # fmt: skip
    item = sum_dtype(row.dtype).itemsize
    part = layers.nominal_layer(plan.problem)
    tile = layers.choose(part, item, 64 << 10, 108)
    assert tile is not None
    wide = layers.wide(part, itemsize(row.dtype))
    return kernel_source("layer", row.dtype, row.dtype, layers.constants(part, tile, item, 0, wide))


def source_of(row: Row) -> str:
    """For 50 images of 1000 x 1000, "valid", on a card with A100's shared memory."""
    if row.name == "layer":
        return layer_source(row)
    if row.name == "peak":
        return peak.source(row.dtype)
    if row.name == "any":
        return kernel_source("any", row.dtype, row.dtype, {"SPATIAL": 3, "FILTER": 100, "MEND": 0})
    if row.name == "multiply":
        outputs = 1 if row.layout == "one output" else planes.OUTPUTS
        constants = {"FILTER": 0, "TILES": planes.TILES, "OUTPUTS": outputs}
        return kernel_source(row.name, row.dtype, row.dtype, constants)
    if row.name == "rows":
        return kernel_source(
            "rows", row.dtype, row.dtype, blocks.row_constants(row.taps, row.dtype)
        )
    if row.name in ("gather", "scatter", "repair", "spread"):
        constants = {
            "FILTER": 0,
            "SPATIAL": len(row.layout) - 1,
            "LANES": int(row.layout == "HWN"),
            "SLICES": 8,
        }
        return kernel_source(row.name, row.dtype, row.dtype, constants)
    size, taps = 1000, row.taps
    out = size - taps + 1
    apart = {"NHW": (size * size, size, 1), "HWN": (1, 50 * size, 50)}[row.layout]
    below = {"NHW": (out * out, out, 1), "HWN": (1, 50 * out, 50)}[row.layout]
    image, *axes = zip(apart, below, strict=True)
    spatial = tuple(
        Spatial(x, y, size, out, low=0, taps=taps, stride=1, dilation=1, boundary=0)
        for x, y in axes
    )
    part = tiling.roles(Geometry((Outer(50, *image),), spatial))
    total = sum_dtype(row.dtype)
    if row.name == "strips":
        found = strips.choose(part, total.itemsize, 64 << 10, 108)
        assert found is not None
        constants = launch.strip_constants(part, found[1])
        return kernel_source("strips", row.dtype, row.dtype, constants)
    tile = tiling.choose(part, total.itemsize, row.fixed, row.by_value, 64 << 10, 108)
    assert tile is not None
    room = taps * taps if tile.fixed else launch.BY_VALUE_BYTES // total.itemsize
    filters = room if row.by_value else 0
    constants = launch.constants(part, tile, filters)
    return kernel_source("tiled", row.dtype, row.dtype, constants)


@pytest.mark.parametrize(
    ("row", "architecture"),
    CASES,
    ids=[f"{r.name}-{r.dtype}-{r.layout}-{r.taps}-{r.fixed}-{a}" for r, a in CASES],
)
def test_table(row: Row, architecture: int | str) -> None:
    number = nvrtc.architectures()[-1] if architecture == "newest" else architecture
    usage = nvrtc.usage(source_of(row), f"sm_{number}")
    assert usage.spills == 0
    assert usage.registers <= row.registers
    adds = usage.share(*ADDS)
    loop = usage.share_of_loop(*ADDS)
    print(f"sm_{number}: {usage.registers} registers, {adds:.2f} multiply-adds, loop {loop:.2f}")
    assert adds >= row.share
    assert loop >= row.loop
