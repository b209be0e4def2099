"""xconv.signal against scipy.signal, call by call."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from xconv import signal

DTYPES = (
    *("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g"),
    *("c8", "c16", "G", ">f4", ">i2"),
)
BROADCASTING = ("fftconvolve", "oaconvolve")
PLANAR = ("convolve2d", "correlate2d")
FUNCTIONS = ("convolve", "correlate", *BROADCASTING, *PLANAR)


def scipys(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(scipy.signal, name)(*arguments, **options)


def ours(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(signal, name)(*arguments, **options)


def outcome(function: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """The result, or what was raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(name, *arguments, **options)
    except Exception as error:
        return error


def eps(*dtypes: Any) -> float:
    """The coarsest precision that SciPy's transforms of these dtypes work in."""
    given = [np.dtype(d) for d in dtypes]
    worked = [
        np.float32 if d == np.float16 else d if d.kind in "fc" else np.dtype(float) for d in given
    ]
    return max(float(np.finfo(d).eps) for d in worked)


def assert_same(
    actual: Any, desired: Any, a: Any, b: Any, fill: complex = 0, message: str = ""
) -> None:
    """Equal integers; floats within the error bound of a transform, for SciPy and for us.

    Its constant is 10 log2 of the transform's length, here at most 2^10.
    """
    assert type(actual) is type(desired), message
    assert actual.dtype == desired.dtype, message
    assert actual.shape == desired.shape, message
    if desired.dtype.kind in "biu":
        np.testing.assert_array_equal(actual, desired, message)
        return
    wide = [np.asarray(v).astype(np.clongdouble) for v in (a, b, actual, desired)]
    peak = max(float(np.abs(wide[0]).max(initial=0)), abs(fill))
    bound = 2 * 100 * eps(np.asarray(a).dtype, np.asarray(b).dtype) * np.abs(wide[1]).sum() * peak
    if desired.dtype == np.float16:
        bound = bound + 2.0**-10 * np.abs(wide[3]) + 2.0**-24
    assert (np.abs(wide[2] - wide[3]) <= bound).all(), message


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.random(shape) < 0.5
    if kind in "iu":
        return rng.integers(-50 if kind == "i" else 0, 50, shape).astype(dtype)
    x = rng.standard_normal(shape) * 10.0 ** rng.integers(-1, 2)
    return (x + 1j * rng.standard_normal(shape) if kind == "c" else x).astype(dtype)


def sizes(rng: np.random.Generator, low: int, high: int, ndim: int) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(low, high, ndim))


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_random_calls(name: str, first: str) -> None:
    """Every second dtype, shapes with either array the larger, all options."""
    rng = np.random.default_rng([FUNCTIONS.index(name), DTYPES.index(first)])
    results = 0
    for second in DTYPES * 2:
        ndim = 2 if name in PLANAR else int(rng.integers(0, 4))
        s1, s2 = sizes(rng, 1, 9, ndim), sizes(rng, 1, 7, ndim)
        options: dict[str, Any] = {"mode": str(rng.choice(["full", "same", "valid"]))}
        fill: complex = 0
        if name in PLANAR:
            options["boundary"] = str(rng.choice(["fill", "wrap", "symm"]))
            fill = options["fillvalue"] = [0, 1, 2.5, 3][rng.integers(4)]
        elif name in BROADCASTING:
            if ndim and rng.random() < 0.6:
                axes = [int(i) for i in rng.permutation(ndim)[: rng.integers(1, ndim + 1)]]
                options["axes"] = axes if len(axes) > 1 else axes[0]
                # "same" would crop what SciPy broadcasts along the other axes
                s2 = tuple(
                    n if i in axes else int(rng.choice([1, s1[i]])) for i, n in enumerate(s2)
                )
                if options["mode"] != "same":
                    s1 = tuple(
                        n if i in axes else int(rng.choice([1, n])) for i, n in enumerate(s1)
                    )
        else:
            options["method"] = str(rng.choice(["auto", "direct", "fft"]))
        a, b = values(rng, s1, first), values(rng, s2, second)
        actual, desired = (outcome(f, name, a, b, **options) for f in (ours, scipys))
        message = f"{s1} {first} {s2} {second} {options}: {actual!r}, {desired!r}"
        if isinstance(desired, Exception):
            unsupported = "type" in str(desired)
            # xconv.signal.convolve takes the few dtypes that only SciPy's direct sum lacks.
            if not (unsupported and name in ("convolve", "correlate")):
                assert isinstance(actual, type(desired)), message
            continue
        assert not isinstance(actual, Exception), message
        results += 1
        assert_same(actual, desired, a, b, fill, message)
    assert results > 5


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_every_small_size(name: str, mode: str) -> None:
    """Even and odd sizes, either one the larger: where "same" and "valid" start."""
    boundaries = ("fill", "wrap", "symm") if name in PLANAR else (None,)
    for n1, n2, m1, m2 in itertools.product((1, 2, 3, 6), (2, 5), (1, 2, 3, 4), (1, 2, 4)):
        a = np.arange(1, n1 * n2 + 1).reshape(n1, n2) ** 2
        b = np.arange(1, m1 * m2 + 1).reshape(m1, m2)
        for boundary in boundaries:
            options = {"boundary": boundary, "fillvalue": 7} if boundary else {}
            calls = [outcome(f, name, a, b, mode=mode, **options) for f in (ours, scipys)]
            if isinstance(calls[1], Exception):
                assert isinstance(calls[0], type(calls[1]))
            else:
                assert_same(*calls, a, b, 7, f"{a.shape} {b.shape} {options}")


