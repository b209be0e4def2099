"""The machine as the results name it, and its measured limits."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .measure import clock

__all__ = ["TAINTED", "cpus", "fingerprint", "gpu", "roofline"]

TAINTED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NVPL_BLAS_DEBUG_CPU_TYPE")
"""Settings that make a BLAS pretend to another processor; peers are timed without them."""

INSTRUCTIONS = ("sse4_2", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_tile", "asimd")
PACKAGES = (
    "numpy", "scipy", "opencv-python", "opencv-python-headless", "torch", "dask", "dask-image",
    "cupy-cuda12x", "cupy-cuda13x",
)  # fmt: skip


def fingerprint(workers: int) -> dict[str, Any]:
    """What the figures depend on: processor, threads, libraries, GPU, and the load at the start."""
    import xconv

    return {
        "kind": "machine",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu("model name") or platform.processor(),
        "cpu_family": "/".join(_cpu(name) for name in ("cpu family", "model", "stepping")),
        "instructions": [
            i for i in INSTRUCTIONS if i in (_cpu("flags") or _cpu("Features")).split()
        ],
        "caches": _caches(),
        "cpus": cpus(),
        "workers": workers,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "mhz": _cpu("cpu MHz"),
        "virtual": "hypervisor" in _cpu("flags"),
        "memory": _memory(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "xconv": xconv.__version__,
        "commit": _commit(),
        "native": native_isa(),
        "gpu": gpu(),
    }  # fmt: skip


def cpus() -> int:
    """CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def native() -> Any:
    """xconv's compiled module, or None."""
    try:
        return importlib.import_module("xconv._native")
    except ImportError:
        return None


def native_isa() -> str | None:
    module = native()
    return module.isa() if module else None


def roofline(workers: int, seconds: float = 0.2) -> dict[str, Any]:
    """Measured limits of all workers together: flop/s by dtype, copied bytes/s in memory.

    Multiply-adds held in registers, by xconv's compiled module; without it a matrix product by
    NumPy's BLAS, which is a little below.  A copy counts the bytes read and those written.
    """
    module = native()
    found: dict[str, Any] = {"kind": "roofline", "workers": workers}
    flops = {}
    with ThreadPoolExecutor(workers) as pool:
        for dtype in ("float32", "float64"):
            if module is not None and hasattr(module, "fma_peak"):
                found["how"] = "register multiply-adds"
                parts = pool.map(lambda _: module.fma_peak(dtype, seconds), range(workers))  # noqa: B023
                flops[dtype] = float(sum(parts))
            else:
                found["how"] = "matrix product"
                flops[dtype] = _matrix_product(dtype, seconds)
        found["flops"] = flops
        found["copy"] = _copy(pool, workers, seconds)
    return found


def _matrix_product(dtype: str, seconds: float, n: int = 1024) -> float:
    a = np.ones((n, n), dtype)
    return 2 * n**3 / _least(lambda: np.dot(a, a), seconds)


def _copy(pool: ThreadPoolExecutor, workers: int, seconds: float, nbytes: int = 1 << 27) -> float:
    source = np.ones(nbytes, np.uint8)
    target = np.empty_like(source)
    pieces = list(
        zip(np.array_split(target, workers), np.array_split(source, workers), strict=True)
    )
    least = _least(lambda: list(pool.map(lambda piece: np.copyto(*piece), pieces)), seconds)
    return 2 * nbytes / least


def _least(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of at least ten calls: a limit is what was possible once."""
    end, taken = time.perf_counter() + seconds, [clock(call, 1)]
    while len(taken) < 10 or time.perf_counter() < end:
        taken.append(clock(call, 1))
    return min(taken)


def gpu() -> dict[str, Any] | None:
    """Name, driver, clocks and memory of the first GPU, as nvidia-smi prints them; else None."""
    fields = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem",
              "clocks.max.mem", "power.limit")  # fmt: skip
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    values = lines.stdout.splitlines()[0].split(", ")
    return dict(zip(fields, values, strict=False))


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _cpu(field: str) -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _caches() -> list[str]:
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(str(index / name)) for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return found


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The last commit that changed the package, in the checkout that it is run from; None for an
    installed package."""
    package = Path(__file__).parents[1]
    if not (package.parent / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words, "--", "."]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = "-dirty" if git("status", "--porcelain") else ""
        return git("log", "-1", "--format=%h", "--abbrev=12") + changed
    except (OSError, subprocess.SubprocessError):
        return None
