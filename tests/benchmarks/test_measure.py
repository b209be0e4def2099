"""Timing: the statistics, the turns, the budget, and scratch memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xconv.bench.measure import Budget, in_turn, scratch, summary, warmed


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=60))
def test_summary_is_numpys_percentiles(seconds):
    timing = summary(seconds)
    # Interpolation may round differently by one place of the largest sample.
    near = 2 * np.finfo(float).eps * max(seconds)
    assert abs(timing.median - np.median(seconds)) <= near
    assert abs(timing.low - np.quantile(seconds, 0.25)) <= near
    assert abs(timing.high - np.quantile(seconds, 0.75)) <= near
    assert timing.best == min(seconds)
    assert timing.samples == len(seconds)


def test_spread_is_half_the_distance_of_the_quartiles():
    assert summary([9.0, 10.0, 10.0, 10.0, 11.0]).spread == 0
    assert summary([8.0, 9.0, 10.0, 11.0, 12.0]).spread == pytest.approx(0.1)


class Device:
    """A clock on which every call takes what `seconds` says, and the calls that it saw."""

    def __init__(self, seconds):
        self.seconds, self.seen = seconds, []

    def calls(self):
        return {name: lambda name=name: self.seen.append(name) for name in self.seconds}

    def clock(self, call, number):
        call()
        return self.seconds[self.seen[-1]]


def test_contenders_are_sampled_in_turn():
    device = Device({"a": 0.01, "b": 0.01, "c": 0.01})
    timings = in_turn(
        device.calls(), Budget(seconds=0.06, least=3, rest=0.0, warm=0.0), device.clock
    )
    assert {t.samples for t in timings.values()} == {6}
    rounds = [device.seen[i : i + 3] for i in range(6, len(device.seen), 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1, "the order is always the same"


def test_budget_bounds_the_samples():
    device = Device({"short": 1e-4, "long": 3.0, "hopeless": 20.0})
    budget = Budget(seconds=1.0, least=5, most=50, sample=2e-3, patience=10.0)
    timings = in_turn(device.calls(), budget, device.clock)
    assert timings["short"].samples == 50
    assert timings["long"].samples == 3  # fewer than `least`, within the patience
    assert timings["hopeless"].samples == 1  # its first call
    assert device.seen.count("hopeless") == 1


@pytest.mark.parametrize(("compiling", "again", "told"), [(0.4, 0.5, 1e-3), (2.0, 0.5, 2.0),
                                                          (2.0, np.inf, 1e-3)])  # fmt: skip
def test_what_the_very_first_call_costs_does_not_count(compiling, again, told):
    """Unless the call is long by itself."""
    taken = iter([compiling, 1e-3])
    assert warmed(lambda: None, lambda call, number: next(taken), again) == told


def test_a_contender_that_compiles_is_sampled_as_the_others():
    seen = []

    def timer(call, number):
        call()
        return 1.5 if len(seen) == 1 else 1e-4

    budget = Budget(seconds=0.02, least=3, patience=0.3, again=np.inf, rest=0.0)
    timing = in_turn({"compiles": lambda: seen.append(1)}, budget, timer)["compiles"]
    assert timing.samples >= 3
    assert timing.median == 1e-4


def test_first_calls_are_not_repeated():
    device = Device({"slow": 20.0})
    timings = in_turn(device.calls(), Budget(), device.clock, first={"slow": 20.0})
    assert device.seen == []
    assert timings["slow"].median == 20.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is Linux's")
@pytest.mark.parametrize("mib", [16, 64])
def test_scratch_is_what_a_call_needs_beyond_its_result(mib):
    def call():
        temporary = np.ones(mib << 20, np.uint8)
        result = temporary[: 8 << 20].copy()
        return result.nbytes

    measured = scratch(call)
    assert measured is not None
    assert abs(measured - (mib << 20)) < 4 << 20
