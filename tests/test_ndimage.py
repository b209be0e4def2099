"""xconv.ndimage against scipy.ndimage, call by call."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.ndimage

from xconv import ndimage

MODES = (
    *("reflect", "grid-mirror", "mirror", "constant", "grid-constant"),
    *("nearest", "wrap", "grid-wrap"),
)
DTYPES = (
    *("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"),
    *("f4", "f8", "c8", "c16", ">f4", ">i2"),
)
FUNCTIONS = ("correlate", "convolve", "correlate1d", "convolve1d")


def scipys(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(scipy.ndimage, name)(*arguments, **options)


def ours(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(ndimage, name)(*arguments, **options)


def outcome(function: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """The result, or the class of what was raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(name, *arguments, **options)
    except Exception as error:
        return next(c for c in type(error).__mro__ if c.__module__ in ("builtins", "numpy"))


def assert_same(
    actual: Any, desired: Any, x: np.ndarray, w: Any, cval: complex = 0, message: str = ""
) -> None:
    """Equal integers; floats within twice the error bound of a direct sum in double precision.

    SciPy rounds complex64 in the middle of its four sums, so the bound has the result's eps.
    """
    if isinstance(desired, type):
        assert actual is desired, message
        return
    assert type(actual) is type(desired), message
    assert actual.dtype == desired.dtype, message
    assert actual.shape == desired.shape, message
    if desired.dtype.kind == "b":
        # SciPy leaves bytes such as 3 in its bools.
        np.testing.assert_array_equal(actual, desired.view(np.uint8) != 0, message)
    elif desired.dtype.kind in "iu":
        np.testing.assert_array_equal(actual, desired, message)
    else:
        complex_single = "c8" in (x.dtype.str[1:], desired.dtype.str[1:])
        eps = np.finfo(np.float32 if complex_single else np.float64).eps
        held = np.where(np.isfinite(x), x, 0).astype(np.complex128)
        peak = max(np.abs(held).max(initial=0), abs(cval) if np.isfinite(cval) else 0)
        bound = 2 * (np.size(w) + 2) * eps * np.abs(w).sum() * peak
        finite = np.isfinite(desired)
        np.testing.assert_array_equal(np.isfinite(actual), finite, message)
        allowed = bound + np.finfo(desired.dtype).eps * np.abs(desired[finite])
        assert (np.abs(actual[finite] - desired[finite]) <= allowed).all(), message


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = np.dtype(dtype).kind
    if kind in "iu":
        info = np.iinfo(dtype)
        most = int(10 ** rng.integers(1, 19))
        low, high = max(info.min, -most), min(info.max, most)
        wide = np.dtype(dtype).newbyteorder("=")
        return rng.integers(low, high, shape, wide, endpoint=True).astype(dtype)
    if kind == "b":
        return rng.random(shape) < 0.5
    x = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)
    return (x + 1j * rng.standard_normal(shape) if kind == "c" else x).astype(dtype)


def some_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    kind = rng.integers(5)
    if kind == 0:
        return rng.integers(-3, 4, shape)
    if kind == 1:
        return rng.standard_normal(shape)
    if kind == 2:  # with zeros, and sums that are integers but for rounding
        return rng.integers(-2, 3, shape) / 3
    if kind == 3:
        return rng.standard_normal(shape) + 1j * rng.integers(-1, 2, shape)
    return np.full(shape, 1 / np.prod(shape))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 9])
