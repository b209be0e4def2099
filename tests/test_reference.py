"""The oracle against tables worked out by hand, SciPy, and exact rational arithmetic."""

import itertools
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from xconv import reference
from xconv.errors import ArgumentError, ArgumentTypeError

BOUNDARIES = ("constant", "reflect", "mirror", "nearest", "wrap")

# x is 1 2 3 4 and the kernel's digits are powers of ten, so that each output spells its window.
ONE_AXIS = [
    ("convolve", [1, 10, 100], "full", [1, 12, 123, 234, 340, 400]),
    ("convolve", [1, 10, 100], "same", [12, 123, 234, 340]),
    ("convolve", [1, 10, 100], "valid", [123, 234]),
    ("convolve", [1, 10, 100], [(1, 0)], [12, 123, 234]),
    ("convolve", [1, 10, 100], [(0, 3)], [123, 234, 340, 400, 0]),
    ("convolve", [1, 10], "full", [1, 12, 23, 34, 40]),
    ("convolve", [1, 10], "same", [1, 12, 23, 34]),
    ("convolve", [1, 10], "valid", [12, 23, 34]),
    ("convolve", [1, 10, 100, 1000], "same", [12, 123, 1234, 2340]),
    ("convolve", [1, 10, 100, 1000], "valid", [1234]),
    ("convolve", [1, 10, 100, 1000, 10000], "same", [123, 1234, 12340, 23400]),
    ("correlate", [1, 10, 100], "full", [100, 210, 321, 432, 43, 4]),
    ("correlate", [1, 10, 100], "same", [210, 321, 432, 43]),
    ("correlate", [1, 10, 100], "valid", [321, 432]),
    ("correlate", [1, 10, 100], [(2, 0)], [100, 210, 321, 432]),
    ("correlate", [1, 10], "same", [10, 21, 32, 43]),
]


@pytest.mark.parametrize(("op", "kernel", "mode", "right"), ONE_AXIS)
def test_modes_by_hand(op, kernel, mode, right):
    assert getattr(reference, op)([1, 2, 3, 4], kernel, mode=mode).tolist() == right


@pytest.mark.parametrize(
    ("names", "cval", "row"),
    [
        (("constant", "fill"), 9, "9999912399999"),
        (("zeros",), 0, "0000012300000"),
        (("reflect", "symmetric"), 0, "2332112332112"),
        (("mirror", "reflect_101"), 0, "2123212321232"),
        (("nearest", "edge", "replicate"), 0, "1111112333333"),
        (("wrap", "circular", "periodic"), 0, "2312312312312"),
    ],
)
def test_boundaries_by_hand(names, cval, row):
    for name in names:
        y = reference.correlate([1, 2, 3], [1], mode=[(5, 5)], boundary=name, cval=cval)
        assert "".join(map(str, y)) == row, name


@pytest.mark.parametrize("boundary", BOUNDARIES[1:])
def test_one_pixel_continues_as_itself(boundary):
    assert reference.correlate([7], [1], mode=[(3, 2)], boundary=boundary).tolist() == [7] * 6


@pytest.mark.parametrize(
    ("op", "keywords", "right"),
    [
        ("convolve", {"mode": "valid", "dilation": 2}, [13, 24, 35]),
        ("correlate", {"mode": "valid", "dilation": 2}, [31, 42, 53]),
        ("convolve", {"mode": "full", "dilation": 2}, [1, 2, 13, 24, 35, 40, 50]),
        # extent 3: "same" starts at 1 of "full"; extent 4: also at 1
        ("convolve", {"mode": "same", "dilation": 2}, [2, 13, 24, 35, 40]),
        ("convolve", {"mode": "same", "dilation": 3}, [2, 3, 14, 25, 30]),
        ("convolve", {"mode": "full", "stride": 2}, [1, 23, 45]),
        ("convolve", {"mode": "full", "stride": 9}, [1]),
        ("convolve", {"mode": "full", "dilation": 2, "stride": 3}, [1, 24, 50]),
    ],
)
def test_stride_and_dilation_by_hand(op, keywords, right):
    assert getattr(reference, op)([1, 2, 3, 4, 5], [1, 10], **keywords).tolist() == right


def test_two_axes_by_hand():
    x, k = [[1, 2], [3, 4]], [[1, 10], [100, 1000]]
    full = [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]
    assert reference.convolve(x, k).tolist() == full
    assert reference.convolve(x, k, stride=(2, 1)).tolist() == full[::2]
    assert reference.convolve(x, k, mode=[(1, 0), (0, 1)]).tolist() == [[12, 20], [1234, 2040]]
    assert reference.correlate(x, k, mode="valid").tolist() == [[4321]]


