"""Runs suites: every contender of every case, in turn, checked and timed; yields records."""

from __future__ import annotations

import functools
import gc
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

import xconv

from . import gpu
from .cases import Case, arrays
from .check import Reference, difference
from .contender import Array, Contender, Prepare, Refused, configure
from .measure import Budget, clock, in_turn, scratch, warmed
from .peers import PEERS, ours
from .results import Record

__all__ = ["BUDGETS", "GPU_BUDGETS", "run_case"]

BUDGETS = {False: Budget(0.3, 5, 30, patience=2.0), True: Budget(0.06, 3, 15, patience=0.3)}
"""What a contender may take, in a whole run and in a quick one."""

GPU_BUDGETS = {
    False: Budget(0.03, 5, 10, patience=0.3, again=math.inf, rest=0.0),
    True: Budget(0.02, 3, 6, patience=0.2, again=math.inf, rest=0.0),
}
"""The same on a GPU, whose times vary by few per cent, and which is often rented; a first call
compiles, which says nothing of the next."""

COPY, BACKWARD = "numpy.copyto", "xconv.gradients"
"""No contenders, but what a case's times are set beside: reading the image and writing as much;
both gradients of the convolution."""

TRANSFORMS = ("scipy.signal", "loop of scipy.signal", "cv2.filter2D", "cupyx.scipy.signal")
"""Beginnings of the names of peers that use transforms for large kernels."""

ONLY = {
    "overhead": (),
    "alone": (),
    "busy": ("scipy.signal.fftconvolve", "cv2.filter2D, batch as channels", "torch conv"),
    "threads": ("scipy.signal.fftconvolve", "scipy.ndimage.convolve, threads",
                "cv2.filter2D, threads", "cv2.filter2D, batch as channels", "torch conv"),
}  # fmt: skip
"""The peers of suites that are not a race of all."""