def test_modes_sizes_and_origins(name: str, mode: str, taps: int) -> None:
    """Weights of every parity, also longer than the input, at every origin."""
    x = np.arange(20.0).reshape(4, 5) ** 2
    w = np.arange(1.0, taps + 1)
    for origin in range(-taps, taps + 1):
        options = {"mode": mode, "cval": 7.0, "origin": origin}
        if not name.endswith("1d"):
            w = w.reshape(1, -1) if taps % 2 else w.reshape(-1, 1)
            options["origin"] = (origin, 0) if w.shape[1] == 1 else (0, origin)
        actual, desired = (outcome(f, name, x, w, **options) for f in (ours, scipys))
        assert_same(actual, desired, x, w, 7, f"{origin=}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_random_calls(name: str, dtype: str) -> None:
    """Everything at once: shapes, axes, outputs, overlap, values that are not finite."""
    rng = np.random.default_rng([FUNCTIONS.index(name), DTYPES.index(dtype)])
    results = 0
    for _ in range(30):
        ndim = int(rng.integers(1, 4))
        shape = tuple(int(n) for n in rng.integers(0 if rng.random() < 0.05 else 1, 9, ndim))
        x = values(rng, shape, dtype)
        if x.dtype.kind in "fc" and x.size and rng.random() < 0.2:
            x.reshape(-1)[rng.integers(x.size)] = rng.choice([np.nan, np.inf])
        options: dict[str, Any] = {
            "mode": str(rng.choice(MODES)),
            "cval": float(rng.choice([0, 1.5, -3, np.nan])),
        }
        if name.endswith("1d"):
            size: tuple[int, ...] = (int(rng.integers(1, 7)),)
            options |= {"axis": int(rng.integers(-ndim, ndim)), "origin": int(rng.integers(-2, 3))}
        else:
            axes = [int(a) for a in rng.permutation(ndim)]
            if rng.random() < 0.4:
                axes = axes[: rng.integers(0, ndim + 1)]
                options["axes"] = tuple(a - ndim * int(rng.integers(2)) for a in axes)
            size = tuple(int(n) for n in rng.integers(1, 5, len(axes)))
            options["origin"] = [int(o) for o in rng.integers(-1, 2, len(axes))]
        w = some_weights(rng, size)
        output = rng.choice(["default", "dtype", "array", "input"])
        wanted = np.dtype(str(rng.choice(DTYPES)))
        if output == "dtype":
            options["output"] = wanted
        elif output == "array":
            options["output"] = np.zeros(shape, wanted)
        calls = []
        for function in (ours, scipys):
            given = x.copy()
            # SciPy reads complex input that it has partly overwritten.
            target = given if function is ours or x.dtype.kind != "c" else x.copy()
            mine = options | ({"output": target} if output == "input" else {})
            if output == "array":
                mine["output"] = options["output"].copy()
            calls.append(outcome(function, name, given, w, **mine))
        if x.size == 0 and any(call is RuntimeError for call in calls):  # dtypes of nothing
            continue
        results += not isinstance(calls[1], type)
        assert_same(*calls, x, w, options["cval"], f"{shape} {w!r} {options} {output}")
    assert results > 10


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "i8", "?"])
def test_integers_are_cut_as_scipy_cuts_them(name: str, dtype: str) -> None:
    """Thirds, ninths and tenths, whose sums lie on either side of an integer by rounding."""
    rng = np.random.default_rng(3)
    x = np.full((12, 13), 99).astype(dtype)
    x[4:, 5:] = rng.integers(0, 2 if dtype == "?" else 100, (8, 8))
    one = name.endswith("1d")
    for parts in ([1, 1, 1], [1, 2, 1, 3], [3, -1, 2, 2, 1], [1, 2, 3, 2, 1]):
        line = np.array(parts) / sum(parts)
        w = line if one else np.multiply.outer(line, line)
        np.testing.assert_array_equal(
            ours(name, x, w).view(np.uint8) != 0 if dtype == "?" else ours(name, x, w),
            scipys(name, x, w).view(np.uint8) != 0 if dtype == "?" else scipys(name, x, w),
        )


@pytest.mark.parametrize("output", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "u8", "f4"])
def test_values_beyond_the_output_dtype_wrap_as_in_scipy(output: str) -> None:
    x = np.array([-1.5, -0.5, 0.5, 1.5, 127.9, 128.0, 255.9, 256.0, -129.0, 65536.5, -70000.0])
    for name, w in (("correlate", [2.0]), ("correlate1d", [-1.0]), ("convolve1d", [1.0, 0.5])):
        actual, desired = (f(name, x, w, output=np.dtype(output)) for f in (ours, scipys))
        assert_same(actual, desired, x, w, message=name)


