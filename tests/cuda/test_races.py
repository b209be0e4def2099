"""The kernels under ThreadSanitizer: every barrier is there, and needed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xconv import api
from xconv.backends.cuda import CUDABackend
from xconv.cuda import layers
from xconv.cuda.direct import TiledDirect
from xconv.cuda.layers import LayerDirect
from xconv.cuda.transforms import CuFFT

from .emulator import BEHIND, COMPILER, HERE, EmulatedDevice, on_device

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")


TRANSFORMS = [("gather", "NHW"), ("gather", "HWN"), ("scatter", "HWN")]


class Recorder(EmulatedDevice):
    """Keeps the last launch of each kernel instead of running it."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: dict[str, Any] = {}

    def kernel(self, name: str, source: str) -> Any:
        def launch(blocks: int, threads: tuple[int, int], shared: int, argument: bytes) -> None:
            head = blocks, *threads, shared, len(argument)
            self.recorded[name] = source, head, argument

        return launch


def finished(
    folder: Path, *without: str, kernel: str = "tiled", layout: str = "NHW"
) -> subprocess.CompletedProcess[str]:
    """The process that ran one launch, the text given taken out of the kernel."""
    device = Recorder()
    backend = CUDABackend(device)
    backend.methods = (TiledDirect() if kernel == "tiled" else CuFFT(),)
    x = on_device(np.arange(12000, dtype="f4").reshape(20, 20, 30))
    k = on_device(np.ones((3, 3), "f4"))
    y = api.plan_on(backend, "convolve", x, k, boundary="reflect", layout=layout)(x, k)
    # Planes of tiles, and their peaks.
    more = [4 * x.nbytes, 200] if kernel != "tiled" else []
    return sanitised(folder, device.recorded[kernel], without, kernel, [x, y, k], more)


def sanitised(
    folder: Path,
    recorded: Any,
    without: tuple[str, ...],
    kernel: str,
    operands: list[Any],
    more: list[int],
) -> subprocess.CompletedProcess[str]:
    """The process that ran the launch on x, y and w, and on so many further bytes."""
    assert COMPILER is not None
    source, head, argument = recorded
    for text in without:
        assert source.count(text) == 1
        source = source.replace(text, text.replace("__syncthreads();", ""))
    code = '#include "emulator.h"\n' + source + BEHIND % kernel + (HERE / "race.cpp").read_text()
    (folder / "race.cpp").write_text(code)
    build = [COMPILER, "-std=c++17", "-O1", "-g", "-w", "-fsanitize=thread", f"-I{HERE}"]
    built = subprocess.run(
        [*build, "race.cpp", "-o", "race", "-lpthread"], cwd=folder, capture_output=True, text=True
    )
    if "tsan" in built.stderr:
        pytest.skip(f"{COMPILER} has no ThreadSanitizer")
    assert not built.returncode, built.stderr
    x, y, w = operands
    sizes = [x.nbytes, y.nbytes, w.nbytes, *more]
    head = np.array([*head, len(sizes), *sizes], np.uint64)
    (folder / "launch").write_bytes(head.tobytes() + argument + x.tobytes() + w.tobytes())
    ran = subprocess.run(["./race", "launch"], cwd=folder, capture_output=True, text=True)
    if "unexpected memory mapping" in ran.stderr:
        pytest.skip("ThreadSanitizer cannot run with this system's address layout")
    return ran


def finished_layer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *without: str, layout: str = "NCHW"
) -> subprocess.CompletedProcess[str]:
    """As `finished`, of a layer."""
    device = Recorder()
    backend = CUDABackend(device)
    backend.methods = (LayerDirect(),)
    monkeypatch.setattr(layers, "choose", lambda *_: layers.Tile(64, 32, 4, 8))
    arranged: list[Any] = []

    def arrange(*given: Any) -> Any:
        arranged.append(intact(*given))
        return arranged[-1]

    intact = layers.panels
    monkeypatch.setattr(layers, "panels", arrange)
    shape = {"NCHW": (1, 24, 9, 9), "NHWC": (1, 9, 9, 24)}[layout]
    x = on_device(np.arange(24 * 81, dtype="f4").reshape(shape))
    k = on_device(np.ones((24, 24, 2, 2), "f4"))
    y = api.plan_on(backend, "convolve", x, k, layout=layout, kernel_layout="OIHW")(x, k)
    monkeypatch.undo()
    return sanitised(folder, device.recorded["layer"], without, "layer", [x, y, arranged[0]], [])


def test_no_races(tmp_path: Path) -> None:
    ran = finished(tmp_path)
    assert ran.stdout.strip() == "finished", ran.stderr[-3000:]
    assert "data race" not in ran.stderr


@pytest.mark.parametrize(
    "barrier",
    [
        "__syncthreads();\n        load_tile",
        "__syncthreads();\n        const Sum* window",
        "__syncthreads();\n    keep_sums",
        "__syncthreads();\n    store_tile",
    ],
    ids=["before loading", "after loading", "before staging", "after staging"],
)
def test_every_barrier_is_needed(tmp_path: Path, barrier: str) -> None:
    # The sanitizer remembers the last few accesses to each address, so it may miss a race once.
    for _ in range(3):
        report = finished(tmp_path, barrier).stderr
        if "data race" in report:
            return
    pytest.fail(f"no race was found: {report[-3000:]}")


@pytest.mark.parametrize(("kernel", "layout"), TRANSFORMS)
def test_no_races_around_a_transform(tmp_path: Path, kernel: str, layout: str) -> None:
    ran = finished(tmp_path, kernel=kernel, layout=layout)
    assert ran.stdout.strip() == "finished", ran.stderr[-3000:]
    assert "data race" not in ran.stderr


@pytest.mark.parametrize(
    ("kernel", "layout", "barrier"),
    [
        ("gather", "NHW", "__syncthreads();\n    unsigned rest"),
        ("gather", "NHW", "__syncthreads();\n    if (y == 0 && x < WARPS && peaks[x])"),
        ("gather", "HWN", "__syncthreads();\n    const unsigned mine"),
        ("gather", "HWN", "__syncthreads();\n    if (y == 0 && mine"),
        ("scatter", "HWN", "__syncthreads();\n    const unsigned mine"),
    ],
)
def test_every_barrier_around_a_transform_is_needed(
    tmp_path: Path, kernel: str, layout: str, barrier: str
) -> None:
    for _ in range(3):
        report = finished(tmp_path, barrier, kernel=kernel, layout=layout).stderr
        if "data race" in report:
            return
    pytest.fail(f"no race was found: {report[-3000:]}")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_no_races_in_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    ran = finished_layer(tmp_path, monkeypatch, layout=layout)
    assert ran.stdout.strip() == "finished", ran.stderr[-3000:]
    assert "data race" not in ran.stderr


@pytest.mark.parametrize(
    "barrier",
    [
        "__syncthreads();\n#pragma unroll 1\n    for (int step",
        "__syncthreads();\n    }\n#pragma unroll\n    for (int first",
        "if (first) __syncthreads();",
        "__syncthreads();\n        store",
    ],
    ids=["before the first step", "between steps", "before staging", "after staging"],
)
def test_every_barrier_of_layers_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, barrier: str
) -> None:
    for _ in range(25):  # one run in two misses the race of staging
        report = finished_layer(tmp_path, monkeypatch, barrier).stderr
        if "data race" in report:
            return
    pytest.fail(f"no race was found: {report[-3000:]}")
