"""Methods → refused with a reason, or priced; the cheapest is taken.  Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from .cost import seconds
from .errors import ArgumentError, MemoryLimitError, MethodRefused, XconvError
from .methods.base import Limits, Method
from .problem import Problem, Work

__all__ = ["Candidate", "Row", "Times", "candidates", "choose", "examined", "price", "table"]

NO_VALUES = "it needs the kernel's values, and the plan was made without them"

NOTHING = Work(())


@dataclass(frozen=True, slots=True)
class Row:
    """A method of a backend's table with its price, or the reason why it is refused."""

    method: Method
    refusal: str | None = None
    memory: bool = False
    """Whether it is refused for want of memory."""
    seconds: float = 0.0
    work: Work = NOTHING
    facts: Any = None
    """What the method found in the kernel's values, once it has examined them."""
    examined: bool = False

    @property
    def name(self) -> tuple[str, str]:
        """Method and note, which tell rows apart, and kernels that one method treats unlike."""
        return self.method.name, self.work.note


Times = Mapping[tuple[str, str], float]
"""Measured seconds by `Row.name`."""
NO_TIMES: Times = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a plan knows of one method: a line of `Plan.explain`."""

    method: str
    """The name that `method=` takes; a backend may have several implementations of one."""
    note: str
    """Which implementation, of which rank, in which tiles."""
    seconds: float | None = None
    """Predicted; None if the method is refused."""
    measured: float | None = None
    """Seconds that it took on this machine, if the plan was tuned and tried it."""
    scratch: int = 0
    """Bytes beyond `x`, the kernel and the result, all workers together."""
    kept: int = 0
    """Bytes that the plan keeps between calls."""
    refusal: str | None = None
    """Why the method cannot be used here."""
    chosen: bool = False
    """Whether it is the one that runs."""


def price(
    problem: Problem, methods: Sequence[Method], rates: Mapping[str, float], limits: Limits
) -> tuple[Row, ...]:
    """Every method of the backend, cheapest first; those that depend on the kernel's values at
    the least they could cost, those that refuse last."""
    rows = [_priced(Row(method), problem, rates, limits) for method in methods]
    return tuple(sorted(rows, key=lambda row: (row.refusal is not None, row.seconds)))


def _priced(row: Row, problem: Problem, rates: Mapping[str, float], limits: Limits) -> Row:
    refusal = row.method.refuses(problem)
    if refusal:
        return replace(row, refusal=refusal)
    try:
        work = row.method.work(problem, limits, row.facts)
    except MemoryLimitError as error:
        return replace(row, refusal=str(error), memory=True)
    return replace(row, work=work, seconds=seconds(work, rates, limits.workers))


def choose(
    rows: Sequence[Row],
    method: str,
    problem: Problem,
    rates: Mapping[str, float],
    limits: Limits,
    examine: Callable[[Method], Any] | None,
    times: Times = NO_TIMES,
) -> tuple[Row, tuple[Row, ...]]:
    """The cheapest row of the name wanted, and all rows with what is now known.

    `examine` looks at the kernel's values for a method; None where there are none.  Of rows with
    measured times the fastest is taken.
    """
    known = {row.method.name for row in rows}
    if method != "auto" and method not in known:
        raise ArgumentError(
            f"method={method!r} is unknown; use "
            + " or ".join(f'"{name}"' for name in ("auto", *sorted(known)))
        )
    found = list(rows)
    while True:
        wanted = [row for row in found if method in ("auto", row.method.name)]
        able = [row for row in wanted if row.refusal is None]
        if not able:
            raise _refused(method, wanted)
        best = min(able, key=lambda row: (row.name not in times, times.get(row.name, row.seconds)))
        if best.examined:
            return best, tuple(found)
        found[found.index(best)] = examined(best, problem, rates, limits, examine)


def examined(
    row: Row,
    problem: Problem,
    rates: Mapping[str, float],
    limits: Limits,
    examine: Callable[[Method], Any] | None,
) -> Row:
    """The row with what the kernel's values tell its method: a refusal, or a new price."""
    method = row.method
    if row.refusal is not None or row.examined:
        return row
    if type(method).examine is Method.examine:
        return replace(row, examined=True)
    if examine is None:
        refusal = NO_VALUES if method.needs_values else None
        return replace(row, refusal=refusal, examined=True)
    facts = examine(method)
    if isinstance(facts, str):
        return replace(row, refusal=facts, examined=True)
    return _priced(replace(row, facts=facts, examined=True), problem, rates, limits)


def _refused(method: str, rows: Sequence[Row]) -> XconvError:
    """What to raise where every row wanted is refused: of memory, if that is a reason."""
    named = {f"{row.method.name}: " * (method == "auto") + str(row.refusal): None for row in rows}
    reasons = "; ".join(named)
    text = (
        f"no method can compute this: {reasons}"
        if method == "auto"
        else f'method="{method}" cannot be used here: {reasons}; '
        'use method="auto", which takes the cheapest method that can'
    )
    return (MemoryLimitError if any(row.memory for row in rows) else MethodRefused)(text)


def candidates(chosen: Row, rows: Sequence[Row], times: Times) -> tuple[Candidate, ...]:
    """The rows as records, the cheapest prediction first, those refused last."""
    return tuple(
        Candidate(row.method.name, row.method.variant, refusal=row.refusal)
        if row.refusal is not None
        else Candidate(
            row.method.name,
            row.work.note,
            row.seconds,
            times.get(row.name),
            row.work.scratch,
            row.work.kept,
            chosen=row.method is chosen.method,
        )
        for row in sorted(rows, key=lambda row: (row.refusal is not None, row.seconds))
    )


def table(candidates: Sequence[Candidate], problem: Problem, limits: Limits) -> str:
    """The candidates as text: what each would cost, and why the others were refused."""
    tuned = any(c.measured is not None for c in candidates)
    measured = f" {'measured':>10}" if tuned else ""
    lines = [
        f"{problem.op} {_form(problem)}",
        f"{'method':<12} {'seconds':>10}{measured} {'scratch':>12} {'kept':>12}",
    ]
    for c in candidates:
        mark = "*" if c.chosen else " "
        if c.seconds is None:
            lines.append(f"{mark}{c.method:<11} refused: {c.refusal}")
            continue
        if tuned:
            measured = f" {'' if c.measured is None else f'{c.measured:.3g}':>10}"
        lines.append(
            f"{mark}{c.method:<11} {c.seconds:>10.3g}{measured} {c.scratch:>12,} {c.kept:>12,}"
            f"  {c.note}"
        )
    if tuned:
        lines.append("tuned: timed on this machine, the fastest is taken")
    lines.append(f"workers {limits.workers}, max_memory {limits.max_memory:,} bytes")
    return "\n".join(lines)


def _form(problem: Problem) -> str:
    return (
        f"x {problem.x_shape} {problem.x_dtype} with kernel {problem.k_shape} {problem.k_dtype} "
        f"-> {problem.y_shape} {problem.dtype}"
    )
