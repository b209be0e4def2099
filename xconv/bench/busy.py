"""The seed's cases again: alone, beside other libraries' threads, and with a core kept busy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from .cases import Case
from .measure import Budget
from .results import Record
from .run import run_case

__all__ = ["ALONE", "SUFFIX", "run_busy"]

SUFFIX, ALONE = ", one core busy", ", alone"


def run_busy(case: Case, workers: int, budget: Budget) -> Iterator[Record]:
    """xconv alone; a few contenders in turn; the same with a busy neighbour."""
    for record in run_case(replace(case, suite="alone"), workers, budget):
        yield record | {"case": case.record(), "contender": record["contender"] + ALONE}
    yield from run_case(case, workers, budget)
    with neighbour():
        for record in run_case(case, workers, budget):
            yield record | {"contender": record["contender"] + SUFFIX}


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that computes all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
