"""The suite of the GPU with NumPy in CuPy's place: who takes part, and how it is timed."""

from __future__ import annotations

import dataclasses
import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import xconv
from xconv.bench import gpu, results, run, suites, tables
from xconv.bench.cases import Case
from xconv.bench.contender import Contender
from xconv.bench.measure import Budget

BUDGET = Budget(seconds=1e-3, least=2, most=2, sample=1e-5, again=np.inf, rest=0.0)
CASE = Case("gpu", (20, 17, 4), (5, 3), "HWN", "HW", forced=True, plan=True)
PEERS = {
    "cupyx.scipy.signal.fftconvolve", "cupyx.scipy.signal.oaconvolve",
    "cupyx.scipy.ndimage.convolve", "torch conv2d", "torch conv2d, batch as channels",
}  # fmt: skip


class Event:
    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass


@pytest.fixture
def cupy(monkeypatch):
    """A module that says it is CuPy with one device, and the host's PyTorch as if on it."""
    fake = ModuleType("cupy")
    fake.ndarray = type("NoArray", (), {})
    for name in ("asarray", "empty", "zeros", "copyto"):
        setattr(fake, name, getattr(np, name))
    fake.synchronised = 0

    def synchronise():
        fake.synchronised += 1

    fake.cuda = SimpleNamespace(
        Event=Event,
        get_elapsed_time=lambda begin, end: 1e3 * (end.at - begin.at),
        runtime=SimpleNamespace(getDeviceCount=lambda: 1, deviceSynchronize=synchronise),
    )
    fake.get_default_memory_pool = lambda: SimpleNamespace(
        free_all_blocks=lambda: None, total_bytes=lambda: 0
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    for name, module in (("signal", scipy.signal), ("ndimage", scipy.ndimage)):
        monkeypatch.setitem(sys.modules, f"cupyx.scipy.{name}", module)
    for name in ("cupyx", "cupyx.scipy"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    torch_cuda = SimpleNamespace(
        empty_cache=lambda: None, reset_peak_memory_stats=lambda: None,
        memory_allocated=lambda: 0, max_memory_allocated=lambda: 0,
    )  # fmt: skip
    monkeypatch.setattr(gpu, "_torch_cuda", lambda: torch_cuda)
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    return fake


@pytest.mark.parametrize(
    "case",
    [
        CASE,
        dataclasses.replace(CASE, layout="NHW", x=(4, 20, 17), dtype="float64", mode="same"),
        Case("gpu", (4, 20, 17), (5, 3), "NHW", "HW", "uint8", "float32", mode="same",
             boundary="mirror"),
        Case("gpu", (2, 11, 12, 13), (3, 3, 3), "NDHW", "DHW", mode="same"),
        Case("gpu", (2, 6, 14, 15), (4, 6, 3, 3), "NCHW", "OIHW", out_layout="NOHW",
             op="correlate", mode="same"),
        Case("gpu", (2, 14, 15, 6), (3, 3, 6, 4), "NHWC", "HWIO", out_layout="NHWO",
             op="correlate", mode="same"),
        Case("gpu", (8, 8), (3, 3), "HW", "HW", plan=True, host=True),
    ],
    ids=lambda case: case.name,
)  # fmt: skip
def test_every_contender_is_right_or_refuses(cupy, case):
    records = {r["contender"]: r for r in run.run_case(case, 2, BUDGET)}
    statuses = {name: (r["status"], r.get("reason")) for name, r in records.items()}
    assert statuses["xconv"] == ("ok", None)
    assert {s for s, _ in statuses.values()} <= {"ok", "refused", "beside"}, statuses
    assert sum(s == "ok" for s, _ in statuses.values()) >= 3, statuses
    if case == CASE:
        right = {name for name, (status, _) in statuses.items() if status == "ok"}
        assert right >= PEERS | {"xconv direct", "xconv fft", "xconv plan, out="}
        assert statuses[gpu.COPY] == ("beside", None)
        assert records["torch conv2d"]["copy_seconds"] > 0  # from images in the last axis


def test_the_hosts_time_does_not_wait_for_the_device(cupy):
    """But between samples, so that no queue of the device fills."""
    assert gpu.host_clock(lambda: cupy.cuda.runtime.deviceSynchronize(), 3) > 0
    assert cupy.synchronised == 3 + 2


def test_compiling_is_not_timed(cupy, monkeypatch):
    """Neither ours nor a peer's; a first call is no reason to leave a contender out."""
    compiled = set()

    def compiles(name):
        def call():
            if name not in compiled:
                compiled.add(name)
                time.sleep(0.05)
            return xconv.convolve(x, k, **case.options)

        return lambda *_: Contender(name, call)

    case = dataclasses.replace(CASE, forced=False, plan=False)
    x, k = run.arrays(case)
    names = ("xconv", "peer")
    monkeypatch.setattr(gpu, "contenders", lambda *_: [(n, compiles(n)) for n in names])
    cost = {}
    budget = dataclasses.replace(BUDGET, patience=0.02)
    records = list(run.run_case(case, 1, budget, cost))
    assert [r["status"] for r in records] == ["ok", "ok"]
    assert all(r["seconds"]["samples"] == 2 and r["seconds"]["high"] < 0.05 for r in records)
    assert all(cost[r["contender"]] * r["flops"] < 0.05 for r in records)


def test_a_run_has_the_cards_limits_and_compiles_first(cupy, monkeypatch):
    seen = []
    monkeypatch.setattr(gpu, "roofline", lambda: {"kind": "gpu roofline"})
    monkeypatch.setattr(gpu, "compile_ahead", lambda cases, threads: seen.append("compiled"))
    monkeypatch.setattr(suites, "cases", lambda name, quick: [CASE])
    for record in suites.run(["gpu"], 1, quick=True):
        seen.append(record["kind"])
    assert seen[:4] == ["machine", "roofline", "gpu roofline", "compiled"]
    assert set(seen[4:]) == {"result"}


def test_what_compiles_ahead_is_what_will_run(cupy, monkeypatch):
    calls = []
    monkeypatch.setattr(xconv, "convolve", lambda x, k, **options: calls.append((x.shape, options)))
    images = []
    monkeypatch.setattr(scipy.ndimage, "convolve", lambda x, k, **_: images.append(x.shape))
    gpu.compile_ahead([CASE, Case("gpu", (9, 9), (4, 4), "HW", "HW")], 2)
    assert sorted(calls, key=str) == [
        ((20, 17, 4), CASE.options | {"method": "direct"}),
        ((9, 9), {"layout": "HW", "kernel_layout": "HW", "mode": "valid", "method": "direct"}),
    ]
    assert images == [(5, 3, 1)]  # which refuses kernels of even size


def test_a_report_of_the_gpu_alone(records, make):
    limits = results.limits_of(records, gpu=True)
    cpu = results.limits_of(records, gpu=False)
    case = dataclasses.replace(CASE, x=(1000, 1000, 50), k=(3, 3))
    result = make(case, "xconv direct", 1.0)
    seconds = 2 * result["bytes"] / limits["copy"]  # which bounds it, rather than the arithmetic
    found = [records[0], cpu, limits, make(case, "xconv direct", seconds),
             make(case, "xconv", seconds), make(case, "torch conv2d", seconds / 2)]  # fmt: skip
    text = tables.markdown(found)
    assert "measured limits of the CPU: 200 GFLOP/s float32" in text
    assert "measured limits of the GPU: 60000 GFLOP/s float32" in text
    assert "GPU: Made-up card, driver 600.1, 9 MiB, SM clock 1700 MHz of 1900 MHz" in text
    assert "## The first table on the GPU" in text
    (line,) = [line for line in text.splitlines() if "| xconv direct |" in line]
    assert "| GPU | xconv direct |" in line
    assert "| 50% |" in line
    assert "| GPU | " in tables.losses(found)
