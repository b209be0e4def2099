"""The planner is pure: what it would choose on any machine is checked on this one."""

from dataclasses import replace

import numpy as np
import pytest

import xconv
from xconv import cost, planner
from xconv.api import plan_on
from xconv.backends.cpu import CPUBackend
from xconv.methods.base import Limits
from xconv.methods.direct import Direct
from xconv.methods.fft import FFT, good_size
from xconv.methods.separable import Separable, factor
from xconv.problem import Problem, Work

RNG = np.random.default_rng(0)
METHODS = (Direct(), FFT(), Separable())
LIMITS = Limits(workers=2, max_memory=64 << 20, block=1 << 20)
EVEN = dict.fromkeys(
    [
        f"{kind}.{dtype}"
        for kind in ("direct", "fft", "fft.large", "spectral", "gather")
        for dtype in ("float32", "float64", "int32")
    ],
    1e9,
) | {"calls": 1e6, "fft.calls": 1e5, "svd": 1e8, "efficiency": 1.0}


def problem(x: tuple[int, ...], k: tuple[int, ...], dtype: str = "float64") -> Problem:
    return plan_on(CPUBackend(), "convolve", xconv.Spec(x, dtype), xconv.Spec(k, dtype)).problem


def chosen(case: Problem, method: str = "auto", kernel: np.ndarray | None = None, **rates: float):
    priced = planner.price(case, METHODS, EVEN | rates, LIMITS)
    examine = None if kernel is None else lambda m: m.examine(case, kernel[None, None, None])
    return planner.choose(priced, method, case, EVEN | rates, LIMITS, examine)


def test_seconds_divide_shared_work_among_workers() -> None:
    work = Work((("a", 8.0),), serial=(("b", 3.0),))
    rates = {"a": 2.0, "b": 1.0, "efficiency": 0.5}
    assert cost.seconds(work, rates, 1) == 7.0
    assert cost.seconds(work, rates, 3) == 4.0 / 2.0 + 3.0


def test_large_kernels_go_to_the_transform_and_small_ones_do_not() -> None:
    assert chosen(problem((50, 100, 100), (3, 3)))[0].method.name == "direct"
    assert chosen(problem((50, 100, 100), (61, 61)))[0].method.name == "fft"


def test_the_choice_follows_the_rates() -> None:
    case = problem((50, 100, 100), (15, 15))
    assert chosen(case, **{"direct.float64": 1e12})[0].method.name == "direct"
    assert chosen(case, **{"direct.float64": 1e7})[0].method.name == "fft"


def test_rank_one_kernel_is_found() -> None:
    case = problem((50, 200, 200), (31, 31))
    vector = np.hanning(33)[1:-1]
    fast = {"direct.float64": 4e9}
    best, rows = chosen(case, kernel=np.outer(vector, vector), **fast)
    assert best.method.name == "separable"
    assert best.work.note == "rank 1"
    noise = np.random.default_rng(0).standard_normal((31, 31))
    best, rows = chosen(case, kernel=noise, **fast)
    assert best.method.name == "fft"
    refused = {row.method.name: row.refusal for row in rows}
    assert "not a sum of 15 or fewer outer products" in str(refused["separable"])


def test_separable_is_refused_without_values() -> None:
    with pytest.raises(xconv.MethodRefused, match="needs the kernel's values"):
        chosen(problem((5, 50, 50), (9, 9)), method="separable")


def test_integers_are_exact() -> None:
    case = problem((50, 100, 100), (61, 61), "int32")
    best, rows = chosen(case)
    assert best.method.name == "direct"
    assert all(row.refusal for row in rows if row.method.name != "direct")