@pytest.mark.parametrize("name", ["convolve", "convolve1d", "correlate", "correlate1d"])
def test_the_default_boundary_is_reflect(name: str) -> None:
    x, w = np.array([1.0, 10.0, 100.0, 1000.0]), [1.0, 2.0, 4.0]
    np.testing.assert_array_equal(ours(name, x, w), scipys(name, x, w, mode="reflect"))
    assert (ours(name, x, w) != scipys(name, x, w, mode="mirror")).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_default_dtype_is_the_inputs(name: str, dtype: str) -> None:
    x = np.ones(5, dtype)
    result = ours(name, x, [0.5, 1.0, 0.5])
    assert result.dtype == scipys(name, x, [0.5, 1.0, 0.5]).dtype
    assert result.dtype.isnative


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_counts_under_zero_weights_only_along_one_axis(bad: float) -> None:
    """The N-D functions leave zero weights out, the 1-D ones do not."""
    x = np.ones((7, 7))
    x[3, 3] = bad
    cross = np.array([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])
    for name in ("correlate", "convolve"):
        spread = ~np.isfinite(ours(name, x, cross))
        assert spread.sum() == 5
        np.testing.assert_array_equal(spread, ~np.isfinite(scipys(name, x, cross)))
    for name in ("correlate1d", "convolve1d"):
        spread = ~np.isfinite(ours(name, x, [1.0, 0.0, 2.0]))
        assert spread.sum() == 3
        np.testing.assert_array_equal(spread, ~np.isfinite(scipys(name, x, [1.0, 0.0, 2.0])))


def test_tiny_weights_are_left_out_only_by_the_nd_functions() -> None:
    x, w = np.full(5, 1e20), np.full(3, 1e-17)
    for name in FUNCTIONS:
        np.testing.assert_allclose(ours(name, x, w), scipys(name, x, w), rtol=1e-15)
    assert (ours("correlate", x, w) == 0).all()
    assert (ours("correlate1d", x, w) > 1000).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_output_may_overlap_input(name: str) -> None:
    base = np.random.default_rng(0).standard_normal(12)
    x, y = base[:-2], base[2:]
    right = scipys(name, x.copy(), [1.0, 2.0, 3.0])
    result = ours(name, x, [1.0, 2.0, 3.0], output=y)
    assert result is y
    np.testing.assert_allclose(y, right, rtol=1e-14, atol=1e-14)


def test_arrays_as_they_come() -> None:
    base = np.random.default_rng(0).standard_normal((8, 9, 10))
    w = np.arange(1.0, 13.0).reshape(3, 4)
    read_only = base[0].copy()
    read_only.flags.writeable = False
    for x in (
        base[::2, ::-1, 3],
        base.T[2],
        read_only,
        base[1].tolist(),
        np.asfortranarray(base[0]),
    ):
        for k in (w, w[::-1, ::-1], w.T, w.tolist()):
            right = scipys("convolve", x, k)
            np.testing.assert_allclose(ours("convolve", x, k), right, rtol=1e-13, atol=1e-11)


