"""Which memory the threads of a warp touch together, from what the kernel's own arithmetic does.

The elements of x and y are of a type that notes each access.  What the threads of a warp read, or
write, in one turn of a loop is one request to the memory, which serves it in sectors of 32 bytes.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from xconv import api, reference
from xconv.backends.cuda import CUDABackend
from xconv.cuda import direct, layers, tiling
from xconv.cuda.direct import TiledDirect, nominal
from xconv.cuda.geometry import Outer
from xconv.cuda.launch import tiled_fields
from xconv.cuda.tiling import roles

from .emulator import COMPILER, EmulatedDevice, on_device

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")

RNG = np.random.default_rng(17)
WARP = 32
M_AT = tiled_fields(np.dtype("f4"), 0).fields["m"][1]
NOTED = """
#include <algorithm>
#include <vector>
static std::vector<unsigned long> noted;
static unsigned long turn;
#ifdef COUNTED  // a turn is what each thread touches after as many things
static unsigned long turns[1024];
static unsigned last_block = -1u;
static void count(unsigned thread)
{
    if (blockIdx.x != last_block) std::fill(turns, turns + 1024, 0ul);
    last_block = blockIdx.x;
    turn = turns[thread]++;
}
#else
static void count(unsigned) {}
#endif
static void note(const void* address, int written)
{
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    count(thread);
    for (unsigned long n : {(unsigned long)address, (unsigned long)written,
                            (unsigned long)blockIdx.x, (unsigned long)thread, turn})
        noted.push_back(n);
}
extern "C" void noted_clear() { noted.clear(); }
extern "C" unsigned long noted_count() { return noted.size(); }
extern "C" const unsigned long* noted_data() { return noted.data(); }
struct Noted {
    float v;
    explicit Noted(float number) : v(number) {}
    Noted(const Noted& other) : v(other.v) { note(&other, 0); }
    Noted& operator=(const Noted& other) { v = other.v; note(this, 1); return *this; }
};
inline float number(const Noted& noted) { return noted.v; }
using Input = Noted;
using Value = Noted;
"""
TURN = "turn = c / step.column_step * 1000ul + r / step.row_step; "
PLACES = {
    "fetch<1>(tile + r": "{ " + TURN,
    "fetch<COUNT>(tile + r": "{ " + TURN,
    "fetch<PACK>(tile + r": "{ turn = (r * width + c) / threads; ",
    "*next = Convert<Value>": "{ " + TURN,
}
"""Where x and y are touched, and what is put in front."""


class Noting(EmulatedDevice):
    """Keeps the accesses of a launch: (address, whether it is written, block, thread, turn)."""

    def __init__(self, edit: Callable[[str], str]) -> None:
        super().__init__(shared=227 << 10)  # an H100's
        self.edit = edit

    def kernel(self, name: str, source: str) -> Any:
        types = "using Input = float;\nusing Value = float;\n"
        assert source.count(types) == 1
        counted = name != "tiled"
        source = source.replace(types, "#define COUNTED\n" * counted + NOTED)
        for text, before in () if counted else PLACES.items():
            head, found, tail = source.partition(text)
            assert found
            assert text not in tail
            statement, end, tail = tail.partition(";")
            source = head + before + found + statement + end + " }" + tail
        run = super().kernel(name, self.edit(source))
        library = run.library
        library.noted_count.restype = ctypes.c_ulong
        library.noted_data.restype = ctypes.POINTER(ctypes.c_ulong)

        def launch(blocks: int, threads: tuple[int, int], shared: int, argument: bytes) -> None:
            library.noted_clear()
            run(blocks, threads, shared, argument)
            count = library.noted_count()
            self.noted = np.ctypeslib.as_array(library.noted_data(), (count,)).reshape(-1, 5).copy()
            self.threads = threads
            # Of strips a block has all.
            self.lanes = 0 if counted else int.from_bytes(argument[M_AT : M_AT + 4], "little")

        return launch


def scattered(
    layout: str,
    shape: tuple[int, ...],
    order: Any = None,
    edit: Callable[[str], str] = str,
    strips: bool = False,
) -> dict[str, int]:
    """How many requests to x, and to y, touch more runs of neighbours in memory than they need."""
    x = np.ascontiguousarray(RNG.standard_normal(shape, "f4").transpose(order or range(len(shape))))
    x = x.transpose(np.argsort(order)) if order else x
    k = np.ones((9,) if "L" in layout else (3, 5), "f4")
    device = Noting(edit)
    device.specialise = strips
    backend = CUDABackend(device)
    backend.methods = (TiledDirect(),)
    plan = api.plan_on(backend, "correlate", on_device(x), k, layout=layout, mode="valid")
    y = plan(on_device(x))
    right = reference.expected(x, k, op="correlate", layout=layout, mode="valid")
    assert not right.disagreement(np.asarray(y), right.direct)
    lane = roles(nominal(plan.problem)).lane
    return {
        name: sum(runs > most for runs, most in requests(device, memory, lane))
        for name, memory in (("x", x), ("y", np.asarray(y)))
    }


def requests(device: Noting, memory: np.ndarray, lane: Outer | None) -> Iterator[tuple[int, int]]:
    """Runs of neighbours in memory that each request touches, and how many it needs.

    A warp reads along one row of the tile, which is one run, or 16 bytes per thread along one row
    after the other, which are of one length.  Where lanes are interleaved it goes from line to line
    of the block, along lanes of each column: one run for each line that it begins if the block has
    all lanes, else one for each column.
    """
    begin, (across, _) = memory.ctypes.data, device.threads
    noted = device.noted[(device.noted[:, 0] >= begin)
                         & (device.noted[:, 0] < begin + memory.nbytes)]  # fmt: skip
    touched = defaultdict(list)
    for address, written, block, thread, turn in noted.tolist():
        request = written, block, thread // WARP, turn
        touched[request].append((address - begin) // memory.itemsize)
    assert touched
    for elements in touched.values():
        ends = np.flatnonzero(np.diff(sorted(elements)) != 1)
        runs = 1 + len(ends)
        step = across if lane is None or device.lanes == lane.size else device.lanes
        if lane and not device.lanes:
            step = lane.size
        most = 1 if lane is None else 2 + (WARP - 2) // step
        if len(elements) > WARP:
            longest = int(np.diff([-1, *ends, len(elements) - 1]).max())
            most = 2 + (len(elements) - 2) // longest if longest >= WARP else 0
        yield runs, most


CASES = [
    ("NHW", (3, 70, 161), None),
    ("NHW", (3, 70, 160), (0, 2, 1)),  # the columns of an image of x lie together
    ("HWN", (20, 40, 50), None),
    ("HWN", (20, 40, 7), None),
    ("HWN", (20, 24, 300), None),
    ("NHWC", (2, 20, 24, 64), None),
    ("L", (9000,), None),
    ("NL", (16, 700), None),
    ("LN", (300, 33), None),
    ("NHW", (3, 70, 160), None),  # rows begin on 16 bytes
]


@pytest.mark.parametrize(("layout", "shape", "order"), CASES)
def test_threads_touch_neighbours(layout: str, shape: tuple[int, ...], order: Any) -> None:
    assert scattered(layout, shape, order) == {"x": 0, "y": 0}


@pytest.mark.parametrize(
    ("case", "text", "instead", "where"),
    [
        (0, "walk(call, X_DOWN)", "walk(call, true)", "x"),
        (1, "walk(call, X_DOWN)", "walk(call, false)", "x"),
        (0, "walk(call, Y_DOWN)", "walk(call, true)", "y"),
        (2, "Walk{y, LINES, x, ACROSS}", "Walk{y, LINES, x * 7 % (ACROSS), ACROSS}", "x"),
    ],
)
def test_a_walk_across_memory_is_found(case: int, text: str, instead: str, where: str) -> None:
    def edit(source: str) -> str:
        assert text in source
        return source.replace(text, instead)

    assert scattered(*CASES[case], edit)[where] > 0


@pytest.fixture
def strips_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "WORTH_COMPILING", 0)
    monkeypatch.setattr(tiling, "cycles", lambda *_: float("inf"))


@pytest.mark.usefixtures("strips_only")
@pytest.mark.parametrize("shape", [(20, 40, 50), (20, 30, 17), (12, 24, 300)])
def test_threads_of_strips_touch_neighbours(shape: tuple[int, ...]) -> None:
    assert scattered("HWN", shape, strips=True) == {"x": 0, "y": 0}


@pytest.mark.usefixtures("strips_only")
def test_strips_across_memory_are_found() -> None:
    def edit(source: str) -> str:
        text = "const int lane = position % call.lanes"
        assert source.count(text) == 1
        return source.replace(text, "const int lane = position * 7 % call.lanes")

    assert scattered("HWN", (20, 40, 50), None, edit, strips=True)["x"] > 0


def wasted(
    layout: str, kernel_layout: str, wide: int, edit: Callable[[str], str] = str
) -> list[float]:
    """Sectors that requests for x, and for y, touch beyond those that hold what they are for.

    As a share of these; a row of positions may begin and end within a sector.
    """
    sizes = {"N": 2, "C": 16, "H": 10, "W": 34, "O": 32, "I": 16}
    shape = [sizes[letter] for letter in layout]
    taps = [{"H": 3, "W": 3}.get(letter) or sizes[letter] for letter in kernel_layout]
    x, k = RNG.standard_normal(shape, "f4"), RNG.standard_normal(taps, "f4")
    device = Noting(edit)
    backend = CUDABackend(device)
    backend.methods = (layers.LayerDirect(),)
    keywords: Any = {"layout": layout, "kernel_layout": kernel_layout, "mode": "valid"}
    plan = api.plan_on(backend, "correlate", on_device(x), k, **keywords)
    y = np.asarray(plan(on_device(x)))
    right = reference.expected(x, k, op="correlate", **keywords)
    assert not right.disagreement(y, right.direct)
    found = []
    for memory, together in ((x, wide), (y, 1)):
        begin = memory.ctypes.data
        noted = device.noted[(device.noted[:, 0] >= begin)
                             & (device.noted[:, 0] < begin + memory.nbytes)]  # fmt: skip
        turns: dict[tuple[int, int], int] = defaultdict(int)
        requests: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for address, _, block, thread, _ in noted.tolist():
            turn = turns[block, thread] // together
            turns[block, thread] += 1
            requests[block, thread // WARP, turn].append(address - begin)
        assert requests
        touched = sum(len({address // 32 for address in each}) for each in requests.values())
        found.append(touched / (len(noted) * memory.itemsize / 32) - 1)
    return found


STORED = """const int position = OUTPUTS_NEAR ? e / SHARE : e % BM;
        const int o = OUTPUTS_NEAR ? e % SHARE : e / BM;"""
LAYERS = [("NCHW", "OIHW", 1), ("NHWC", "HWIO", 4)]


@pytest.fixture
def whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 positions and 32 outputs make several whole blocks, so that all threads do the same."""
    monkeypatch.setattr(layers, "choose", lambda *_: layers.Tile(64, 32, 4, 4))


@pytest.mark.usefixtures("whole_blocks")
@pytest.mark.parametrize(("layout", "kernel_layout", "wide"), LAYERS)
def test_threads_of_layers_touch_neighbours(layout: str, kernel_layout: str, wide: int) -> None:
    x, y = wasted(layout, kernel_layout, wide)
    # A row of 32 positions is 4 sectors, or 5; channels begin on sectors.
    assert x <= (0.25 if layout == "NCHW" else 0)
    assert y == 0


@pytest.mark.usefixtures("whole_blocks")
@pytest.mark.parametrize(
    ("case", "text", "instead", "which"),
    [
        (0, "thread % APART;", "thread % APART * 7 % APART;", 0),
        (1, "#define CHANNELS_NEAR 1", "#define CHANNELS_NEAR 0", 0),
        (0, STORED, STORED.replace("OUTPUTS_NEAR", "1"), 1),
        (1, STORED, STORED.replace("OUTPUTS_NEAR", "0"), 1),
    ],
)
def test_layers_across_memory_are_found(case: int, text: str, instead: str, which: int) -> None:
    def edit(source: str) -> str:
        assert source.count(text) == 1
        return source.replace(text, instead)

    assert wasted(*LAYERS[case], edit)[which] > 0.5
