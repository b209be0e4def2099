"""The planner put to the test: random problems, "auto" against every method, predicted against
measured seconds."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

import xconv

from .cases import Case, arrays
from .measure import Budget, in_turn
from .results import Record

__all__ = ["problems", "run_problem"]

PRODUCTS = 3e9
"""Most multiply-adds of a problem, and BYTES of its image: about a second of direct work."""
BYTES = 1 << 25
HOPELESS = 20.0
"""A method predicted to take this many times the chosen one's seconds is not timed."""


def problems(count: int, seed: int = 20261126) -> list[Case]:
    """Random problems: one to three axes, both dtypes, all layouts, K 2 to 255, N 1 to 10,000.

    The planner's default rates for AVX-512 were fitted to those of another seed, 20261124.

    >>> [p.x for p in problems(2)] == [p.x for p in problems(3)][:2]
    True
    """
    random = np.random.default_rng(seed)
    found: dict[str, Case] = {}
    while len(found) < count:
        case = _problem(random)
        if case:
            found[case.name] = case
    return list(found.values())


def _problem(random: np.random.Generator) -> Case | None:
    dims = int(random.choice([1, 2, 2, 3]))
    letters = "DHW"[-dims:]
    top = {1: 255, 2: 255, 3: 31}[dims]
    k = [round(2 * (top / 2) ** random.random())] * dims
    if random.random() < 0.2:
        k = [round(2 * (top / 2) ** random.random()) for _ in range(dims)]
    largest = {1: 200_000, 2: 1500, 3: 128}[dims]
    size = [round(max(k) * (largest / max(k)) ** random.random()) for _ in range(dims)]
    n = round(10_000 ** random.random())
    dtype = str(random.choice(["float32", "float64"]))
    mode = str(random.choice(["valid", "same", "full"]))
    gaussian = dims > 1 and random.random() < 0.25
    order = str(random.choice(["first", "last", "middle"]))
    outputs = n * math.prod(s + t - 1 for s, t in zip(size, k, strict=True))
    if outputs * math.prod(k) > PRODUCTS or outputs * np.dtype(dtype).itemsize > BYTES:
        return None
    layout = {"first": "N" + letters, "last": letters + "N",
              "middle": letters[0] + "N" + letters[1:]}[order]  # fmt: skip
    sizes = dict(zip(letters, size, strict=True)) | {"N": n}
    return Case(
        "regret", tuple(sizes[a] for a in layout), tuple(k), layout, letters, dtype, mode=mode,
        values="gaussian" if gaussian else "random", forced=True,
    )  # fmt: skip


def run_problem(case: Case, workers: int, budget: Budget) -> Iterator[Record]:
    """The record of one problem: what was chosen, each method's predicted and measured time."""
    x, k = arrays(case)
    options = case.options | {"workers": workers}
    plan = xconv.plan(x, k, **options)
    predicted: dict[str, float] = {}
    for row in plan.candidates:
        if row.seconds is not None:
            predicted.setdefault(row.method, row.seconds)  # the first of a name is what runs
    chosen = plan.method
    calls: dict[str, Any] = {"auto": lambda: xconv.convolve(x, k, **options)}
    for name, seconds in predicted.items():
        if seconds <= HOPELESS * predicted[chosen]:
            calls[name] = functools.partial(xconv.convolve, x, k, method=name, **options)
    timings = in_turn(calls, budget)
    best = min(t.median for name, t in timings.items() if name != "auto")
    yield {
        "kind": "regret",
        "case": case.record(),
        "workers": workers,
        "chosen": chosen,
        "predicted": predicted,
        "seconds": {name: asdict(t) for name, t in timings.items()},
        "regret": timings["auto"].median / best,
    }
