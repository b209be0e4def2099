"""`xconv calibrate`: times every method of a backend on this machine and keeps its rates."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median
from typing import Any

import numpy as np

from .. import api, calibration, cost, planner, registry
from ..backends.base import Backend
from ..errors import ArgumentError, MethodRefused
from ..methods.base import Method

__all__ = ["calibrate", "measure"]


@dataclass(frozen=True)
class _Case:
    layout: str
    x_shape: tuple[int, ...]
    k_shape: tuple[int, ...]
    methods: tuple[str, ...] = ("direct", "fft", "separable")
    kernel_layout: str | None = None
    rate: str = ""
    """Kind of a rate: only backends that have it are asked."""
    times: int = 1
    """Copies of the images."""

    def scaled(self, times: int) -> _Case:
        """With so many times the images, if there are several."""
        return replace(self, times=times if "N" in self.layout else 1)

    def operands(self, backend: Backend, dtype: str) -> tuple[Any, np.ndarray]:
        """The backend's image, and a kernel of rank 1, so that no method refuses."""
        values, kernel = self._values(dtype)
        x = backend.from_numpy(values)
        if self.times > 1:  # where they are used, since sending them would take longer than all
            x = backend.namespace(x).concat([x] * self.times, axis=self.layout.index("N"))
        return x, kernel

    def _values(self, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        kind = np.dtype(dtype).kind
        if kind in "biu":
            shapes = (self.x_shape, self.k_shape)
            x, k = (rng.integers(0, 9 if kind != "b" else 1, s, endpoint=True) for s in shapes)
            return x.astype(dtype), k.astype(dtype)
        turn = 1 + 0.5j if kind == "c" else 1.0
        factors = [rng.standard_normal(size) for size in self.k_shape]
        kernel = functools.reduce(np.multiply.outer, factors) * turn
        return (rng.standard_normal(self.x_shape) * turn).astype(dtype), kernel.astype(dtype)


# From one tiny image, where calls cost the most, to what leaves the caches.
_FLOAT = (
    _Case("HW", (24, 24), (5, 5)),
    _Case("NHW", (512, 28, 28), (5, 5)),
    _Case("HWN", (64, 64, 32), (3, 3)),
    _Case("HWN", (100, 100, 16), (11, 11)),
    _Case("NHW", (4, 256, 256), (15, 15)),
    _Case("NHW", (1, 1000, 1000), (5, 5)),
    _Case("NHW", (1, 768, 768), (63, 63), ("fft", "separable")),
    _Case("NL", (64, 4096), (65,)),
    _Case("NL", (4, 100_000), (2001,), ("fft",)),
)
_LAYERS = tuple(
    _Case(layout, x, k, ("direct",), kernel_layout, rate="layer")
    for layout, kernel_layout, x, k in (
        ("NCHW", "OIHW", (1, 32, 28, 28), (64, 32, 3, 3)),
        ("NHWC", "HWIO", (1, 28, 28, 32), (3, 3, 32, 64)),
    )
)
_EXACT = (_Case("NHW", (4, 128, 128), (5, 5), ("direct",)),)
_CASES = [
    *((case, dtype) for dtype in ("float32", "float64") for case in (*_FLOAT, *_LAYERS)),
    *((case, dtype) for dtype in ("complex64", "complex128") for case in _FLOAT[:5]),
    *((case, dtype) for dtype in ("bool", "int8", "int16", "int32", "int64") for case in _EXACT),
]
_PARALLEL = 3e-4
"""Seconds that work takes at least where it is measured with all workers too."""
_THREADS = min(16, os.cpu_count() or 1)
"""In which first calls are made that compile: more would not fit their images into small cards."""


def calibrate(name: str) -> Iterator[str]:
    """Measure a backend, keep its rates, and tell so line by line."""
    known = registry.backends()
    if name not in known:
        raise ArgumentError(f"backend {name!r} is unknown; use one of {', '.join(known)}")
    backend = known[name]
    reason = backend.unavailable()
    if not reason and backend.from_numpy(np.empty(0)) is None:
        reason = "it does not say how to make its arrays from the operands, which are NumPy's"
    if reason:
        raise ArgumentError(f"backend {name!r} cannot be measured: {reason}")
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
        yield (
            f"the machine is busy (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs); "
            "rates measured while it is quiet are better"
        )
    begin = time.perf_counter()
    before = backend.default_rates()
    samples, efficiencies = yield from measure(backend)
    rates = calibration.fit(samples, before) | efficiencies
    yield f"{'rate':<22}{'default':>12}{'measured':>12}"
    used = {n for s in samples for n, _ in (*s.work.amounts, *s.work.serial)} | set(efficiencies)
    yield from (f"{n:<22}{before.get(n, 1.0):>12.3g}{rates[n]:>12.3g}" for n in sorted(used))
    for what, which in (("default", before), ("measured", rates)):
        yield f"within a factor of 2 with the {what} rates: {_share(samples, which):.0%}"
    path = calibration.keep(backend, rates)
    backend.rates = rates
    yield f"{len(samples)} cases in {time.perf_counter() - begin:.1f} s, kept in {path}"


def _share(samples: list[calibration.Sample], rates: Any) -> float:
    """Of the samples, how many are predicted within a factor of 2."""
    ratios = [cost.seconds(s.work, rates, 1) / s.seconds for s in samples]
    return sum(abs(math.log2(ratio)) <= 1 for ratio in ratios) / len(ratios)


def measure(
    backend: Backend,
) -> Generator[str, None, tuple[list[calibration.Sample], dict[str, float]]]:
    """Samples of every method of a backend, and by kind of rate the share of a further worker that
    is gained; meanwhile, line by line, what has been done."""
    samples: list[calibration.Sample] = []
    gains: dict[str, list[float]] = {}
    workers = backend.workers()
    if backend.compiles:
        yield from _compiled(backend)
    for dtype, cases in groupby(_jobs(backend), key=lambda job: job[1]):
        begin, before = time.perf_counter(), len(samples)
        for case, _ in cases:
            operands = case.operands(backend, dtype)
            for method in backend.methods:
                sample = _sample(backend, method, case, operands, 1)
                if sample is None:
                    continue
                samples.append(sample)
                if workers > 1 and dtype == "float32" and sample.seconds > _PARALLEL:
                    together = _sample(backend, method, case, operands, workers)
                    if together is not None:
                        gain = (sample.seconds / together.seconds - 1) / (workers - 1)
                        for kind in {name.partition(".")[0] for name, _ in sample.work.amounts}:
                            gains.setdefault(kind, []).append(min(max(gain, 0.01), 1.0))
        yield f"{dtype}: {len(samples) - before} timed in {time.perf_counter() - begin:.1f} s"
    return samples, {f"{kind}.efficiency": median(found) for kind, found in gains.items()}


def _jobs(backend: Backend) -> Iterator[tuple[_Case, str]]:
    """Every case as it is, and so large that it keeps a worker of the backend busy."""
    kinds = {name.partition(".")[0] for name in backend.rates}
    for case, dtype in _CASES:
        if case.rate and case.rate not in kinds:
            continue
        for one in dict.fromkeys((case, case.scaled(backend.parallel))):
            yield one, dtype


def _compiled(backend: Backend) -> Iterator[str]:
    """Make a first call of every method and case, many at once, since each may compile."""

    def first(case: _Case, dtype: str, method: Method) -> None:
        with contextlib.suppress(Exception):  # it comes again where the call is timed
            x, k = case.operands(backend, dtype)
            plan = _plan(backend, method, case, x, k, 1)
            if plan is not None:
                plan(x, k)

    begin = told = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as pool:
        calls = [
            pool.submit(first, case, dtype, method)
            for case, dtype in _jobs(backend)
            for method in backend.methods
        ]
        for done, _ in enumerate(as_completed(calls), 1):
            now = time.perf_counter()
            if now > told + 1 or done == len(calls):
                told = now
                yield f"compiling: {done} of {len(calls)} first calls, {now - begin:.1f} s"


def _plan(
    backend: Backend, method: Method, case: _Case, x: Any, k: np.ndarray, workers: int
) -> Any:
    """The plan of one method; None where it refuses, or the case is not for it."""
    if method.name not in case.methods:
        return None
    alone = copy.copy(backend)
    alone.methods = (method,)  # type: ignore[misc]  # hides the table of the class
    try:
        return api.plan_on(
            alone, "correlate", x, k, layout=case.layout, kernel_layout=case.kernel_layout,
            mode="valid", method=method.name, workers=workers,
        )  # fmt: skip
    except MethodRefused:
        return None


def _sample(
    backend: Backend,
    method: Method,
    case: _Case,
    operands: tuple[Any, np.ndarray],
    workers: int,
) -> calibration.Sample | None:
    """One method's work and shortest time; None where it refuses."""
    x, k = operands
    plan = _plan(backend, method, case, x, k, workers)
    if plan is None:
        return None
    kernel = k[None, None, None]
    (row,) = planner.price(plan.problem, (method,), backend.rates, plan.limits)
    row = planner.examined(
        row, plan.problem, backend.rates, plan.limits, lambda m: m.examine(plan.problem, kernel)
    )
    if row.refusal is not None:
        return None
    out = plan(x, k)
    seconds = _shortest(
        lambda: backend.seconds(lambda: plan(x, k, out=out)), backend.calibration_seconds
    )
    return calibration.Sample(row.work, seconds)


def _shortest(seconds: Callable[[], float], spent: float) -> float:
    best, end = math.inf, time.perf_counter() + spent
    while best == math.inf or time.perf_counter() < end:
        best = min(best, seconds())
    return best