WRONG: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = tuple(
    (name, (x, w), options)
    for (names, x, w, options) in (
        # weights
        (FUNCTIONS[:2], np.ones((3, 3)), [1.0, 2.0], {}),
        (FUNCTIONS[:2], np.ones((3, 3)), [[]], {}),
        (FUNCTIONS[:2], np.ones((3, 3)), np.ones((3, 3)), {"axes": (0,)}),
        (FUNCTIONS[2:], np.ones((3, 3)), np.ones((2, 2)), {}),
        (FUNCTIONS[2:], np.ones((3, 3)), [], {}),
        (FUNCTIONS[2:], np.ones((3, 3)), 2.0, {}),
        (FUNCTIONS, np.ones(3), ["a"], {}),
        # modes
        (FUNCTIONS, np.ones(3), [1.0], {"mode": "circular"}),
        (FUNCTIONS, np.ones(3), [1.0], {"mode": ["reflect"]}),
        (FUNCTIONS, np.ones(3), [1.0], {"mode": None}),
        # origins
        (FUNCTIONS, np.ones(5), [1.0, 2.0, 3.0], {"origin": 2}),
        (FUNCTIONS, np.ones(5), [1.0, 2.0, 3.0], {"origin": -2}),
        (FUNCTIONS, np.ones(5), [1.0, 2.0], {"origin": 1.0}),
        (FUNCTIONS, np.ones(5), [1.0, 2.0], {"origin": "a"}),
        (FUNCTIONS[:2], np.ones(5), [1.0, 2.0], {"origin": [0, 0]}),
        # axes
        (FUNCTIONS[:2], np.ones((3, 3)), [1.0], {"axes": 1.0}),
        (FUNCTIONS[:2], np.ones((3, 3)), [1.0], {"axes": (2,)}),
        (FUNCTIONS[:2], np.ones((3, 3)), [[1.0]], {"axes": (0, 0)}),
        (FUNCTIONS[:2], np.ones((3, 3)), [1.0], {"axes": "a"}),
        (FUNCTIONS[2:], np.ones((3, 3)), [1.0], {"axis": 2}),
        (FUNCTIONS[2:], np.ones((3, 3)), [1.0], {"axis": 0.0}),
        (FUNCTIONS[2:], 3.0, [1.0], {}),
        # cval
        (FUNCTIONS, np.ones(3), [1.0], {"mode": "constant", "cval": 1j}),
        (FUNCTIONS, np.ones(3), [1j], {"mode": "constant", "cval": 1j}),
        (FUNCTIONS, np.ones(3), [1.0], {"mode": "constant", "cval": "1"}),
        (FUNCTIONS, np.ones(3), [1.0], {"mode": "constant", "cval": None}),
        (FUNCTIONS, np.ones(3), [1.0], {"mode": "constant", "cval": [1]}),
        # outputs and dtypes
        (FUNCTIONS, np.ones(3), [1.0], {"output": np.ones(4)}),
        (FUNCTIONS, np.ones(3), [1j], {"output": np.ones(3)}),
        (FUNCTIONS, np.ones(3), [1j], {"output": "float64"}),
        (FUNCTIONS, np.ones(3), [1.0], {"output": "bool"}),
        (FUNCTIONS, np.ones(3), [1.0], {"output": np.float16}),
        (FUNCTIONS, np.ones(3), [1.0], {"output": np.broadcast_to(np.float64(0), (3,))}),
        (FUNCTIONS, np.ones(3), [1.0], {"output": "complex128"}),
        (FUNCTIONS, np.ones(3, np.float16), [1.0], {}),
        (FUNCTIONS, np.ones(3, np.longdouble), [1.0], {}),
        (FUNCTIONS, np.array([1, 2, 3], object), [1.0], {}),
        (FUNCTIONS, np.array(["a", "b"]), [1.0], {}),
    )
    for name in names
)


@pytest.mark.parametrize(("name", "arguments", "options"), WRONG)
def test_wrong_calls_raise_what_scipy_raises(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    desired = outcome(scipys, name, *arguments, **options)
    assert isinstance(desired, type), "SciPy takes this call"
    actual = outcome(ours, name, *arguments, **options)
    assert actual is desired


def test_a_real_output_dtype_is_promoted_with_a_warning() -> None:
    for name in FUNCTIONS:
        with pytest.warns(UserWarning, match="promoting specified output dtype to complex"):
            assert ours(name, np.ones(3), [1j], output=np.float32).dtype == np.complex64


def test_scalars_and_empty_inputs() -> None:
    for name, x in itertools.product(("correlate", "convolve"), (3, 2.5, 2j)):
        actual, desired = (f(name, x, 2) for f in (ours, scipys))
        assert type(actual) is type(desired)
        assert actual.dtype == desired.dtype
        assert actual == desired
    for mode, shape in itertools.product(MODES, ((0,), (0, 3), (3, 0))):
        for name in FUNCTIONS[:2]:
            assert ours(name, np.zeros(shape), np.ones((2,) * len(shape)), mode=mode).shape == shape
        assert ours("correlate1d", np.zeros(shape), [1.0, 2.0], mode=mode).shape == shape
