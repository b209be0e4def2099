"""The suites by name: which runs what, and how far a quick run goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from . import gpu
from .busy import run_busy
from .cases import GPU, Case, cases
from .cases import SUITES as CASES
from .machine import fingerprint, roofline
from .measure import Budget
from .regret import problems, run_problem
from .results import Record
from .run import BUDGETS, GPU_BUDGETS, run_case

__all__ = ["NAMES", "Step", "run", "steps"]

NAMES = (*CASES, "regret")
QUICK = 70.0
"""Seconds after which a quick run starts no further case."""
PLANNER = Budget(0.15, 3, 20)
PROBLEMS = {False: 300, True: 12}
"""Random problems of the planner's suite, in a whole run and in a quick one."""


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of a run that a progress bar counts."""

    suite: str
    label: str
    start: Callable[[], Iterator[Record]]


def steps(names: list[str], workers: int, quick: bool) -> Iterator[Step]:
    """The steps of the suites named, in order."""
    cost: dict[str, float] = {}
    for name in names:
        budget = BUDGETS[quick]
        if name == GPU and (reason := gpu.unavailable()):
            skipped = {"kind": "skipped", "suite": name, "reason": reason}
            yield Step(name, "no GPU", partial(iter, [skipped]))
            continue
        if name == "regret":
            for case in problems(PROBLEMS[quick]):
                yield Step(name, case.name, partial(run_problem, case, workers, PLANNER))
            continue
        found = cases(name, quick)
        if name == GPU:
            budget = GPU_BUDGETS[quick]
            yield Step(name, "compiling kernels", partial(_ahead, found, workers))
        for case in found:
            if name == "busy":
                yield Step(name, case.name, partial(run_busy, case, workers, budget))
                continue
            for threads in thread_counts(workers) if name == "threads" else (workers,):
                yield Step(name, case.name, partial(run_case, case, threads, budget, cost))


def _ahead(found: list[Case], workers: int) -> Iterator[Record]:
    """No record, but what would be compiled between those of the cases."""
    gpu.compile_ahead(found, workers)
    return iter(())


def thread_counts(workers: int) -> list[int]:
    """
    >>> thread_counts(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({min(1 << i, workers) for i in range(workers.bit_length() + 1)})


def run(
    names: list[str], workers: int, quick: bool, tell: Callable[[Step], None] = lambda step: None
) -> Iterator[Record]:
    """The records of the suites named, the machine and its limits first; `tell` hears each step.

    A quick run gives each suite the same time; what it leaves out is a record that says so.
    """
    begin = time.monotonic()
    yield fingerprint(workers)
    yield roofline(workers)
    if GPU in names and not gpu.unavailable():
        yield gpu.roofline()
    left = dict.fromkeys(names, 0)
    todo = steps(names, workers, quick)
    for step in _fairly(todo) if quick else todo:
        if quick and time.monotonic() > begin + QUICK:
            left[step.suite] += 1
        else:
            tell(step)
            yield from step.start()
    for name, count in left.items():
        if count:
            reason = f"the time of a quick run was over before {count} steps"
            yield {"kind": "skipped", "suite": name, "reason": reason}


def _fairly(todo: Iterator[Step]) -> Iterator[Step]:
    """The steps in such an order that every suite has had about the same time."""
    left = {name: deque(group) for name, group in groupby(todo, key=lambda step: step.suite)}
    spent = dict.fromkeys(left, 0.0)
    while left:
        name = min(left, key=lambda name: spent[name])
        begin = time.monotonic()
        yield left[name].popleft()
        spent[name] += time.monotonic() - begin
        if not left[name]:
            del left[name]
