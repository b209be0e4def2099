"""Plans: what fits, what is refused, out= and memory."""

import threading

import numpy as np
import pytest

import xconv
from xconv.methods import separable

RNG = np.random.default_rng(0)


def test_a_plan_is_reusable_and_bound_to_its_kernel() -> None:
    x, k = RNG.standard_normal((2, 3, 20, 20)), RNG.standard_normal((5, 5))
    plan = xconv.plan(x[0], k, mode="same")
    assert np.array_equal(plan(x[0]), xconv.convolve(x[0], k, mode="same"))
    assert np.array_equal(plan(x[1]), xconv.convolve(x[1], k, mode="same"))
    assert np.array_equal(plan(x[1], 2 * k), xconv.convolve(x[1], 2 * k, mode="same"))


@pytest.mark.parametrize("method", ["auto", "direct", "fft", "separable"])
def test_nothing_of_the_bound_kernel_is_used_for_another(method: str) -> None:
    """Its rank and vectors, its magnitude, its spectrum."""
    x, (a, b, c) = RNG.standard_normal((4, 90, 90)), RNG.standard_normal((3, 21))
    plan = xconv.plan(x, np.outer(a, b), mode="same", method=method)
    for other in (np.outer(b, c), np.outer(a, b) + np.outer(b, c)):
        assert np.array_equal(plan(x, other), xconv.convolve(x, other, mode="same", method=method))
    with_nan = np.where(other == other.max(), np.nan, other)
    if method in ("fft", "separable"):
        with pytest.raises(xconv.MethodRefused, match="NaN"):
            plan(x, with_nan)
    else:
        assert np.isnan(plan(x, with_nan)).all()


