"""Methods → refused with a reason, or priced; the cheapest is taken.  Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .cost import seconds
from .errors import ArgumentError, MemoryLimitError, MethodRefused
from .methods.base import Limits, Method
from .problem import Problem, Work

__all__ = ["Candidate", "choose", "examined", "price", "table"]

NO_VALUES = "it needs the kernel's values, and the plan was made without them"


NOTHING = Work(())


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method with its price, or the reason why it is refused."""

    method: Method
    refusal: str | None = None
    seconds: float = 0.0
    work: Work = NOTHING
    facts: Any = None
    """What the method found in the kernel's values, once it has examined them."""
    examined: bool = False


def price(
    problem: Problem, methods: Sequence[Method], rates: Mapping[str, float], limits: Limits
) -> tuple[Candidate, ...]:
    """Every method of the backend, cheapest first; those that depend on the kernel's values at
    the least they could cost, those that refuse last."""
    candidates = [_priced(Candidate(method), problem, rates, limits) for method in methods]
    return tuple(sorted(candidates, key=lambda c: (c.refusal is not None, c.seconds)))


def _priced(
    candidate: Candidate, problem: Problem, rates: Mapping[str, float], limits: Limits
) -> Candidate:
    refusal = candidate.method.refuses(problem)
    if refusal:
        return replace(candidate, refusal=refusal)
    try:
        work = candidate.method.work(problem, limits, candidate.facts)
    except MemoryLimitError as error:
        return replace(candidate, refusal=str(error))
    return replace(candidate, work=work, seconds=seconds(work, rates, limits.workers))


def choose(
    candidates: Sequence[Candidate],
    method: str,
    problem: Problem,
    rates: Mapping[str, float],
    limits: Limits,
    examine: Callable[[Method], Any] | None,
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The cheapest candidate of the name wanted, and all candidates with what is now known.

    `examine` looks at the kernel's values for a method; None where there are none.
    """
    known = {c.method.name for c in candidates}
    if method != "auto" and method not in known:
        raise ArgumentError(
            f"method={method!r} is unknown; use "
            + " or ".join(f'"{name}"' for name in ("auto", *sorted(known)))
        )
    rows = list(candidates)
    while True:
        wanted = [c for c in rows if method in ("auto", c.method.name) and c.refusal is None]
        if not wanted:
            raise _refused(method, rows)
        best = min(wanted, key=lambda c: c.seconds)
        if best.examined:
            return best, tuple(rows)
        rows[rows.index(best)] = examined(best, problem, rates, limits, examine)


def examined(
    candidate: Candidate,
    problem: Problem,
    rates: Mapping[str, float],
    limits: Limits,
    examine: Callable[[Method], Any] | None,
) -> Candidate:
    """The candidate with what the kernel's values tell its method: a refusal, or a new price."""
    method = candidate.method
    if candidate.refusal is not None or candidate.examined:
        return candidate
    if type(method).examine is Method.examine:
        return replace(candidate, examined=True)
    if examine is None:
        refusal = NO_VALUES if method.needs_values else None
        return replace(candidate, refusal=refusal, examined=True)
    facts = examine(method)
    if isinstance(facts, str):
        return replace(candidate, refusal=facts, examined=True)
    return _priced(replace(candidate, facts=facts, examined=True), problem, rates, limits)


def _refused(method: str, rows: Sequence[Candidate]) -> Exception:
    reasons = {c.method.name: c.refusal for c in rows if method in ("auto", c.method.name)}
    if method != "auto":
        return MethodRefused(
            f'method="{method}" cannot be used here: {reasons[method]}; '
            'use method="auto", which takes the cheapest method that can'
        )
    return MemoryLimitError("; ".join(f"{name}: {why}" for name, why in reasons.items()))


def table(
    chosen: Candidate, candidates: Sequence[Candidate], problem: Problem, limits: Limits
) -> str:
    """The candidates as text: what each would cost, and why the others were refused."""
    lines = [
        f"{problem.op} {_form(problem)}",
        f"{'method':<12} {'seconds':>10} {'scratch':>12} {'kept':>12}",
    ]
    for c in sorted(candidates, key=lambda c: (c.refusal is not None, c.seconds)):
        mark = "*" if c.method is chosen.method else " "
        if c.refusal is not None:
            lines.append(f"{mark}{c.method.name:<11} refused: {c.refusal}")
            continue
        lines.append(
            f"{mark}{c.method.name:<11} {c.seconds:>10.3g} {c.work.scratch:>12,} "
            f"{c.work.kept:>12,}  {c.work.note}"
        )
    lines.append(f"workers {limits.workers}, max_memory {limits.max_memory:,} bytes")
    return "\n".join(lines)


def _form(problem: Problem) -> str:
    return (
        f"x {problem.x_shape} {problem.x_dtype} with kernel {problem.k_shape} {problem.k_dtype} "
        f"-> {problem.y_shape} {problem.dtype}"
    )
