"""Times of contenders taken in turn, with their spread, and the scratch memory of one call."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..memory import free_all_blocks

__all__ = ["Budget", "Timing", "clock", "in_turn", "scratch", "summary", "warmed"]

Call = Callable[[], Any]
Clock = Callable[[Call, int], float]
"""Seconds per call over so many calls."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to measure one contender."""

    seconds: float = 1.0
    """Time that its samples together may take."""
    least: int = 5
    """Samples that are taken even if they take longer."""
    most: int = 50
    sample: float = 2e-3
    """Least length of one sample, in seconds: short calls are repeated within it."""
    patience: float = 10.0
    """A contender whose call takes longer has that call as its only sample, the least number of
    samples being dropped step by step before: a slow peer must not stop the run."""
    again: float = 0.5
    """A very first call that takes longer is not repeated to be timed warm: it is mostly work."""
    rest: float = 0.01
    """Seconds before a sample: threads of another library that wait for work by spinning (OpenMP's
    do for some milliseconds) would take a core from it."""
    warm: float = 0.05
    """A call that takes less is run before each sample too, as often as in it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call: the median and quartiles over `samples`."""

    median: float
    low: float
    high: float
    best: float
    samples: int

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median


def summary(seconds: list[float]) -> Timing:
    """
    >>> summary([1.0, 2.0, 3.0, 4.0, 100.0])
    Timing(median=3.0, low=2.0, high=4.0, best=1.0, samples=5)
    """
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return Timing(float(median), float(low), float(high), min(seconds), len(seconds))


def clock(call: Call, number: int) -> float:
    """Seconds per call over `number` calls, on the processor's clock."""
    begin = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - begin) / number


def warmed(call: Call, timer: Clock, again: float) -> float:
    """Seconds of a call that is not the very first, which starts threads, fills caches, compiles
    kernels; of that one if it takes longer than `again`."""
    first = timer(call, 1)
    return first if first > again else timer(call, 1)


def in_turn(
    calls: Mapping[str, Call], budget: Budget, timer: Clock = clock, first: Mapping[str, float] = {}
) -> dict[str, Timing]:
    """The timing of each call, all of them sampled in turn, in a new order in every round.

    Before each sample the threads of the call before it have time to fall asleep; then a short call
    is run untimed as often as it will be timed, so that it finds the caches, and its own library's
    threads, as a loop of such calls would: whoever has read other memory in between makes the next
    eight calls of 0.15 ms slower.  `first` has the seconds of calls that are warm already.  `timer`
    is `clock`, or a device's.
    """
    seconds = {
        name: first.get(name) or warmed(call, timer, budget.again) for name, call in calls.items()
    }
    number, rounds = {}, {}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        if seconds[name] > budget.patience:
            samples[name], rounds[name], number[name] = [seconds[name]], 0, 1
            continue
        if seconds[name] < budget.sample:
            seconds[name] = timer(call, 3)
        number[name] = max(1, round(budget.sample / max(seconds[name], 1e-9)))
        per_sample = seconds[name] * number[name]
        least = max(2, min(budget.least, int(budget.patience / per_sample)))
        rounds[name] = min(budget.most, max(least, int(budget.seconds / per_sample)))
    order = random.Random(0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(max(rounds.values(), default=0)):
            names = [name for name in calls if turn < rounds[name]]
            order.shuffle(names)
            for name in names:
                time.sleep(budget.rest)
                if seconds[name] < budget.warm:
                    timer(calls[name], number[name])
                samples[name].append(timer(calls[name], number[name]))
            gc.collect(0)
    finally:
        if collecting:
            gc.enable()
    return {name: summary(taken) for name, taken in samples.items()}


def scratch(call: Callable[[], int]) -> int | None:
    """Bytes that a call needs at its peak beyond what it returns; None where unknown.

    `call` returns the bytes of its result.  It is the growth of the process's peak resident
    memory, which Linux lets a process reset, so memory of every library counts: NumPy's,
    OpenCV's, PyTorch's.  Pages that an allocator kept from earlier calls are given back first.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc: Any = ctypes.CDLL(ctypes.util.find_library("c"))
        gc.collect()
        free_all_blocks()
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        result = call()
        return max(0, _status("VmHWM") - before - result)
    except (AttributeError, OSError, KeyError):
        return None


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
