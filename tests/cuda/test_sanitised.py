"""The kernels under the sanitizers of addresses and of undefined behaviour, in a process of
their own: no access outside its array, no overflow, no misaligned read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .emulator import COMPILER

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import numpy as np
from tests.cuda.emulator import EmulatedDevice, on_device
from xconv import api, reference
from xconv.backends.cuda import CUDABackend
from xconv.cuda import blocks, direct, launch, layers, passes, tiling
from xconv.cuda.direct import AnyDirect, TiledDirect
from xconv.cuda.transforms import CuFFT, SeparablePasses

OPTIONS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
direct.WORTH_COMPILING = passes.WORTH_COMPILING = 0
if {broken!r}:
    intact = launch.kernel_source
    edited = lambda *given: intact(*given).replace(*{broken!r})
    for module in (launch, blocks, passes, layers):
        module.kernel_source = edited
rng = np.random.default_rng(3)
shapes = [("NHW", (2, 21, 35)), ("HWN", (13, 12, 9)), ("NL", (3, 50))]
channels = [("NCHW", (2, 12, 7, 9)), ("NCHW", (2, 3, 7, 9)), ("NHWC", (2, 7, 9, 12))]
lanes = [("HWN", (13, 7, 33)), ("HWN", (4, 6, 40))]  # the second narrower than a thread sums
runs = [
    (method, specialise, shapes[: 1 if specialise else 3])
    for specialise in (False, True)
    for method in (TiledDirect(), AnyDirect(), CuFFT())
]
runs += [(SeparablePasses(), False, shapes[:2]), (layers.LayerDirect(), False, channels)]
runs += [("strips", True, lanes)]
for method, specialise, cases in runs:
    device = EmulatedDevice(specialise=specialise, options=OPTIONS)
    backend = CUDABackend(device)
    if method == "strips":
        method, tiling.cycles = TiledDirect(), lambda *_: float("inf")
    backend.methods = (method,)
    for layout, shape in cases:
        k = rng.standard_normal((3, 5)[: len(layout) - 1]).astype("f4")
        more = {{}}
        if "C" in layout:
            more = {{"kernel_layout": "OIHW"}}
            k = rng.standard_normal((19, shape[layout.index("C")], 2, 3)).astype("f4")
        if method.name == "separable":
            k = np.outer(k[0, :3], k[1])
        for keywords in ({{"boundary": "reflect"}}, {{"mode": "valid", "stride": (1, 2)}}):
            if layout == "NL":
                keywords = dict(keywords, **{{"stride": 2}} if "stride" in keywords else {{}})
            keywords = dict(keywords, layout=layout, **more)
            x = np.array(rng.standard_normal(shape), "f4")
            x.flat[3] = np.inf  # a tile that is summed directly
            limit = 1 << 26 if method.name == "direct" else 6_000  # for several tiles
            plan = api.plan_on(
                backend, "convolve", on_device(x), k, max_memory=limit, **keywords
            )
            y = np.asarray(plan(on_device(x), k))
            right = reference.expected(x, k, **keywords)
            c = method.rounding(plan.problem)
            assert not right.disagreement(y, c), (layout, keywords)
print("finished")
"""


def run(broken: tuple[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    assert COMPILER is not None
    sanitizer = subprocess.run(
        [COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(sanitizer):
        pytest.skip(f"{COMPILER} has no libasan.so")
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(root=root, broken=broken)],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "LD_PRELOAD": sanitizer,
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "PYTHONMALLOC": "malloc",
            "OPENBLAS_NUM_THREADS": "1",
        },
    )


pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")


def test_nothing_is_found() -> None:
    finished = run()
    assert finished.stdout.strip() == "finished", finished.stderr[-3000:]


@pytest.mark.parametrize(
    ("text", "instead", "report"),
    [
        ("at >= 0 && at < size", "at >= 0 && at <= size", "heap-buffer-overflow"),
        ("left < most ? static_cast<int>(left) : most", "most", "heap-buffer-overflow"),
        ("return column < left;", "return true;", "heap-buffer-overflow"),
        ("if (step < call.steps) {", "if (true) {", "heap-buffer-overflow"),
        ("at %= 2 * size;", "at %= 0x7fffffff + size;", "signed integer overflow"),
    ],
    ids=[
        "a read past the image",
        "a result past the end",
        "columns past the end",
        "weights past the end",
        "an overflow",
    ],
)
def test_what_is_wrong_is_found(text: str, instead: str, report: str) -> None:
    assert report in run((text, instead)).stderr