def test_even_sized_same_is_the_centre_of_full() -> None:
    """Against the definition, since SciPy's two could be wrong alike."""
    a, b = np.arange(1.0, 8), np.array([1.0, 2, 4, 8])
    full = np.convolve(a, b)
    for name in ("convolve", *BROADCASTING):
        np.testing.assert_allclose(ours(name, a, b, mode="same"), full[1:8], rtol=1e-12)
        swapped = np.convolve(b, a)[3:7]
        np.testing.assert_allclose(ours(name, b, a, mode="same"), swapped, rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PLANAR)
def test_dtypes_and_fillvalues_in_two_dimensions(name: str, dtype: str) -> None:
    a, b = np.ones((3, 4), dtype), np.ones((2, 2), dtype)
    for fill in (0, 1, 1.7, -2, 300, 1j, 2 + 0j, True, [3], [1, 2], [], np.nan, "a"):
        actual, desired = (outcome(f, name, a, b, fillvalue=fill) for f in (ours, scipys))
        if isinstance(desired, Exception):
            assert isinstance(actual, type(desired)), fill
        elif isinstance(fill, float) and np.isnan(fill):
            np.testing.assert_array_equal(np.isnan(actual), np.isnan(desired))
        else:
            assert not isinstance(actual, Exception), (fill, actual)
            assert_same(actual, desired, a, b, 300, f"{fill}")


@pytest.mark.parametrize("boundary", ["wrap", "circular", "symm", "symmetric"])
def test_borders_in_two_dimensions_are_those_of_ndimage(boundary: str) -> None:
    """Also where the kernel is larger than the image."""
    rng = np.random.default_rng(0)
    mode = "wrap" if boundary in ("wrap", "circular") else "reflect"
    for shape, taps in itertools.product([(3, 4), (6, 5)], [(3, 3), (5, 9), (7, 1)]):
        a, b = rng.integers(0, 9, shape), rng.integers(-9, 9, taps)
        np.testing.assert_array_equal(
            signal.convolve2d(a, b, mode="same", boundary=boundary),
            scipy.ndimage.convolve(a, b, mode=mode),
        )


def test_a_fillvalue_that_is_not_used_is_not_checked() -> None:
    a, b = np.ones((3, 3), "i4"), np.ones((2, 2), "i4")
    for name in PLANAR:
        for fill in (1j, [1, 2]):
            actual = ours(name, a, b, boundary="wrap", fillvalue=fill)
            np.testing.assert_array_equal(
                actual, scipys(name, a, b, boundary="wrap", fillvalue=fill)
            )


def test_scalars_give_numpy_scalars() -> None:
    for name in ("convolve", "correlate", *BROADCASTING):
        for a, b in ((3, 4), (2.5, 2), (1j, 2 - 1j), (np.float32(2), np.array(3, "f4"))):
            actual, desired = (f(name, a, b) for f in (ours, scipys))
            assert isinstance(actual, np.generic)
            assert type(actual) is type(desired)
            assert actual == desired


def test_dtypes_where_nothing_is_transformed_and_for_empty_input() -> None:
    for name in BROADCASTING:
        for dtype in ("?", "i2", "u8", "f2", "g"):
            a, b = np.ones((4, 1), dtype), np.ones((1, 3), dtype)
            for options in ({}, {"axes": 0}, {"mode": "valid"}):
                assert_same(ours(name, a, b, **options), scipys(name, a, b, **options), a, b)
        for a, b in ((np.zeros((0, 3), "i4"), np.ones((2, 2), "i4")), (np.zeros(0), [1])):
            empty = ours(name, a, b) if np.ndim(a) == np.ndim(b) else None
            assert empty is not None
            assert empty.dtype == np.float64
            assert empty.shape == scipys(name, a, b).shape == (0,)


def test_empty_inputs_do_as_in_scipy() -> None:
    shapes = ((0,), (1,), (3,)), ((0, 2), (2, 0), (2, 2), (3, 1))
    for group in shapes:
        for s1, s2 in itertools.product(group, group):
            if 0 not in s1 + s2:
                continue
            a, b = np.ones(s1), np.ones(s2)
            for mode, name in itertools.product(("full", "same", "valid"), FUNCTIONS):
                if name in PLANAR and len(s1) != 2:
                    continue
                actual, desired = (outcome(f, name, a, b, mode=mode) for f in (ours, scipys))
                message = f"{name} {s1} {s2} {mode}: {actual!r}, {desired!r}"
                if "negative dimensions" in str(desired):  # of nothing with nothing
                    assert isinstance(actual, ValueError) or actual.size == 0, message
                elif isinstance(desired, Exception):
                    assert isinstance(actual, type(desired)), message
                else:
                    assert actual.shape == desired.shape, message
                    assert actual.dtype == desired.dtype, message
                    assert not actual.any(), message


