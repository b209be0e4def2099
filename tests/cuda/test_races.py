"""The kernels under ThreadSanitizer: every barrier is there, and needed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xconv import api
from xconv.backends.cuda import CUDABackend
from xconv.cuda.direct import TiledDirect
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
    assert COMPILER is not None
    device = Recorder()
    backend = CUDABackend(device)
    backend.methods = (TiledDirect() if kernel == "tiled" else CuFFT(),)
    x = on_device(np.arange(12000, dtype="f4").reshape(20, 20, 30))
    k = on_device(np.ones((3, 3), "f4"))
    y = api.plan_on(backend, "convolve", x, k, boundary="reflect", layout=layout)(x, k)
    source, head, argument = device.recorded[kernel]
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
    sizes = [x.nbytes, y.nbytes, k.nbytes]
    if kernel != "tiled":  # planes of tiles, and their peaks
        sizes += [4 * x.nbytes, 200]
    head = np.array([*head, len(sizes), *sizes], np.uint64)
    operands = head.tobytes() + argument + x.tobytes() + k.tobytes()
    (folder / "launch").write_bytes(operands)
    ran = subprocess.run(["./race", "launch"], cwd=folder, capture_output=True, text=True)
    if "unexpected memory mapping" in ran.stderr:
        pytest.skip("ThreadSanitizer cannot run with this system's address layout")
    return ran


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
