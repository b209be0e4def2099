"""Summed channels and banks of kernels as a product of matrices: positions by outputs."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..problem import BOUNDARIES, Problem, itemsize
from .device import Device
from .direct import Again, AnyDirect, cval_of, kernel_refusal, nominal_steps, run_any, steps
from .geometry import OUTER, SPATIAL, Outer, Spatial, filled, merged, record, spatial_axes
from .launch import ADDRESSES, Launch
from .source import kernel_source, sum_dtype
from .weights import Weights

__all__ = [
    "SMALL",
    "TILES",
    "Layer",
    "LayerDirect",
    "Tile",
    "choose",
    "constants",
    "layer",
    "nominal_layer",
    "wide",
]

_STEP = 8
"""Products of a sum that go through shared memory at a time, but in some tiles."""
_OUTERS, _AXES = 8, 3
"""Most batch axes and convolved axes."""
_LARGEST = 1 << 30
"""Positions are 32-bit."""
_FEW_OUTPUTS = 8
"""Below these a bank without summed channels has nothing to share."""
_WASTE = 1.4
"""Share of products with 0 from which a step spans several taps instead."""
_PROCESSORS = 132
"""Of the card for which work is counted: an H100."""
_THREADS = {4: 512, 8: 384, 16: 256}
"""Of a processor, by the bytes of a sum: with 128 registers each, or more; half as many sums of 8
bytes where each has 64."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The axes of a correlation by their parts in the product."""

    batch: tuple[Outer, ...]
    spatial: tuple[Spatial, ...]
    groups: int
    channels: int
    outputs: int
    x_group: int
    """Elements from one index to the next, as in the other fields of such names."""
    x_channel: int
    y_group: int
    y_output: int

    @property
    def positions(self) -> int:
        return math.prod(a.size for a in self.batch) * math.prod(a.outputs for a in self.spatial)

    @property
    def taps(self) -> int:
        return math.prod(a.taps for a in self.spatial)

    @property
    def spans(self) -> bool:
        """Whether a step holds channels of several taps, since there are few of one."""
        return -(-self.channels // _STEP) * _STEP > _WASTE * self.channels

    def nearest(self, of: str) -> int:
        """Elements of x or y between the positions that lie closest together."""
        every = [abs(getattr(a, of)) for a in self.batch]
        every += [
            abs(getattr(a, of)) * (a.stride if of == "x" else 1)
            for a in self.spatial
            if a.outputs > 1
        ]
        return min(every, default=_LARGEST)

    @property
    def channels_near(self) -> bool:
        """Whether channels, not positions, are neighbours in the memory of x."""
        return not self.spans and 0 < abs(self.x_channel) < self.nearest("x")

    @property
    def outputs_near(self) -> bool:
        return self.outputs > 1 and 0 < abs(self.y_output) < self.nearest("y")


def layer(problem: Problem, x_steps: tuple[int, ...], y_steps: tuple[int, ...]) -> Layer:
    """The problem on canonical views with these strides, counted in elements."""
    lead = len(problem.batch)
    batch = merged([Outer(*axis) for axis in zip(problem.batch, x_steps, y_steps, strict=False)])
    return Layer(
        batch,
        spatial_axes(problem, x_steps[lead + 2 :], y_steps[lead + 2 :]),
        problem.groups,
        problem.inputs,
        problem.outputs,
        x_group=x_steps[lead],
        x_channel=x_steps[lead + 1],
        y_group=y_steps[lead],
        y_output=y_steps[lead + 1],
    )


def refusal(part: Layer) -> str | None:
    """Why the kernel cannot run this, in words; None if it can."""
    if part.channels == 1 and part.outputs < _FEW_OUTPUTS:
        return "no channels are summed, and it has few outputs"
    if len(part.batch) > _OUTERS or len(part.spatial) > _AXES:
        return "it has more axes than the kernel for layers has room for"
    ends = [a.outputs * a.stride + a.low + a.taps * a.dilation for a in part.spatial]
    sizes = [*ends, *(a.size for a in part.spatial), part.positions, part.taps * part.channels]
    if max(*sizes, part.outputs, abs(part.x_channel)) >= _LARGEST:
        return "an axis is longer than the kernel for layers counts"
    return None


@dataclass(frozen=True, slots=True)
class Tile:
    """The shape of a block; see layer.cu."""

    bm: int
    bn: int
    rm: int
    rn: int
    step: int = _STEP
    """Products of a sum that go through shared memory at a time."""

    @property
    def threads(self) -> int:
        return self.bm // self.rm * (self.bn // self.rn)

    def resident(self, item: int) -> int:
        """Blocks that a processor has room for."""
        room = 256 if self.rm * self.rn * item > 256 else _THREADS[item]
        return room // self.threads

    def steps(self, part: Layer) -> int:
        if part.spans:
            return -(-part.taps * part.channels // self.step)
        return part.taps * -(-part.channels // self.step)

    def blocks(self, part: Layer) -> tuple[int, int, int]:
        """Along outputs and positions, and groups."""
        return -(-part.outputs // self.bn), -(-part.positions // self.bm), part.groups

    def parts(self, part: Layer) -> int:
        """Threads that share the channels of a position."""
        least = max(self.threads // self.bm, 1)
        return max(least, 2) if part.channels_near and self.threads >= self.bm else least

    def shared(self, part: Layer, item: int) -> int:
        """Bytes: where results go, and two steps or the outputs that are stored at a time."""
        pack = 16 // item
        pitch, share = self.bm + pack, self.bn // self.rn * pack
        stored = self.bm * (share + pack) if part.outputs_near else share * pitch
        return 8 * self.bm + item * max(2 * self.step * (pitch + self.bn), stored)


TILES = {
    4: (
        Tile(128, 128, 8, 8),
        Tile(128, 64, 8, 8),
        Tile(64, 64, 8, 4, step=16),
        Tile(256, 32, 8, 8),
        Tile(256, 16, 8, 4),
    ),
    8: (Tile(128, 64, 8, 8), Tile(128, 32, 8, 4), Tile(128, 16, 4, 4)),
    16: (Tile(128, 16, 4, 4),),
}
"""By the bytes of a sum; where a thread has more of them it reads less for each product, where it
has fewer there are registers for longer steps, in which it waits less."""
SMALL = Tile(64, 32, 4, 4)


@functools.lru_cache(1024)
def choose(part: Layer, item: int, shared: int, processors: int) -> Tile | None:
    """The tile with the least cost; None where the smallest needs more shared memory.

    `item` is the size of a sum in bytes, and `shared` what a block may use.
    """
    tiles = [
        tile
        for tile in (*TILES[item], SMALL)
        if tile.shared(part, item) <= shared and not (part.spans and tile.parts(part) > 1)
    ]
    return min(tiles, key=lambda tile: instructions(part, tile, item, processors), default=None)


def instructions(part: Layer, tile: Tile, item: int, processors: int) -> float:
    """Instructions of all threads in the time of the busiest processor.

    As many as NVRTC made for sm_90 in a step, products and packs that are read; what elements of x
    and begin and end of a block take, and what is lost where few warps are there, is fitted to 20
    layers in 7 to 12 tiles on an H100 (2026-11-27), which the result meets within a tenth.
    """
    elements = tile.step * tile.bm / tile.threads
    step = tile.step * (tile.rm * tile.rn + (tile.rm + tile.rn) * item / 16) + 60
    step += (12 if part.channels_near else 8) * elements + 31 * part.spans * tile.step
    each = (tile.steps(part) + 32 / tile.step) * step * tile.threads

    def together(blocks: int) -> float:
        """Of so many blocks on one processor."""
        return each * (blocks + 51 / tile.threads) if blocks else 0.0

    resident = tile.resident(item)
    full, rest = divmod(math.prod(tile.blocks(part)), processors * resident)
    return processors * (full * together(resident) + together(-(-rest // processors)))


def fields(total: np.dtype[Any], spatial: int) -> np.dtype[np.void]:
    """The struct Call of layer.cu."""
    counts = (
        "x_channel positions outputs channels products steps blocks_position blocks_output outers"
    )
    return record(
        [
            *((name, np.uint64, 0) for name in ("x", "y", "w")),
            *((name, np.int64, 0) for name in ("x_group", "y_group", "y_output")),
            *((name, np.int32, 0) for name in counts.split()),
            ("outer", OUTER, _OUTERS),
            ("spatial", SPATIAL, spatial),
            ("order", np.int32, _OUTERS + spatial),
            ("cval", total, 0),
        ]
    )


def constants(part: Layer, tile: Tile, item: int, boundary: int, wide: int) -> dict[str, int | str]:
    """What is put in front of layer.cu, for sums of `item` bytes and reads of `wide` channels."""
    parts = tile.parts(part)
    return {
        "SPATIAL": len(part.spatial), "BOUNDARY": boundary,
        "BM": tile.bm, "BN": tile.bn, "RM": tile.rm, "RN": tile.rn, "STEP": tile.step,
        "RESIDENT": tile.resident(item), "PARTS": parts,
        "CHANNELS_NEAR": int(part.channels_near), "WIDE": math.gcd(wide, tile.step // parts),
        "SPAN": int(part.spans), "RAGGED": int(part.channels % tile.step != 0),
        "OUTPUTS_NEAR": int(part.outputs_near), "FILTER": 0,
    }  # fmt: skip


def wide(part: Layer, item: int) -> int:
    """Channels, of `item` bytes each, that may be read at once at every position."""
    if part.spans or part.x_channel != 1:
        return 1
    apart = [a.x for a in part.batch] + [a.x for a in part.spatial if a.size > 1]
    return math.gcd(16 // item, part.channels, part.x_group, *apart)


def panels(xp: Any, part: Layer, tile: Tile, weights: Any) -> Any:
    """Weights (G, O, I, taps...) in the order in which blocks read them: see layer.cu."""
    rows = xp.permute_dims(weights.reshape(*weights.shape[:3], -1), (0, 3, 2, 1))
    if part.spans:
        rows = rows.reshape(part.groups, 1, -1, part.outputs)
    groups, taps, channels, outputs = rows.shape
    blocks = tile.blocks(part)[0]
    padded = xp.zeros(
        (groups, taps, -(-channels // tile.step) * tile.step, blocks * tile.bn), dtype=weights.dtype
    )
    padded[:, :, :channels, :outputs] = rows
    apart = xp.permute_dims(padded.reshape(groups, -1, blocks, tile.bn), (0, 2, 1, 3))
    return xp.asarray(apart, order="C", copy=True)


@functools.lru_cache(2048)
def _launch(
    device: Device,
    problem: Problem,
    number: int,
    x_strides: tuple[int, ...],
    y_strides: tuple[int, ...],
    aligned: bool,
) -> tuple[Layer, Tile, Launch] | None:
    """How arrays with these strides are correlated on the device of that number; None if not.

    `aligned` says whether `x` begins on 16 bytes.
    """
    part = layer(
        problem,
        steps(x_strides, problem.x_dtype, problem.x_axes),
        steps(y_strides, problem.dtype, problem.y_axes),
    )
    total = sum_dtype(problem.dtype)
    if refusal(part):
        return None
    tile = choose(part, total.itemsize, device.shared_bytes(), device.processors())
    if tile is None or math.prod(tile.blocks(part)) > 2 * _LARGEST - 1:
        return None
    axes = [(abs(a.x), abs(a.y)) for a in part.batch]
    axes += [(abs(a.x) * a.stride, abs(a.y)) for a in part.spatial]
    near = [axis[part.channels_near] for axis in axes]
    blocks = tile.blocks(part)
    argument = filled(
        fields(total, len(part.spatial)),
        x_group=part.x_group, x_channel=part.x_channel,
        y_group=part.y_group, y_output=part.y_output,
        positions=part.positions, outputs=part.outputs, channels=part.channels,
        products=part.taps * part.channels, steps=tile.steps(part),
        blocks_position=blocks[1], blocks_output=blocks[0],
        outers=len(part.batch), outer=part.batch, spatial=part.spatial, cval=cval_of(problem),
    )  # fmt: skip
    argument["order"][: len(near)] = sorted(range(len(near)), key=near.__getitem__)
    together = wide(part, itemsize(problem.x_dtype)) if aligned else 1
    boundary = BOUNDARIES.index(problem.boundary)
    source = kernel_source(
        "layer",
        problem.x_dtype,
        problem.dtype,
        constants(part, tile, total.itemsize, boundary, together),
    )
    return (
        part,
        tile,
        Launch(
            device.kernel("layer", source),
            math.prod(blocks),
            (tile.threads, 1),
            tile.shared(part, total.itemsize),
            ADDRESSES,
            argument.tobytes()[ADDRESSES.size :],
        ),
    )


@functools.lru_cache(512)
def nominal_layer(problem: Problem) -> Layer:
    """The layer of contiguous arrays, to ask before there are any."""
    return layer(
        problem,
        nominal_steps(problem.x_shape, problem.x_axes),
        nominal_steps(problem.y_shape, problem.y_axes),
    )


def _on_an_h100(problem: Problem) -> tuple[Layer, Tile, int]:
    """The layer of contiguous arrays, its tile, and the bytes of its sums."""
    part, item = nominal_layer(problem), sum_dtype(problem.dtype).itemsize
    tile = choose(part, item, 48 << 10, _PROCESSORS)
    assert tile is not None
    return part, tile, item


class LayerDirect(AnyDirect):
    variant = "layers: positions by outputs"
    rate = "layer"

    def refuses(self, problem: Problem) -> str | None:
        return kernel_refusal(problem) or refusal(nominal_layer(problem))

    def weights(self, problem: Problem) -> int:
        part, tile, _ = _on_an_h100(problem)
        return part.groups * tile.blocks(part)[0] * tile.bn * tile.steps(part) * tile.step

    def products(self, problem: Problem) -> float:
        return instructions(*_on_an_h100(problem), _PROCESSORS)

    def launch(self, device: Device, problem: Problem, weights: Weights, x: Any, y: Any) -> None:
        at = device.pointer(x)
        aligned = at % 16 == 0
        found = _launch(device, problem, device.number(), x.strides, y.strides, aligned)
        if found is None:
            run_any(device, problem, weights, x, y)
            return
        part, tile, launch = found

        def address(weights: Weights, device: Device) -> int:
            arranged = weights.kept(
                device,
                f"panels of {tile.bn} by {tile.step}",
                lambda array: panels(device.xp, part, tile, array),
                sum_dtype(problem.dtype),
            )
            return device.pointer(arranged)

        launch(at, device.pointer(y), address(weights, device))
        where = problem, x.strides, y.strides, device.number()
        weights.again = Again(launch, *where, address, 16 if aligned else 1)