def run_case(
    case: Case, workers: int, budget: Budget, least_cost: dict[str, float] | None = None
) -> Iterator[Record]:
    """One record per contender of the case.

    `least_cost` keeps the least seconds per operation of each contender between cases, or per
    output where taps cost little: a peer that would be far over the budget's patience even so is
    skipped, but not in the first table.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # what is there by now need not be searched again at each contender's scratch
    x, k = arrays(case)
    race = Race(case, x, k, workers, budget, {} if least_cost is None else least_cost)
    configure(workers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peers: their answers are what counts
        contenders, beside = (gpu.contenders, gpu.beside) if case.on_gpu else (_contenders, _beside)
        for name, prepare in contenders(case, race.image, k, workers):
            race.enter(name, functools.partial(prepare, case, race.image, k, workers))
        race.settle()
        race.time(beside(case, race.image, k, race.y_shape, workers))
    yield from race.records.values()


class Race:
    """The contenders of one case: each is tried and judged, then those that are right are timed."""

    def __init__(
        self,
        case: Case,
        x: Array,
        k: Array,
        workers: int,
        budget: Budget,
        least_cost: dict[str, float],
    ) -> None:
        problem = xconv.plan(
            xconv.Spec(x.shape, x.dtype), xconv.Spec(k.shape, k.dtype), case.op, **case.options
        ).problem
        self.image = gpu.move(x) if case.on_gpu else x
        self.k, self.budget, self.least_cost = k, budget, least_cost
        self.timer, self.scratch = (
            (gpu.host_clock if case.host else gpu.clock, gpu.scratch)
            if case.on_gpu
            else (clock, scratch)
        )
        self.y_shape = problem.y_shape
        self.common = {"kind": "result", "case": case.record(), "workers": workers} | work(problem)
        self.right = Reference(case, x, k, problem.padding)
        self.whole: Array | None = None
        """The first answer that agrees with the reference: xconv's, unless it is wrong."""
        self.records: dict[str, Record] = {}
        self.runnable: dict[str, Contender] = {}
        self.first: dict[str, float] = {}

    def enter(self, name: str, prepare: Callable[[], Contender]) -> None:
        """Run a contender once and judge its answer; a failure is a record with its reason."""
        record: Record = self.common | {"contender": name, "ours": name.startswith("xconv")}
        self.records[name] = record
        amount = record["outputs" if name.startswith(TRANSFORMS) else "flops"]
        least = self.least_cost.get(name, 0.0) * amount
        may_skip = not record["ours"] and record["case"]["suite"] != "seed"
        if may_skip and least > 2 * self.budget.patience:
            record |= {"status": "skipped", "reason": f"would take {least:.1f} s or more"}
            return
        try:
            contender = prepare()
            record["contender"] = contender.name
            seconds, y = self._once(contender)
            cost = seconds / amount
            self.least_cost[name] = min(self.least_cost.get(name, cost), cost)
            wrong = self._judged(contender.result(y), record)
            del y
            if wrong:
                record |= {"status": "wrong", "reason": wrong}
                return
            if seconds < self.budget.patience:
                record["scratch"] = self.scratch(lambda: _bytes(contender))
            self.runnable[name], self.first[name] = contender, seconds
        except (Refused, xconv.MethodRefused) as error:
            record |= {"status": "refused", "reason": str(error)}
        except Exception as error:  # a peer's failure is a result
            reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200]
            record |= {"status": "failed", "reason": reason}

    def _once(self, contender: Contender) -> tuple[float, Any]:
        """Seconds of a call that is warm, and its answer."""
        kept: list[Any] = []

        def call() -> None:
            kept.clear()
            kept.append(contender.run())

        return warmed(call, self.timer, self.budget.again), kept.pop()

    def _judged(self, answer: Array, record: Record) -> str:
        """What is wrong with an answer in the corners; how far it is from the first in full."""
        wrong = self.right.disagreement(answer)
        if answer.shape == self.y_shape:
            record["error"] = self.right.error(answer)
        if not wrong and self.whole is None:
            self.whole = answer
        elif not wrong and self.whole is not None:
            record["difference"] = difference(answer, self.whole, self.k, self.image)
        return wrong

    def settle(self) -> None:
        """Answers that agree with the reference in its corners but not with each other in full:
        the minority is wrong."""
        limit = 4 * self.right.limit
        apart = {name: self.records[name].get("difference", 0.0) for name in self.runnable}
        outliers = [name for name, value in apart.items() if value > limit]
        if 2 * len(outliers) > len(apart):
            outliers = [name for name in apart if name not in outliers]
        for name in outliers:
            reason = (
                f"differs from the other answers by {max(apart.values()):.3g} units of rounding"
            )
            self.records[name] |= {"status": "wrong", "reason": reason}
            del self.runnable[name]

    def time(self, beside: dict[str, Callable[[], Any]]) -> None:
        """Time the contenders that are right in turn, and what their times are set beside."""
        for name in beside:
            self.records[name] = self.common | {"contender": name, "ours": False}
        calls = {name: contender.run for name, contender in self.runnable.items()} | beside
        for name, timing in in_turn(calls, self.budget, self.timer, self.first).items():
            record = self.records[name]
            record |= {"status": "beside" if name in beside else "ok", "seconds": asdict(timing)}
            copies = self.runnable[name].copies if name in self.runnable else None
            if copies:
                few = replace(self.budget, seconds=self.budget.seconds / 4, least=3, most=10)
                timings = in_turn({"copies": copies}, few, self.timer)
                record["copy_seconds"] = timings["copies"].median


def _contenders(case: Case, x: Array, k: Array, workers: int) -> Iterator[tuple[str, Prepare]]:
    yield from ours(case, x, k, workers)
    for name in ONLY.get(case.suite, PEERS):
        yield name, PEERS[name]


def _beside(
    case: Case, x: Array, k: Array, y_shape: tuple[int, ...], workers: int
) -> dict[str, Callable[[], Any]]:
    calls: dict[str, Callable[[], Any]] = {}
    if case.plan:
        calls[COPY] = functools.partial(np.copyto, x.copy(), x)
    if case.suite == "cnn":
        upstream = np.ones(y_shape, x.dtype)
        calls[BACKWARD] = functools.partial(
            xconv.gradients, x, k, upstream, op=case.op, workers=workers, **case.options
        )
    return calls


def _bytes(contender: Contender) -> int:
    y = contender.run()
    parts = y if isinstance(y, list) else [y]
    return sum(int(part.nbytes) for part in parts)


def work(problem: Any) -> Record:
    """Floating-point operations of the direct method, and bytes that any method must move."""
    complexity = 4 if problem.dtype.startswith("complex") else 1
    outputs = int(np.prod(problem.y_shape))
    sizes = ((problem.x_shape, problem.x_dtype), (problem.y_shape, problem.dtype))
    return {
        "flops": 2 * complexity * outputs * problem.taps,
        "bytes": sum(int(np.prod(s)) * np.dtype(d).itemsize for s, d in sizes),
        "outputs": outputs,
    }
