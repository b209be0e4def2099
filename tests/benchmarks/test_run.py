"""A case is run whole: every contender right, refused with a reason, or exposed as wrong."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

import xconv
from xconv.bench import run, suites
from xconv.bench.cases import SUITES, Case, arrays, cases
from xconv.bench.check import Reference
from xconv.bench.contender import Contender
from xconv.bench.measure import Budget
from xconv.bench.regret import problems, run_problem
from xconv.bench.suites import NAMES, steps

pytestmark = pytest.mark.filterwarnings("default")  # the peers' own warnings are not ours

BUDGET = Budget(seconds=1e-3, least=2, most=2, sample=1e-5)
SMALL = [
    Case("test", (20, 17, 4), (5, 3), "HWN", "HW", forced=True, plan=True),
    Case("test", (4, 20, 17), (5, 3), "NHW", "HW", "float64", mode="same"),
    Case("test", (4, 20, 17), (4, 2), "NHW", "HW", mode="same"),
    Case("test", (4, 20, 17), (4, 2), "NHW", "HW", mode="full"),
    Case("test", (3, 18, 17, 2), (3, 3), "NHWC", "HW", mode="same", boundary="mirror"),
    Case("test", (3, 18, 17, 2), (3, 3, 2), "NHWC", "HWC", mode="same"),
    Case("test", (3, 16, 17), (4, 3, 3), "NHW", "OHW", out_layout="NOHW", mode="same"),
    Case("test", (20, 17, 4), (5, 3), "HWN", "HW", mode="same", values="gaussian"),
    Case("test", (4, 20, 17), (5, 3), "NHW", "HW", "uint8", "float32", mode="same"),
    Case("test", (2, 11, 12, 13), (3, 3, 3), "NDHW", "DHW", mode="same"),
    Case("test", (5, 400), (31,), "NL", "L", mode="same"),
    Case("test", (4, 20, 17), (5, 3), "NHW", "HW", "complex64"),
    Case("test", (2, 14, 15, 6), (3, 3, 3, 4), "NHWC", "HWIO", out_layout="NHWO",
         op="correlate", mode="same", stride=2, groups=2),
    Case("test", (2, 6, 14, 15), (4, 6, 3, 3), "NCHW", "OIHW", out_layout="NOHW",
         op="correlate", mode="same"),
    Case("test", (4, 20, 17), (5, 3), "NHW", "HW", values="negative"),
    Case("test", (4, 20, 17), (5, 3), "NHW", "HW", values="swapped"),
    Case("test", (4, 20, 17), (5, 3), "NHW", "HW", values="huge"),
]  # fmt: skip


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_every_contender_is_right_or_refuses(case):
    records = list(run.run_case(case, 2, BUDGET))
    assert records[0]["contender"] == "xconv"
    assert records[0]["status"] == "ok"
    statuses = {r["contender"]: (r["status"], r.get("reason")) for r in records}
    strange = {n: s for n, s in statuses.items() if s[0] not in ("ok", "refused", "beside")}
    if case.dtype == "complex64" or case.values == "swapped":  # which some libraries do not know
        strange = {n: s for n, s in strange.items() if n.startswith("xconv")}
    assert not strange
    assert all(r["reason"] for r in records if r["status"] == "refused")
    right = [r for r in records if r["status"] == "ok"]
    assert all(r["seconds"]["median"] > 0 and np.isfinite(r["error"]) for r in right)


def test_peers_are_really_there():
    """On plain images nothing but what the kernel rules out is refused."""
    records = list(run.run_case(SMALL[0], 2, BUDGET))
    right = {r["contender"] for r in records if r["status"] == "ok"}
    assert {"scipy.signal.fftconvolve", "scipy.ndimage.convolve", "cv2.filter2D", "torch conv2d",
            "torch conv2d, batch as channels", "dask_image.ndfilters.convolve",
            "loop of scipy.signal.convolve", "xconv plan, out="} <= right  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        lambda y: y + 1e-3,
        lambda y: y[::-1],
        lambda y: np.where(np.arange(y.size).reshape(y.shape) == y.size // 2, 0, y),
        lambda y: y[..., :-1],
        lambda y: y.astype(np.float16),
    ],
    ids=["offset", "reversed", "one output", "cropped", "half"],
)
def test_wrong_answers_have_no_time(monkeypatch, damage):
    case = dataclasses.replace(SMALL[0], forced=False, plan=False)

    def cheat(case, x, k, workers):
        return Contender("cheat", lambda: damage(xconv.convolve(x, k, **case.options)))

    monkeypatch.setattr(run, "PEERS", {"cheat": cheat})
    ours, wrong = run.run_case(case, 1, BUDGET)
    assert ours["status"] == "ok"
    assert wrong["status"] == "wrong"
    assert wrong["reason"]
    assert "seconds" not in wrong


def test_the_minority_is_wrong(monkeypatch):
    """An answer that is right only in the corners is found out, be it ours."""
    case = dataclasses.replace(SMALL[1], x=(4, 90, 90), forced=False, plan=False)

    def honest(case, x, k, workers):
        return Contender("honest", lambda: xconv.convolve(x, k, **case.options))

    def damaged(case, x, k, workers):
        def run():
            y = xconv.convolve(x, k, **case.options)
            y[1] = 0
            return y

        return Contender("damaged", run)

    def statuses(mine, *peers):
        monkeypatch.setattr(run, "ours", lambda *_: [("xconv", mine)])
        monkeypatch.setattr(run, "PEERS", {str(i): peer for i, peer in enumerate(peers)})
        return [r["status"] for r in run.run_case(case, 1, BUDGET)]

    assert statuses(honest, damaged, honest) == ["ok", "wrong", "ok"]
    assert statuses(damaged, honest, honest) == ["wrong", "ok", "ok"]


def test_one_image_is_huge():
    case = Case("test", (20, 17, 4), (5, 3), "HWN", "HW", values="huge")
    peaks = np.abs(arrays(case)[0]).max(axis=(0, 1))
    assert peaks[0] > 1e9 * peaks[1:].max()


@pytest.mark.parametrize("mode", ["same", "valid"])
def test_the_reference_computes_no_more_of_a_large_kernel(mode):
    case = Case("test", (2, 300, 300), (127, 127), "NHW", "HW", mode=mode)
    pad = 63 if mode == "same" else 0
    corners = Reference(case, *arrays(case), ((pad, pad), (pad, pad))).corners
    assert [c.expected.values.shape for c in corners] == 2 * [(2, 24, 24)]


def test_nan_that_spreads_is_wrong():
    case = Case("test", (2, 64, 64), (9, 9), "NHW", "HW", values="nan", mode="same")
    x, k = arrays(case)
    right = Reference(case, x, k, ((4, 4), (4, 4)))
    assert right.disagreement(xconv.convolve(x, k, **case.options)) == ""
    assert right.disagreement(np.full(x.shape, np.nan, np.float32)) != ""


@pytest.mark.parametrize(("suite", "status"), [("test", "skipped"), ("seed", "ok")])
def test_slow_peers_are_skipped_but_not_in_the_first_table(suite, status):
    case = dataclasses.replace(SMALL[0], suite=suite, forced=False, plan=False)
    records = run.run_case(case, 1, BUDGET, {"scipy.ndimage.convolve": 1.0})
    (slow,) = [r for r in records if r["contender"] == "scipy.ndimage.convolve"]
    assert slow["status"] == status
    assert ("would take" in slow.get("reason", "")) == (status == "skipped")


def test_taps_make_no_peer_hopeless_that_uses_transforms():
    case = dataclasses.replace(SMALL[0], forced=False, plan=False)
    outputs = 16 * 15 * 4
    names = ("scipy.signal.fftconvolve", "scipy.ndimage.convolve")
    cost = 3 * BUDGET.patience / (outputs * 2 * 15)  # by operation; by output it is little
    records = run.run_case(case, 1, BUDGET, dict.fromkeys(names, cost))
    statuses = {r["contender"]: r["status"] for r in records}
    assert [statuses[name] for name in names] == ["ok", "skipped"]


@pytest.mark.parametrize("suite", SUITES)
def test_cases_are_valid_problems_with_names_of_their_own(suite):
    found = cases(suite)
    assert len({case.name for case in found}) == len(found)
    for case in found:
        x, k = xconv.Spec(case.x, case.dtype), xconv.Spec(case.k, case.k_dtype or case.dtype)
        assert xconv.plan(x, k, case.op, **case.options).problem.y_shape
    quick = cases(suite, quick=True)
    assert set(quick) <= set(found)
    assert quick


def test_seed_is_the_table_of_the_question():
    cells = {(c.x[c.layout.index("H")], c.x[c.layout.index("N")], c.k[0]) for c in cases("seed")}
    assert cells == {(100, 50, 11), (1000, 50, 11), (100, 5, 11), (100, 500, 11), (100, 50, 5),
                     (100, 50, 31)}  # fmt: skip
    assert {c.layout for c in cases("seed")} == {"HWN", "NHW"}


def test_steps_count_every_suite():
    found = list(steps(list(NAMES), 2, quick=False))
    assert {step.suite for step in found} == set(NAMES)
    assert sum(step.suite == "regret" for step in found) >= 300
    assert sum(step.suite == "threads" for step in found) == 2 * len(cases("threads"))


def test_a_quick_run_gives_every_suite_the_same_time(monkeypatch):
    now, order = 0.0, []
    monkeypatch.setattr(suites, "time", SimpleNamespace(monotonic=lambda: now))
    todo = [suites.Step(name, "", list) for name, count in (("slow", 3), ("fast", 9))
            for _ in range(count)]  # fmt: skip
    for step in suites._fairly(iter(todo)):
        order.append(step.suite)
        now += 3.0 if step.suite == "slow" else 1.0
    assert order == 3 * ["slow", "fast", "fast", "fast"]


def test_random_problems_cover_what_they_claim():
    found = problems(300)
    assert len({case.name for case in found}) == 300
    assert {len(case.k) for case in found} == {1, 2, 3}
    assert {case.dtype for case in found} == {"float32", "float64"}
    taps = [max(case.k) for case in found]
    batch = [case.x[case.layout.index("N")] for case in found]
    assert min(taps) == 2
    assert max(taps) > 200
    assert min(batch) == 1
    assert max(batch) > 5000


def test_regret_is_against_the_best_method():
    case = min(problems(30), key=lambda case: np.prod(case.x) * np.prod(case.k))
    (record,) = run_problem(case, 1, BUDGET)
    forced = [t["median"] for name, t in record["seconds"].items() if name != "auto"]
    assert forced
    assert record["regret"] == record["seconds"]["auto"]["median"] / min(forced)
    assert record["chosen"] in record["predicted"]