def test_letters_by_hand():
    x = np.array([[1, 2], [3, 4]])  # C=2, L=2
    plain = [[1, 12, 20], [3, 34, 40]]
    assert reference.convolve(x, [1, 10], layout="CL").tolist() == plain
    assert reference.convolve(x.T, [1, 10], layout="LC").T.tolist() == plain
    assert reference.convolve(x, [1, 10]).tolist() == plain
    assert reference.convolve(x, [[1], [10]], axes=(0, 1)).tolist() == [[1, 2], [13, 24], [30, 40]]
    assert reference.convolve(x, [[1], [10]], axes=(-1, 0)).tolist() == plain
    depthwise = reference.convolve(x, [[1, 10], [2, 0]], layout="CL", kernel_layout="CL")
    assert depthwise.tolist() == [[1, 12, 20], [6, 8, 0]]
    bank = reference.convolve(x, [[1, 10], [2, 0]], layout="NL", kernel_layout="OL")
    assert bank.tolist() == [[plain[0], [2, 4, 0]], [plain[1], [6, 8, 0]]]
    summed = {"layout": "CL", "kernel_layout": "IL"}
    assert reference.convolve(x, [[1, 10], [2, 0]], **summed).tolist() == [7, 20, 20]


def test_groups_own_consecutive_channels():
    x = np.array([1, 2, 3, 4])[:, np.newaxis]  # C=4, L=1
    letters = {"layout": "CL", "kernel_layout": "OIL", "groups": 2}
    k = np.array([[1, 10], [100, 1000]])[..., np.newaxis]
    assert reference.convolve(x, k, **letters).ravel().tolist() == [21, 4300]
    k = np.array([[1, 0], [0, 1], [10, 0], [0, 10]])[..., np.newaxis]
    assert reference.convolve(x, k, **letters).ravel().tolist() == [1, 2, 30, 40]


@pytest.mark.parametrize(
    ("layout", "x_shape", "kernel_layout", "k_shape", "out_layout", "y_shape"),
    [
        ("NHWC", (2, 7, 8, 3), None, (3, 3), None, (2, 7, 8, 3)),
        ("HWN", (7, 8, 2), "WH", (3, 5), None, (7, 8, 2)),
        ("NHWC", (2, 7, 8, 3), "HWC", (3, 3, 3), None, (2, 7, 8, 3)),
        ("NHWC", (2, 7, 8, 3), "HWIO", (3, 3, 3, 5), None, (2, 7, 8, 5)),
        ("NCHW", (2, 4, 7, 8), "OIHW", (6, 2, 3, 3), None, (2, 6, 7, 8)),
        ("NHW", (2, 7, 8), "OHW", (5, 3, 3), None, (2, 5, 7, 8)),
        ("NHW", (2, 7, 8), "HWO", (3, 3, 5), None, (2, 7, 8, 5)),
        ("NHW", (2, 7, 8), "HOW", (3, 5, 3), "ONWH", (5, 2, 8, 7)),
        ("HWN", (7, 8, 2), "OHW", (5, 3, 3), None, (5, 7, 8, 2)),
        ("NHWC", (2, 7, 8, 3), "HWCO", (3, 3, 3, 5), None, (2, 7, 8, 3, 5)),
        ("NCHW", (2, 3, 7, 8), "IHW", (3, 3, 3), None, (2, 7, 8)),
        ("...L", (2, 3, 9), "L", (3,), "L...", (9, 2, 3)),
        ("L...", (9,), "L", (3,), None, (9,)),
    ],
)
def test_shapes_by_hand(layout, x_shape, kernel_layout, k_shape, out_layout, y_shape):
    y = reference.convolve(
        np.ones(x_shape),
        np.ones(k_shape),
        layout=layout,
        kernel_layout=kernel_layout,
        out_layout=out_layout,
        groups=2 if k_shape == (6, 2, 3, 3) else 1,
        mode="same",
    )
    assert y.shape == y_shape


