"""Records as a run would give them, with made-up times, so that no test depends on a machine."""

from __future__ import annotations

import random
from typing import Any

import pytest

import xconv
from xconv.bench.busy import ALONE, SUFFIX
from xconv.bench.cases import SUITES, Case, cases
from xconv.bench.regret import problems
from xconv.bench.run import BACKWARD, COPY, work

RATES = {
    "xconv": 8e10, "xconv direct": 8e10, "xconv fft": 3e10, "scipy.signal.fftconvolve": 1e10,
    "scipy.signal.oaconvolve": 6e9, "scipy.signal.convolve": 9e9, "scipy.ndimage.convolve": 5e8,
    "cv2.filter2D": 2e10, "cv2.sepFilter2D by hand": 4e10, "torch conv2d": 1.5e10,
}  # fmt: skip
"""Made-up operations per second."""

GPU_RATES = {
    "xconv": 2e13, "xconv direct": 2e13, "xconv fft": 8e12, "xconv plan, out=": 2e13,
    "cupyx.scipy.signal.fftconvolve": 4e12, "cupyx.scipy.signal.oaconvolve": 2e12,
    "cupyx.scipy.ndimage.convolve": 2e12, "torch conv2d": 4e12,
    "torch conv2d, batch as channels": 3e12,
}  # fmt: skip


def result(case: Case, contender: str, median: float, spread: float = 0.02, **more: Any) -> Any:
    """A right answer's record with these made-up times."""
    problem = xconv.plan(
        xconv.Spec(case.x, case.dtype), xconv.Spec(case.k, case.k_dtype or case.dtype), case.op,
        **case.options,
    ).problem  # fmt: skip
    seconds = {"median": median, "low": median * (1 - spread), "high": median * (1 + spread),
               "best": median * 0.9, "samples": 9}  # fmt: skip
    return {
        "kind": "result", "case": case.record(), "workers": 2, **work(problem),
        "contender": contender, "ours": contender.startswith("xconv"), "status": "ok",
        "seconds": seconds, "scratch": 1 << 20, "error": 0.5,
    } | more  # fmt: skip


def machine_records() -> list[Any]:
    return [
        {"kind": "machine", "date": "2026-01-01T00:00:00+00:00", "system": "Linux x86_64",
         "cpu": "Made-up processor", "cpu_family": "1/2/3", "instructions": ["avx2", "fma"],
         "caches": ["L1 32K", "L2 512K"], "cpus": 2, "workers": 2, "governor": None,
         "mhz": "2000", "virtual": True, "memory": 1 << 34, "load": [0.1, 0.1, 0.1],
         "python": "3.11.7", "packages": {"numpy": "2.4.6"}, "xconv": "0.1.0", "commit": None,
         "native": "avx2", "gpu": None},
        {"kind": "roofline", "workers": 2, "how": "register multiply-adds",
         "flops": {"float32": 2e11, "float64": 1e11}, "copy": 2e10},
        {"kind": "skipped", "suite": "gpu", "reason": "no CUDA device"},
    ]  # fmt: skip


def gpu_roofline() -> Any:
    card = {"name": "Made-up card", "driver_version": "600.1", "memory.total": "9 MiB",
            "clocks.sm": "1700 MHz", "clocks.max.sm": "1900 MHz"}  # fmt: skip
    return {"kind": "gpu roofline", "how": "register multiply-adds", "card": card, "copy": 4e12,
            "flops": {"float32": 6e13, "float64": 3e13}, "driver": "CUDA 13.0",
            "device 0": "Made-up card, sm_90"}  # fmt: skip


def everything() -> list[Any]:
    """A run of every suite."""
    noise = random.Random(0)
    found = [*machine_records(), gpu_roofline()]
    for suite in SUITES:
        for case in cases(suite):
            for workers in (1, 2) if suite == "threads" else (2,):
                rates = GPU_RATES if case.on_gpu else RATES
                for contender, rate in rates.items():
                    if "plan" in contender and not case.plan:
                        continue
                    fast = rate * noise.uniform(0.7, 1.3) * (2 if case.dtype == "float32" else 1)
                    record = result(case, contender, 1e-5, workers=workers)
                    shape = (min(case.k) / 11) ** 1.7 if "fft" in contender else 1.0
                    median = 2e-5 + record["flops"] / fast / workers / shape
                    found.append(result(case, contender, median, workers=workers))
            refused = {"status": "refused", "reason": "takes one kernel"}
            found.append(found[-1] | {"contender": "dask_image.ndfilters.convolve"} | refused)
            del found[-1]["seconds"]
            if suite == "busy":
                found.append(result(case, "xconv" + SUFFIX, 2 * median))
                found.append(result(case, "xconv" + ALONE, median))
            if suite == "cnn":
                found.append(result(case, BACKWARD, 3 * median, ours=False, status="beside"))
            if case.plan and not case.on_gpu:
                found.append(result(case, "xconv plan, out=", median))
                found.append(result(case, COPY, median, ours=False, status="beside"))
    for case in problems(40):
        direct, fft = noise.uniform(1e-4, 1e-1), noise.uniform(1e-4, 1e-1)
        auto = min(direct, fft) * noise.uniform(0.97, 1.4)
        found.append({
            "kind": "regret", "case": case.record(), "workers": 2, "chosen": "direct",
            "predicted": {"direct": direct * noise.uniform(0.6, 1.8), "fft": fft},
            "seconds": {name: {"median": s} for name, s in
                        (("auto", auto), ("direct", direct), ("fft", fft))},
            "regret": auto / min(direct, fft),
        })  # fmt: skip
    return found


@pytest.fixture(scope="session")
def records() -> list[Any]:
    return everything()


@pytest.fixture(scope="session")
def make() -> Any:
    """`result`, as a fixture."""
    return result
