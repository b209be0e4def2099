"""The seed's cases again while another process keeps one core busy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .cases import Case
from .measure import Budget
from .results import Record
from .run import run_case

__all__ = ["SUFFIX", "run_busy"]

SUFFIX = ", one core busy"


def run_busy(case: Case, workers: int, budget: Budget) -> Iterator[Record]:
    """The records of a few contenders, quiet, and again with a busy neighbour."""
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