def test_dtypes_by_hand():
    u8, i16, f2, f4 = (np.dtype(n) for n in ("u1", "i2", "f2", "f4"))
    x = np.array([200, 100])
    assert reference.convolve(x.astype(u8), np.array([2, 1], u8)).tolist() == [144, 144, 100]
    assert reference.convolve(x.astype(u8), np.array([2, 1], i16)).tolist() == [400, 400, 100]
    wide = reference.convolve(x.astype(u8), np.array([2, 1], u8), dtype="i8")
    assert wide.tolist() == [400, 400, 100]
    assert reference.convolve(np.ones(3, f4), [0.5, 0.5]).dtype == f4
    assert reference.convolve(np.ones(3, f4), np.array([0.5, 0.5])).dtype == np.float64
    assert reference.convolve(np.ones(3, u8), [0.5]).dtype == np.float64
    assert reference.convolve(np.ones(3, "u8"), np.ones(1, "i8")).dtype == np.float64
    assert reference.convolve(np.ones(3, ">f4"), np.ones(1, ">f4")).dtype.isnative
    either = reference.convolve(np.array([True, False, True]), np.array([True, True]))
    assert either.dtype == np.bool_
    assert either.tolist() == [True] * 4
    # float16: 2048 + 1 is a tie that rounds to even once, not at every step
    ones = reference.convolve(np.array([2048, 1, 1], f2), np.ones(3, f2), mode="valid")
    assert ones.tolist() == [2050.0]
    assert reference.correlate([1j], [1j]).tolist() == [1]
    assert reference.convolve([1j], [1j]).tolist() == [-1]


def test_integers_wrap_as_python_integers_do():
    rng = np.random.default_rng(1)
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"):
        limits = np.iinfo(dtype)
        x, k = (rng.integers(limits.min, limits.max, n, dtype, endpoint=True) for n in (9, 4))
        exact = [sum(int(k[t]) * int(x[p - t]) for t in range(4)) for p in range(3, 9)]
        span = 2**limits.bits
        wrapped = [(n - limits.min) % span + limits.min for n in exact]
        assert reference.convolve(x, k, mode="valid").tolist() == wrapped


def test_nonfinite_values_stay_in_their_windows():
    nan, inf = np.nan, np.inf
    y = reference.expected([1.0, nan, 1.0, inf, 1.0], [1.0, 0.0])
    assert y.touched.tolist() == [False, True, True, True, True, False]
    np.testing.assert_array_equal(y.values, [1, nan, nan, inf, nan, 0])
    holes = reference.expected([0, 0, nan, 0, 0, 0], [1.0, 1.0], mode="valid", dilation=2)
    assert holes.touched.tolist() == [True, False, True, False]
    outside = reference.expected([1.0, 1.0], [1.0, 1.0], cval=nan)
    assert outside.touched.tolist() == [True, False, True]
    assert reference.expected([1.0, 1.0], [1.0, 1.0], boundary="wrap", cval=nan).touched.sum() == 0
    bank = np.array([[1.0], [inf]])
    kernel = reference.expected(np.zeros((1, 2)), bank, layout="NL", kernel_layout="OL")
    assert kernel.touched.tolist() == [[[False, False], [True, True]]]


def test_bound_by_hand():
    eps, tiny = 2.0**-52, 2.0**-1074
    y = reference.expected([1.0, -4.0, np.nan], [2.0, -1.0], cval=-5)
    assert y.scale.tolist() == [15.0] * 4
    assert y.terms == y.direct == 2
    assert np.array_equal(y.bound(7), np.full(4, 7 * (15 * np.longdouble(eps) + 9 * tiny)))
    channels = {"layout": "CL", "kernel_layout": "CL"}
    y = reference.expected([[1.0, 2.0], [30.0, 4.0]], [[1.0], [10.0]], **channels)
    assert y.scale.tolist() == [[2.0, 2.0], [300.0, 300.0]]
    y = reference.expected([[1.0], [30.0]], [[1.0], [10.0]], layout="CL", kernel_layout="IL")
    assert y.scale.tolist() == [330.0]
    assert reference.expected([1e308], [2.0, 9.0]).bound(1).tolist() == [np.inf, np.inf]
    assert not reference.expected([1], [1, 2]).bound(1).any()
    half = reference.expected(np.array([1.0], "f2"), np.array([1.0], "f2"))
    assert half.bound(0).tolist() == [2.0**-11]
    assert reference.expected([1j], [1j]).direct == 3
    assert reference.expected([1], [1], dtype="f4").direct == 3


@pytest.mark.parametrize("actual", [[1, 3, 2.1], [1, 3], [1, 3, np.nan], [1, 3, np.inf], [3, 3, 2]])
def test_disagreement_can_fail(actual):
    right = reference.expected([1.0, 2.0], [1.0, 1.0])
    assert right.disagreement(np.array([1.0, 3.0, 2.0]), right.direct) == ""
    assert right.disagreement(np.array(actual, float), right.direct)
    assert right.disagreement(np.array([1, 3, 2], "f4"), right.direct)


