"""Candidates of a plan timed on the problem itself, and the times remembered."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from . import calibration
from .errors import BackendUnavailable
from .plan import Plan
from .planner import NO_TIMES, Row, Times

__all__ = ["times"]

FACTOR = 4.0
"""What is predicted to take longer than this many times the cheapest is not timed: two predictions
that are each right within a factor of 2 are in the right order beyond it."""
MOST = 3
"""Candidates timed."""
SECONDS = 0.1
"""Time spent on each candidate after its first run, unless one run takes longer."""
KEPT = 1000
"""Problems remembered across processes, the newest."""

_lock = threading.Lock()
"""Two plans that are timed at once would be timed against each other."""
_known: dict[tuple[str, str], Times] = {}
"""Times by backend and problem."""


def times(plan: Plan, kernel: Any, x: Any = None) -> Times:
    """Measured seconds of the plan's best candidates, by `Row.name`; remembered ones if there are.

    `x` is not written; images of ones stand for None.  Nothing is timed where there is no choice.
    """
    able = [r for r in plan.rows if plan.wanted in ("auto", r.method.name) and r.refusal is None]
    able.sort(key=lambda row: row.seconds)
    tried = [row for row in able[:MOST] if row.seconds <= FACTOR * able[0].seconds]
    if len(tried) < 2 or 0 in plan.problem.x_shape or 0 in plan.problem.y_shape:
        return NO_TIMES
    key = _key(plan, x, able)
    with _lock:
        found = _known.get((plan.backend.name, key))
        if found is None:
            kept = calibration.read(plan.backend, "times", _parsed, "plans are timed again") or {}
            found = kept.get(key)
            if found is None:
                found = _measured(plan, tried, kernel, x)
                _keep(plan, {**kept, key: found})
            _known[plan.backend.name, key] = found
        return found


def _key(plan: Plan, x: Any, able: Sequence[Row]) -> str:
    """All that the times depend on: the problem, its limits, where and how `x` lies in memory,
    whether it holds NaN or inf (which transforms leave to direct sums), what can compute it."""
    problem, finite = plan.problem, True
    memory: list[str] = []
    if x is not None:
        memory = [str(getattr(x, name, "")) for name in ("device", "strides")]
        memory += [type(x).__module__, getattr(x.dtype, "str", "")]
        if np.dtype(problem.x_dtype).kind in "fc":
            finite = bool(np.isfinite(plan.backend.peak(x, tuple(range(len(x.shape))))))
    asked = [getattr(problem, field.name) for field in fields(problem) if field.compare]
    return repr((asked, plan.limits, memory, finite, sorted(row.name for row in able)))


def _measured(plan: Plan, tried: Sequence[Row], kernel: Any, x: Any) -> Times:
    problem, backend = plan.problem, plan.backend
    like = kernel if x is None else x
    if x is None:
        ones = np.ones(problem.x_shape, np.dtype(problem.x_dtype))
        x = backend.asarray(ones, problem.x_dtype, like)
    runs = {
        row.name: partial(plan.execute, x, row, plan.prepare(row, kernel, like), None)
        for row in tried
    }
    shortest = dict.fromkeys(runs, math.inf)
    for run in runs.values():  # starts threads, compiles, fills caches
        _wait(plan, run())
    end = time.perf_counter() + SECONDS * len(runs)
    while math.inf in shortest.values() or time.perf_counter() < end:
        for name, run in runs.items():
            begin = time.perf_counter()
            _wait(plan, run())
            shortest[name] = min(shortest[name], time.perf_counter() - begin)
    return shortest


def _wait(plan: Plan, y: Any) -> None:
    """Read one element, for which a device has to have finished."""
    plan.backend.to_numpy(y[(slice(1),) * len(y.shape)])


def _parsed(content: Any) -> dict[str, Times]:
    found: dict[str, Times] = {
        key: {(str(method), str(note)): float(seconds) for method, note, seconds in rows}
        for key, rows in content.items()
    }
    if not all(seconds > 0 for rows in found.values() for seconds in rows.values()):
        raise ValueError("a time is not a positive number")
    return found


def _keep(plan: Plan, known: dict[str, Times]) -> None:
    """For other processes, if there is a folder that can be written."""
    newest = list(known.items())[-KEPT:]
    content = {key: [[*name, s] for name, s in times.items()] for key, times in newest}
    with contextlib.suppress(BackendUnavailable, OSError):
        calibration.write(plan.backend, "times", content)
