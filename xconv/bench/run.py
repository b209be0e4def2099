"""Runs suites: every contender of every case, in turn, checked and timed; yields records."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

import xconv

from . import gpu
from .cases import Case, arrays
from .check import Reference, difference
from .contender import Array, Contender, Prepare, Refused, configure
from .measure import Budget, clock, in_turn, scratch
from .peers import PEERS, ours
from .results import Record

__all__ = ["BUDGETS", "run_case"]

BUDGETS = {False: Budget(0.4, 5, 30, patience=5.0), True: Budget(0.06, 3, 15, patience=0.3)}
"""What a contender may take, in a whole run and in a quick one."""

COPY, BACKWARD = "numpy.copyto", "xconv.gradients"
"""No contenders, but what a case's times are set beside: reading the image and writing as much;
both gradients of the convolution."""

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

    `least_cost` keeps the least seconds per operation of each contender between cases: a peer
    that would be far over the budget's patience even so is skipped.
    """
    least_cost = {} if least_cost is None else least_cost
    device = gpu if case.suite == "gpu" else None
    x, k = arrays(case)
    problem = xconv.plan(
        xconv.Spec(x.shape, x.dtype), xconv.Spec(k.shape, k.dtype), case.op, **case.options
    ).problem
    common = {"kind": "result", "case": case.record(), "workers": workers}
    common |= work(problem)
    right = Reference(case, x, k, problem.padding)
    image, kernel = device.move(x, k) if device else (x, k)
    configure(workers)
    runnable: dict[str, Contender] = {}
    found: dict[str, Record] = {}
    first: dict[str, float] = {}
    whole: Array | None = None
    contenders = (device.contenders if device else _contenders)(case, image, kernel, workers)
    for name, prepare in contenders:
        record: Record = common | {"contender": name, "ours": name.startswith("xconv")}
        found[name] = record
        least = least_cost[name] * record["flops"] if (name in least_cost) else 0.0
        if least > 2 * budget.patience and not record["ours"]:
            record |= {"status": "skipped", "reason": f"would take {least:.0f} s or more"}
            continue
        try:
            contender = prepare(case, image, kernel, workers)
            record["contender"] = contender.name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of peers: recorded as what the answer shows
                seconds, y = _once(contender)
            cost = seconds / record["flops"]
            least_cost[name] = min(least_cost.get(name, cost), cost)
            answer = contender.result(y)
            wrong = right.disagreement(answer)
            record["error"] = right.error(answer) if answer.shape == problem.y_shape else None
            if whole is None and not wrong:
                whole = answer
            elif not wrong and whole is not None:
                apart = difference(answer, whole, k, x)
                record["difference"] = apart
                if apart > 4 * right.limit:
                    wrong = f"differs from xconv by {apart:.3g} units of rounding"
            if wrong:
                record |= {"status": "wrong", "reason": wrong, "once": seconds}
                continue
            del y, answer
            if seconds < budget.patience:
                record["scratch"] = (device.scratch if device else scratch)(
                    lambda: _bytes(contender)  # noqa: B023
                )
            runnable[name], first[name] = contender, seconds
        except Refused as error:
            record |= {"status": "refused", "reason": str(error)}
        except xconv.MethodRefused as error:
            record |= {"status": "refused", "reason": str(error)}
        except Exception as error:  # a peer's failure is a result
            reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200]
            record |= {"status": "failed", "reason": reason}
    timer = device.clock if device else clock
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calls: dict[str, Any] = {n: c.run for n, c in runnable.items()}
        for name, call in _beside(case, x, k, problem.y_shape, workers).items():
            calls[name] = call
            found[name] = common | {"contender": name, "ours": False}
        timings = in_turn(calls, budget, timer, first)
        for name, timing in timings.items():
            found[name] |= {"status": "ok" if name in runnable else "beside"}
            found[name]["seconds"] = asdict(timing)
            copies = runnable[name].copies if name in runnable else None
            if copies:
                spent = in_turn({"copies": copies}, Budget(budget.seconds / 4, 3, 10))["copies"]
                found[name]["copy_seconds"] = spent.median
    yield from found.values()


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


def _once(contender: Contender) -> tuple[float, Any]:
    """Seconds of the first call that is not the very first, and its answer.

    The very first call starts threads and fills caches; a slow one is not repeated for that.
    """
    kept: list[Any] = []
    seconds = clock(lambda: kept.append(contender.run()), 1)
    if seconds < 0.5:
        kept.clear()
        seconds = clock(lambda: kept.append(contender.run()), 1)
    return seconds, kept[-1]


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
