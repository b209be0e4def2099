"""`xconv.convolve`, `correlate` and `plan` give the reference's answer, within the error bound."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import xconv

from .strategies import BOUNDARIES, DTYPES, ORDERS, Case, constant, problems, random_case

METHODS = ("direct", "fft", "separable")
relaxed = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def answers(case: Case) -> set[str]:
    """Checks every method that does not refuse the case; returns their names."""
    right = case.expected()
    before = case.x.tobytes(), np.asarray(case.k).tobytes()
    done = set()
    for method in ("auto", *METHODS):
        try:
            plan = case.plan(method=method)
        except xconv.MethodRefused:
            assert method not in ("auto", "direct"), case
            continue
        c = right.direct if plan.method == "direct" else constant(plan)
        y = case.run(method=method)
        for name, result in (("call", y), ("plan", plan(case.x)), ("k", plan(case.x, case.k))):
            assert right.disagreement(result, c) == "", (name, method, case)
        assert type(y) is np.ndarray
        assert y.dtype.isnative
        assert y.flags.writeable
        assert not np.shares_memory(y, case.x)
        assert not (isinstance(case.k, np.ndarray) and np.shares_memory(y, case.k))
        done.add(method)
    assert before == (case.x.tobytes(), np.asarray(case.k).tobytes()), case
    return done


@relaxed
@given(problems())
def test_problems(case):
    answers(case)


@pytest.mark.parametrize("seed", range(8))
def test_random_cases(seed):
    done = Counter()
    for i in range(40):
        done.update(answers(random_case(np.random.default_rng([seed, i]))))
    assert done["auto"] == done["direct"] == 40
    assert done["fft"] > 12


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
def test_separable_is_reached(dtype):
    cases = (random_case(np.random.default_rng([11, i]), [dtype]) for i in range(40))
    assert sum("separable" in answers(case) for case in cases) >= 2


def test_separable_float16():
    """Of rank 1 after the taps are rounded to float16, unlike most outer products."""
    x = np.random.default_rng(15).normal(size=(2, 20, 20)).astype("f2")
    k = np.outer([1, 2, 4, 2, 1], [1, 3, 3, 1]).astype("f2") / np.float16(128)
    assert "separable" in answers(Case("convolve", x, k, {"mode": "same"}))


def test_random_cases_reach_everything():
    """The generator can draw each thing that these tests claim to cover."""
    seen = Counter()
    for i in range(1000):
        case = random_case(np.random.default_rng([12, i]))
        keywords = case.keywords
        mode = keywords["mode"]
        seen[mode if isinstance(mode, str) else "pairs"] += 1
        seen[keywords["boundary"]] += 1
        seen[case.op] += 1
        seen[case.x.dtype.str[1:]] += 1
        seen.update(name for name in keywords if name != "mode")
        kernel_layout = keywords.get("kernel_layout", "")
        for roles in ("C", "O", "CO", "IO", "I"):
            seen[f"roles {roles}"] += {*roles} == {*"CIO"} & {*kernel_layout}
        if "O" in kernel_layout and "I" not in kernel_layout:
            at = kernel_layout.index("O") / (len(kernel_layout) - 1)
            seen["O first" if at == 0 else "O last" if at == 1 else "O between"] += 1
        seen["ellipsis"] += "..." in keywords.get("layout", "")
        seen["kernel list"] += isinstance(case.k, list)
        seen["empty"] += case.x.size == 0
        seen["swapped"] += not case.x.dtype.isnative
        seen["readonly"] += not case.x.flags.writeable
        seen["unaligned"] += not case.x.flags.aligned
        seen["negative strides"] += min(case.x.strides) < 0
        seen["no order"] += not (case.x.flags.c_contiguous or case.x.flags.f_contiguous)
        seen["nonfinite"] += not np.isfinite(case.x).all()
        seen["float mixed with integer"] += (
            case.x.dtype.kind + np.asarray(case.k).dtype.kind == "fi"
        )
    wanted = {"full", "same", "valid", "pairs", "convolve", "correlate"}
    wanted |= {name for names in BOUNDARIES.values() for name in names}
    wanted |= {np.dtype(name).str[1:] for name in DTYPES}
    wanted |= {"cval", "stride", "dilation", "groups", "axes", "layout", "out_layout", "dtype"}
    wanted |= {"O first", "O last", "O between", "ellipsis", "kernel list", "empty", "swapped"}
    wanted |= {"readonly", "unaligned", "negative strides", "no order", "nonfinite"}
    wanted |= {f"roles {roles}" for roles in ("C", "O", "CO", "IO", "I")}
    wanted |= {"float mixed with integer"}
    assert {name: seen[name] for name in wanted if seen[name] < 5} == {}
    assert len(ORDERS) == 8


@pytest.mark.parametrize("size", [(300, 200), (64, 64, 20), (4000,)])
@pytest.mark.parametrize("boundary", ["constant", "mirror", "wrap"])
def test_images_of_many_blocks(size, boundary):
    """Large enough that a small max_memory cuts the image, with kernels for which it halos."""
    rng = np.random.default_rng(13)
    x = rng.normal(size=size).astype("f4")
    k = rng.normal(size=[min(n // 4, 8) for n in size]).astype("f4")
    right = Case("convolve", x, k, {"mode": "same", "boundary": boundary}).expected()
    for method in ("direct", "fft"):
        least = 1 << 19
        plan = xconv.plan(
            x, k, mode="same", boundary=boundary, method=method, max_memory=least, workers=1
        )
        assert right.disagreement(plan(x), constant(plan)) == ""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["f4", "c16"])
def test_out_that_overlaps_the_input(method, dtype):
    """As if x had been copied first: where out is x, x moved by some elements, or x turned.

    The images take several blocks, so that writing one would spoil what the next one reads.
    """
    rng = np.random.default_rng(14)
    k = np.outer(rng.normal(size=5), rng.normal(size=7)).astype(dtype)
    keywords = {"mode": "same", "boundary": "nearest", "method": method}
    shape, size = (3, 300, 300), 3 * 300 * 300
    values = rng.normal(size=size + 4000).astype(dtype)
    for shift in (-1700, -7, 0, 1, 1700):
        memory = values.copy()
        x = memory[2000 : 2000 + size].reshape(shape)
        out = memory[2000 + shift : 2000 + shift + size].reshape(shape)
        views = (out, out[:, ::-1], out.transpose(0, 2, 1), out[::-1]) if shift == 0 else (out,)
        right = xconv.correlate(x.copy(), k, **keywords)
        plan = xconv.plan(x, k, "correlate", **keywords)
        scale = np.abs(k).sum() * np.abs(x).max()
        for view in views:
            memory[:] = values
            assert plan(x, out=view) is view
            error = np.abs(view - right).max()
            assert error <= 2 * constant(plan) * np.finfo(dtype).eps * scale


def test_in_place_within_max_memory():
    """The copy of x counts as scratch: a part of the batch at a time where there is little."""
    x, k = np.random.default_rng(16).normal(size=(60, 50, 40)), np.ones((3, 3))
    keywords = {"axes": (0, 1), "mode": "same", "boundary": "wrap", "method": "direct"}
    y = x.copy()
    xconv.convolve(y, k, out=y, workers=1, max_memory=3 << 17, **keywords)
    assert x.nbytes > 3 << 17
    np.testing.assert_array_equal(y, xconv.convolve(x, k, **keywords))


def test_in_place_without_room():
    """An image alone has no batch to cut."""
    x, k = np.random.default_rng(17).normal(size=(400, 300)), np.ones((3, 3))
    keywords = {"mode": "same", "method": "direct", "workers": 1}
    y = x.copy()
    with pytest.raises(xconv.MemoryLimitError, match="overlaps"):
        xconv.convolve(y, k, out=y, max_memory=3 << 17, **keywords)
    np.testing.assert_array_equal(y, x)
    xconv.convolve(y, k, out=y, max_memory=1 << 23, **keywords)
    np.testing.assert_array_equal(y, xconv.convolve(x, k, **keywords))