@pytest.mark.parametrize("boundary", ["wrap", "symm"])
def test_an_empty_image_that_continues_is_refused(boundary: str) -> None:
    """SciPy divides by its size, which ends the process."""
    with pytest.raises(ValueError, match="empty"):
        signal.convolve2d(np.zeros((0, 2)), np.ones((2, 2)), boundary=boundary)


def test_integers_are_exact_whichever_method() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-(2**40), 2**40, 3000), rng.integers(-(2**20), 2**20, 1000)
    right = np.convolve(a, b)
    for method in ("auto", "direct", "fft"):
        np.testing.assert_array_equal(signal.convolve(a, b, method=method), right)
        np.testing.assert_array_equal(signal.correlate(a, b[::-1], method=method), right)
    small_a, small_b = rng.integers(-99, 99, (200, 300)), rng.integers(-9, 9, (60, 70))
    exact = scipy.signal.convolve(small_a, small_b, method="fft")  # rounds, and is far from 2^53
    np.testing.assert_array_equal(signal.convolve(small_a, small_b), exact)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_warn_with_fft_and_stay_in_their_windows(bad: float) -> None:
    x = np.random.default_rng(0).standard_normal(1000)
    x[100] = bad
    k = np.ones(9)
    with pytest.warns(RuntimeWarning, match="Use of fft convolution on input with NAN or inf"):
        forced = signal.convolve(x, k, mode="same", method="fft")
    for y in (forced, signal.convolve(x, k, mode="same"), signal.fftconvolve(x, k, mode="same")):
        assert not np.isfinite(y[96:105]).any()
        assert np.isfinite(np.delete(y, range(96, 105))).all()


def test_longdouble_keeps_its_precision() -> None:
    a = np.array([1, 2, 3], np.longdouble) / 3
    b = np.array([1, 1], np.longdouble) / 7
    for name in ("convolve", *BROADCASTING):
        y = ours(name, a, b)
        assert y.dtype == np.longdouble
        error = np.abs(y - np.array([1, 3, 5, 3], np.longdouble) / 21)
        assert (error <= 100 * np.finfo(np.longdouble).eps).all()


def test_objects_are_computed_as_scipy_does() -> None:
    from fractions import Fraction

    a = np.array([Fraction(1, 3), Fraction(2, 3)], object)
    assert signal.convolve(a, a, method="direct").tolist() == [
        Fraction(1, 9),
        Fraction(4, 9),
        Fraction(4, 9),
    ]


ONE, TWO = np.ones(3), np.ones((3, 3))
WRONG: tuple[tuple[str, Any, Any, dict[str, Any]], ...] = (
    *((name, ONE, TWO, {}) for name in FUNCTIONS),
    *((name, ONE, 2.0, {}) for name in FUNCTIONS),
    *((name, ONE, ONE, {}) for name in PLANAR),
    *((name, TWO, TWO, {"mode": "spam"}) for name in FUNCTIONS),
    *((name, TWO, TWO, {"mode": 0}) for name in FUNCTIONS),
    *((name, np.ones((2, 5)), np.ones((3, 3)), {"mode": "valid"}) for name in FUNCTIONS),
    *((name, TWO, TWO, {"method": "bacon"}) for name in FUNCTIONS[:2]),
    *((name, TWO, np.ones((2, 2)), {"axes": 0}) for name in BROADCASTING),
    *((name, TWO, TWO, {"axes": []}) for name in BROADCASTING),
    *((name, TWO, TWO, {"axes": [0, 0]}) for name in BROADCASTING),
    *((name, TWO, TWO, {"axes": 2}) for name in BROADCASTING),
    *((name, TWO, TWO, {"axes": 1.5}) for name in BROADCASTING),
    *((name, TWO, TWO, {"axes": "a"}) for name in BROADCASTING),
    *((name, TWO, TWO, {"boundary": "spam"}) for name in PLANAR),
    *((name, TWO, TWO, {"boundary": "reflect"}) for name in PLANAR),
    *((name, TWO, TWO, {"boundary": "reflect", "mode": "valid"}) for name in PLANAR),
    *((name, TWO > 0, TWO > 0, {}) for name in PLANAR),
    *((name, TWO.astype(object), TWO, {}) for name in PLANAR),
    *((name, [["a"]], [["b"]], {}) for name in FUNCTIONS[:-1]),
)


@pytest.mark.parametrize(("name", "a", "b", "options"), WRONG)
def test_wrong_calls_raise_what_scipy_raises(
    name: str, a: Any, b: Any, options: dict[str, Any]
) -> None:
    desired = outcome(scipys, name, a, b, **options)
    assert isinstance(desired, Exception), "SciPy takes this call"
    assert isinstance(outcome(ours, name, a, b, **options), type(desired))