def test_price_does_not_depend_on_the_machine_it_runs_on() -> None:
    first = planner.price(problem((9, 80, 80), (7, 7)), METHODS, EVEN, LIMITS)
    again = planner.price(problem((9, 80, 80), (7, 7)), METHODS, EVEN, LIMITS)
    assert [(r.method.name, r.seconds, r.work) for r in first] == [
        (r.method.name, r.seconds, r.work) for r in again
    ]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_factor_finds_the_rank(rank: int) -> None:
    rng = np.random.default_rng(rank)
    u, v = rng.standard_normal((2, rank, 12))
    kernel = np.einsum("ri,rj->ij", u, v)
    terms = factor(kernel, 2, 1e-14, most=6)
    assert terms is not None
    assert len(terms) == rank
    total = sum(np.outer(*term) for term in terms)
    # The tolerance bounds the sum of absolute errors by 1e-14 of the sum of absolute taps.
    assert np.abs(total - kernel).sum() <= 1e-14 * np.abs(kernel).sum() + 144 * 2.2e-16 * rank
    assert factor(kernel, 2, 1e-14, most=rank - 1) is None


def test_factor_in_three_dimensions() -> None:
    a, b, c = np.random.default_rng(0).standard_normal((3, 5))
    kernel = np.einsum("i,j,k->ijk", a, b, c)
    terms = factor(kernel, 3, 1e-14, most=3)
    assert terms is not None
    assert len(terms) == 1


def test_good_sizes_are_products_of_small_primes() -> None:
    for least in range(1, 3000):
        size = good_size(least)
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert size >= least
        assert rest == 1


def test_what_no_method_can_compute_is_no_question_of_memory() -> None:
    case = problem((50, 100, 100), (61, 61), "int32")
    rows = planner.price(case, (FFT(), Separable()), EVEN, LIMITS)
    with pytest.raises(xconv.MethodRefused, match=r"fft: int32 is exact.*separable: int32"):
        planner.choose(rows, "auto", case, EVEN, LIMITS, None)


@pytest.mark.parametrize("method", ["auto", "direct"])
def test_want_of_memory_is_told_apart(method: str) -> None:
    case = problem((5, 50, 50), (9, 9))
    poor = Limits(workers=2, max_memory=10, block=1 << 20)
    rows = planner.price(case, METHODS, EVEN, poor)
    with pytest.raises(xconv.MemoryLimitError, match="raise max_memory to"):
        planner.choose(rows, method, case, EVEN, poor, None)
    others = [replace(row, refusal="for another reason", memory=False) for row in rows]
    with pytest.raises(xconv.MethodRefused, match="another reason") as caught:
        planner.choose(others, method, case, EVEN, poor, None)
    assert not isinstance(caught.value, MemoryError)


def test_candidates_are_what_explain_prints() -> None:
    x, vector = np.zeros((4, 90, 90)), np.hanning(33)[1:-1]
    plan = xconv.plan(x, np.outer(vector, vector))
    lines = plan.explain().splitlines()[2:-1]
    for line, row in zip(lines, plan.candidates, strict=True):
        assert row.refusal is None
        mark = "*" if row.chosen else " "
        figures = f"{row.seconds:.3g}", f"{row.scratch:,}", f"{row.kept:,}", *row.note.split()
        assert line.split() == [*f"{mark}{row.method}".split(), *figures]
    chosen = [row for row in plan.candidates if row.chosen]
    assert [row.method for row in chosen] == [plan.method]
    assert plan.candidates[0] == chosen[0]
    assert all("rank 1" in row.note for row in plan.candidates if row.method == "separable")
    rough = xconv.plan(x, RNG.standard_normal((31, 31))).candidates[-1]
    assert (rough.method, rough.seconds) == ("separable", None)
    assert "not a sum of 15 or fewer outer products" in str(rough.refusal)


def test_explain_names_every_candidate_with_its_reason() -> None:
    x, k = np.zeros((4, 30, 30), "i4"), np.ones((3, 3), "i4")
    text = xconv.plan(x, k).explain()
    assert "*direct" in text
    assert "fft         refused: int32 is exact" in text
    assert "separable   refused: int32 is exact" in text