def test_disagreement_wants_nonfinite_exactly_where_touched():
    right = reference.expected([1.0, np.nan], [1.0])
    assert right.disagreement(np.array([1.0, np.inf]), 1) == ""
    assert right.disagreement(np.array([1.0, 0.0]), 1)
    assert right.disagreement(np.array([np.nan, np.nan]), 1)
    exact = reference.expected([1, 2], [1])
    assert exact.disagreement(np.array([1, 2]), 1) == ""
    assert exact.disagreement(np.array([1, 3]), 1e9)


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"mode": "valid"}, ArgumentError),
        ({"cval": 1, "boundary": "zeros"}, ArgumentError),
        ({"cval": 1j}, ArgumentError),
        ({"layout": "NL"}, ArgumentError),
        ({"layout": "L", "out_layout": "LN"}, ArgumentError),
        ({"dtype": "i8"}, ArgumentTypeError),
    ],
)
def test_no_answer(keywords, error):
    with pytest.raises(error):
        reference.convolve([1.0], [1.0, 2.0], **keywords)


def numbers(rng, shape, dtype):
    values = rng.normal(size=shape) * 100
    return (values + 1j * rng.normal(size=shape) if dtype[0] == "c" else values).astype(dtype)


@pytest.mark.parametrize("op", ["convolve", "correlate"])
@pytest.mark.parametrize("dtype", ["i8", "f4", "f8", "c16"])
def test_scipy_signal(op, dtype):
    rng = np.random.default_rng(2)
    for mode, dims in itertools.product(("full", "same", "valid"), (1, 2, 3)):
        for _ in range(4):
            size = rng.integers(1, 6, dims)
            taps = rng.integers(1, size + 1) if mode == "valid" else rng.integers(1, 6, dims)
            x, k = numbers(rng, size, dtype), numbers(rng, taps, dtype)
            right = reference.expected(x, k, op=op, mode=mode)
            actual = getattr(scipy.signal, op)(x, k, mode, method="direct")
            assert right.disagreement(actual, right.direct) == ""


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("boundary", [("fill", 3), ("wrap", 0), ("symm", 0)])
def test_scipy_convolve2d(mode, boundary):
    rng = np.random.default_rng(3)
    name, fill = boundary
    for op in ("convolve", "correlate"):
        for _ in range(6):
            x, k = (numbers(rng, rng.integers(4, 7, 2), "f8") for _ in range(2))
            k = k[: x.shape[0], : x.shape[1]]
            keywords = {"mode": mode, "boundary": {"symm": "symmetric"}.get(name, name)}
            right = reference.expected(x, k, op=op, cval=fill, **keywords)
            actual = getattr(scipy.signal, op + "2d")(x, k, mode, name, fill)
            if op == "correlate" and mode == "same" and not all(n % 2 for n in k.shape):
                continue  # correlate2d centres even kernels otherwise than scipy.signal.correlate
            assert right.disagreement(actual, right.direct) == ""


@pytest.mark.parametrize("op", ["convolve", "correlate"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_scipy_ndimage_with_kernels_wider_than_the_image(op, boundary):
    rng = np.random.default_rng(4)
    for dims in (1, 2, 3):
        for _ in range(8):
            size, taps = rng.integers(1, 5, dims), rng.integers(1, 12 if dims == 1 else 8, dims)
            x, k = numbers(rng, size, "f8"), numbers(rng, taps, "f8")
            # ndimage puts the window of K taps at K//2 before the output, after the reversal
            pairs = [(int(n) // 2, int(n - 1) // 2) for n in taps]
            pairs = [pair[::-1] for pair in pairs] if op == "convolve" else pairs
            right = reference.expected(x, k, op=op, mode=pairs, boundary=boundary, cval=2)
            actual = getattr(scipy.ndimage, op)(x, k, mode=boundary, cval=2)
            assert right.disagreement(actual, right.direct) == ""


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_long_double_against_exact_arithmetic(dtype):
    rng = np.random.default_rng(5)
    x, k = numbers(rng, 40, dtype), numbers(rng, 17, dtype)
    x *= 10.0 ** rng.integers(-8, 8, x.shape)
    right = reference.expected(x, k, mode="valid")
    half_eps = float(np.finfo(np.longdouble).eps) / 2
    for p, value in enumerate(right.values):
        window = x[p : p + 17][::-1]
        exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(window, k, strict=True))
        with mpmath.workprec(400):
            by_mpmath = mpmath.fdot(map(float, window), map(float, k))
            assert by_mpmath == mpmath.mpf(exact.numerator) / exact.denominator
        numerator, denominator = value.as_integer_ratio()
        error = abs(Fraction(numerator, denominator) - exact)
        # the textbook bound of a sum of n products, n u sum|k||x| (1 + O(u))
        assert error <= Fraction(18 * half_eps) * Fraction(float(right.scale[p]))