@pytest.mark.parametrize("method", ["direct", "fft", "separable"])
@pytest.mark.parametrize("op", ["convolve", "correlate"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_plan_keeps_the_values_that_the_kernel_had(library: str, op: str, method: str) -> None:
    make = pytest.importorskip(library).asarray
    x, k = make(RNG.random((2, 30, 30))), make(np.outer(RNG.random(9), RNG.random(9)))
    plan = xconv.plan(x, k, op, method=method)
    expected = np.asarray(getattr(xconv, op)(x, k, method=method))
    k[...] = 0
    np.testing.assert_array_equal(np.asarray(plan(x)), expected)


def test_a_plan_from_specs_needs_the_kernel() -> None:
    plan = xconv.plan(xconv.Spec((3, 20), "f4"), xconv.Spec((5,), "f4"), "correlate")
    x, k = RNG.standard_normal((3, 20)).astype("f4"), RNG.standard_normal(5).astype("f4")
    assert np.array_equal(plan(x, k), xconv.correlate(x, k))
    with pytest.raises(xconv.ArgumentError, match="pass the kernel too"):
        plan(x)


@pytest.mark.parametrize(
    ("x", "k"),
    [
        (np.zeros((3, 21)), None),
        (np.zeros((2, 3, 20)), None),
        (np.zeros((3, 20), "f4"), None),
        (np.zeros((3, 20)), np.ones(4)),
        (np.zeros((3, 20)), np.ones(5, "f4")),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x: np.ndarray, k: np.ndarray | None) -> None:
    plan = xconv.plan(np.zeros((3, 20)), np.ones(5))
    with pytest.raises(xconv.ArgumentError, match="the plan was made for shape"):
        plan(x, k)


@pytest.mark.parametrize("method", ["direct", "fft"])
@pytest.mark.parametrize("max_memory", [64 << 20, 1 << 20])
def test_out_on_top_of_x(method: str, max_memory: int) -> None:
    """1.3 MB of images on themselves; with 1 MiB only a part is copied at a time."""
    x, k = RNG.standard_normal((40, 64, 64)), np.ones((3, 3))
    options = {"mode": "same", "boundary": "wrap", "method": method, "workers": 1}
    right = xconv.convolve(x, k, **options)
    result = xconv.convolve(x, k, out=x, max_memory=max_memory, **options)
    assert result is x
    # A transform of other numbers of images at once may round otherwise.
    np.testing.assert_allclose(x, right, rtol=0, atol=0 if method == "direct" else 1e-13)


def test_out_shifted_against_x() -> None:
    both = RNG.standard_normal((41, 64, 64))
    right = xconv.convolve(both[:-1], np.ones((3, 3)), mode="same", method="direct")
    xconv.convolve(both[:-1], np.ones((3, 3)), mode="same", method="direct", out=both[1:])
    assert np.array_equal(both[1:], right)
    with pytest.raises(xconv.MemoryLimitError, match="out overlaps x"):
        xconv.convolve(both[:-1], np.ones((3, 3)), mode="same", out=both[1:], max_memory=2_600_000)


def test_out_in_another_memory_order() -> None:
    x, k = RNG.standard_normal((4, 15, 17)), RNG.standard_normal((3, 4))
    out = np.empty((19, 17, 4)).T[:, :, 1:]
    wanted = xconv.convolve(x, k)
    wide = np.empty((4, 17, 20 * 2))[:, :, ::2]
    assert xconv.convolve(x, k, out=wide) is wide
    assert np.array_equal(wide, wanted)
    assert out.shape != wanted.shape
    with pytest.raises(xconv.ArgumentError, match=r"out has shape \(4, 17, 18\)"):
        xconv.convolve(x, k, out=out)


def test_memory_too_small_names_what_would_do() -> None:
    with pytest.raises(xconv.MemoryLimitError, match="raise max_memory to"):
        xconv.convolve(np.zeros((40, 50), "f2"), np.ones((3, 3), "f2"), max_memory=0)


def test_the_same_plan_from_several_threads() -> None:
    x, k = RNG.standard_normal((8, 60, 60)), RNG.standard_normal((7, 7))
    plan = xconv.plan(x, k, mode="same", boundary="mirror")
    right, results = plan(x), []

    def work() -> None:
        results.extend(np.array_equal(plan(x), right) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


def test_new_problems_from_several_threads() -> None:
    """Nothing is prepared yet: threads fill the caches at once, in different orders."""
    problems = [
        (RNG.standard_normal((2 + i % 3, 21 + i, 23)), RNG.standard_normal((3 + i % 5, 3)), method)
        for i in range(12)
        for method in ("direct", "fft", "auto")
    ]
    start, results = threading.Barrier(4), [{}, {}, {}, {}]

    def compute(i: int) -> np.ndarray:
        x, k, method = problems[i]
        return xconv.convolve(x, k, mode="same", method=method)

    def work(thread: int) -> None:
        start.wait()
        for i in np.roll(range(len(problems)), 2 * thread):
            results[thread][i] = compute(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(len(problems)):
        right = compute(i)
        assert all(np.array_equal(found[i], right) for found in results)


def test_arguments_that_only_look_alike_have_plans_of_their_own() -> None:
    """True, 1 and 1.0 are equal in Python, and so are 0.0 and -0.0."""
    x, k = np.zeros((5, 6)), np.ones((3, 3))
    xconv.convolve(x, k, stride=1, dilation=(1, 1), workers=1)
    for options in ({"stride": 1.0}, {"stride": True}, {"dilation": (1.0, 1)}, {"workers": True}):
        with pytest.raises(xconv.ArgumentTypeError, match="must be an integer"):
            xconv.convolve(x, k, **options)
    for cval in (0.0, -0.0):
        result = xconv.convolve(-np.ones((1, 4)), np.ones((1, 3)), cval=cval, method="direct")
        assert result.shape == (1, 6)
    assert np.isnan(xconv.convolve(x, k, cval=float("nan"))).any()


def test_axis_minus_one_is_not_axis_minus_two() -> None:
    """hash(-1) == hash(-2): a cache keyed by hashes returns the wrong plan."""
    x, k = RNG.standard_normal((6, 6)), RNG.standard_normal(3)
    last = xconv.convolve(x, k, axes=-1)
    first = xconv.convolve(x, k, axes=-2)
    assert last.shape == (6, 8)
    assert first.shape == (8, 6)


def test_a_kernel_is_examined_again_only_when_its_values_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain calls share a plan that looks for low rank; the kernel may be written to meanwhile."""
    examined = []
    examine = separable.Separable.examine

    def counted(self: object, problem: object, kernel: np.ndarray) -> object:
        examined.append(kernel.copy())
        return examine(self, problem, kernel)

    monkeypatch.setattr(separable.Separable, "examine", counted)
    x, k = RNG.standard_normal((3, 70, 71)), np.ones((17, 16))
    found = [xconv.convolve(x, k, mode="same", method="separable") for _ in range(3)]
    assert len(examined) == 1
    k[3, 4] = 2.0
    found.append(xconv.convolve(x, k, mode="same", method="separable"))
    assert len(examined) == 2
    k[3, 4] = 1.0
    found.append(xconv.convolve(x, k, mode="same", method="separable"))
    assert [one[..., 3, 4].item() for one in examined] == [1, 2, 1]
    assert all(np.array_equal(found[0], found[i]) for i in (1, 2, 4))
    right = xconv.convolve(x, k, mode="same", method="direct")
    # Sums of 272 products of values below 5, rounded on both sides.
    assert np.abs(found[0] - right).max() <= 2 * 272 * np.finfo(float).eps * 272 * 5
    assert not np.array_equal(found[3], found[0])
