"""What users of other libraries complained of, by issue number, does not happen here."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import xconv
from xconv import reference

from .strategies import constant

FLOAT_METHODS = ("direct", "fft", "separable", "auto")


def box(*size, dtype="f8"):
    """Of rank 1, so that every method takes it."""
    return np.ones(size, dtype) / np.prod(size).astype(dtype)


@pytest.mark.parametrize("method", FLOAT_METHODS)
@pytest.mark.parametrize("taps", [(2, 3), (7, 9), (12, 3)])
def test_scipy_21876_cupy_10292_same_has_the_shape_of_the_image(method, taps):
    """fftconvolve(mode="same", axes=) takes the other batch's size where one is broadcast."""
    images = np.random.default_rng(41).normal(size=(5, 6, 8))
    bank = np.stack([box(*taps), -box(*taps), 2 * box(*taps)])
    y = xconv.convolve(images, bank, layout="NHW", kernel_layout="OHW", mode="same", method=method)
    assert y.shape == (5, 3, 6, 8)
    for n, o in np.ndindex(5, 3):
        full = scipy.signal.convolve(images[n], bank[o], method="direct")
        at = [slice((t - 1) // 2, (t - 1) // 2 + s) for t, s in zip(taps, (6, 8), strict=True)]
        np.testing.assert_allclose(y[n, o], full[tuple(at)], rtol=0, atol=1e-12)
    one = xconv.convolve(
        images[0], bank, layout="HW", kernel_layout="OHW", mode="same", method=method
    )
    assert one.shape == (3, 6, 8)
    assert xconv.convolve(images, bank[0], mode="same", method=method).shape == (5, 6, 8)


@pytest.mark.parametrize("method", FLOAT_METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scipy_15927_nonfinite_values_stay_in_their_windows(method, bad):
    x = np.random.default_rng(42).normal(size=(2, 64, 64))
    k = box(5, 3)
    clean = xconv.convolve(x, k, mode="same", method=method)
    spoilt = x.copy()
    spoilt[0, 20, 30] = bad
    y = xconv.convolve(spoilt, k, mode="same", method=method)
    window = np.zeros(x.shape, bool)
    window[0, 18:23, 29:32] = True
    np.testing.assert_array_equal(~np.isfinite(y), window)
    plan = xconv.plan(x, k, mode="same", method=method)
    limit = 2 * constant(plan) * np.finfo(float).eps * np.abs(x).max()
    assert np.abs(y - clean)[~window].max() <= limit


@pytest.mark.parametrize("method", FLOAT_METHODS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_scipy_22390_a_tiny_image_next_to_a_huge_one(method, dtype):
    """The bound is that of the image's own values, not of its neighbours in the batch."""
    rng = np.random.default_rng(43)
    scales = np.array([1e-12, 1e12, 1.0, 1e-12], dtype)
    x = (rng.normal(size=(48, 40, 4)) * scales).astype(dtype)
    k = box(5, 3, dtype=dtype)
    keywords = {"layout": "HWN", "mode": "same"}
    right = reference.expected(x, k, **keywords)
    plan = xconv.plan(x, k, method=method, **keywords)
    assert right.bound(1)[..., 0].max() < 1e-15  # so the check is one
    assert right.disagreement(plan(x), constant(plan)) == ""


@pytest.mark.parametrize("method", ["direct", "fft", "auto"])
def test_scipy_22390_magnitudes_from_1_to_1e162(method):
    """The report's own signal: a transform can only keep the bound of the largest value, direct
    is right to eps of each output, since no window mixes magnitudes that cancel."""
    powers = [10 ** (9 * i) for i in range(10)]
    x = np.array([0] * 3000 + powers, float)
    plan = xconv.plan(x, x, method=method)
    y = plan(x)[-19:]
    exact = [sum(a * b for i, a in enumerate(powers) for j, b in enumerate(powers) if i + j == n)
             for n in range(19)]  # fmt: skip
    eps = np.finfo(float).eps
    if plan.method == "direct":
        assert np.abs(y / np.array(exact, float) - 1).max() <= 12 * eps
    else:
        limit = constant(plan) * eps * x.sum() * x.max()
        assert max(abs(float(int(a) - b)) for a, b in zip(y, exact, strict=True)) <= limit


@pytest.mark.parametrize("dtype", ["i8", "u8", "i4", "u1"])
@pytest.mark.parametrize("shape", [(2000, 500), (200, 200, 31, 31)])
def test_scipy_6076_10390_integers_never_go_through_a_transform(dtype, shape):
    rng = np.random.default_rng(44)
    half = len(shape) // 2
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, shape[:half], dtype, endpoint=True)
    k = rng.integers(info.min, info.max, shape[half:], dtype, endpoint=True)
    y = xconv.convolve(x, k, mode="valid")
    assert y.dtype == dtype
    for at in [(0,) * half, (7,) * half, tuple(n - 1 for n in y.shape)]:
        window = x[tuple(slice(p, p + n) for p, n in zip(at, k.shape, strict=True))]
        exact = sum(
            a * b for a, b in zip(window.ravel().tolist(), k.ravel().tolist()[::-1], strict=True)
        )
        span = 2**info.bits
        assert int(y[at]) == (exact - info.min) % span + info.min
    for method in ("fft", "separable"):
        with pytest.raises(xconv.MethodRefused, match=r"exact|nothing to separate"):
            xconv.convolve(x, k, method=method)
    assert xconv.plan(x, k).method == "direct"


def test_scipy_10527_integer_images_are_not_truncated():
    x = np.arange(12, dtype="u1").reshape(3, 4)
    y = xconv.convolve(x, np.array([[0.5, 0.25]]), mode="same")
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y[0], [0.0, 0.5, 1.25, 2.0])
    assert xconv.convolve(x, [[0.5, 0.25]], mode="same").dtype == np.float64
    edge = xconv.correlate(x, np.array([[0.5, 0.25]]), mode="full", cval=np.nan)
    assert np.isnan(edge[:, [0, -1]]).all()
    assert np.isfinite(edge[:, 1:-1]).all()
    for cval in (np.nan, 0.5, 256, -1):
        with pytest.raises(xconv.ArgumentError, match="cval"):
            xconv.convolve(x, np.ones((1, 2), "u1"), cval=cval)
    with pytest.raises(xconv.ArgumentTypeError, match="dtype"):
        xconv.convolve(x, np.array([[0.5, 0.25]]), dtype="u1")


@pytest.mark.parametrize("method", FLOAT_METHODS)
def test_cupy_10303_negative_strides(method):
    rng = np.random.default_rng(45)
    x, k = rng.normal(size=(3, 20, 21)), np.outer(rng.normal(size=3), rng.normal(size=4))
    right = reference.expected(x[:, ::-1, ::-1].copy(), k[::-1, ::-1].copy(), mode="same")
    out = np.empty(x.shape)[::-1, :, ::-1]
    y = xconv.convolve(x[:, ::-1, ::-1], k[::-1, ::-1], mode="same", method=method, out=out)
    assert y is out
    plan = xconv.plan(x, k, mode="same", method=method)
    assert right.disagreement(y, constant(plan)) == ""


@pytest.mark.parametrize("method", FLOAT_METHODS)
@pytest.mark.parametrize("boundary", ["constant", "reflect", "mirror", "nearest", "wrap"])
def test_numpy_25926_kernels_larger_than_the_image(method, boundary):
    """np.pad(mode="reflect") drops values where padding is several times the image."""
    rng = np.random.default_rng(46)
    for size, taps in (((3, 4), (15, 9)), ((1, 5), (7, 31)), ((2, 1), (9, 9))):
        x = rng.normal(size=(2, *size))
        k = np.outer(rng.normal(size=taps[0]), rng.normal(size=taps[1]))
        keywords = {"mode": "same", "boundary": boundary, "cval": 1.5 * (boundary == "constant")}
        plan = xconv.plan(x, k, "correlate", method=method, **keywords)
        y = plan(x)
        right = reference.expected(x, k, op="correlate", **keywords)
        for n in range(2):
            ours = scipy.ndimage.correlate(x[n], k, mode=boundary, cval=keywords["cval"])
            error = np.abs(y[n] - ours)
            assert (error <= right.bound(constant(plan) + right.direct)[n]).all()


@pytest.mark.parametrize("method", FLOAT_METHODS)
def test_scipy_18884_memory_mapped_input(method, tmp_path):
    rng = np.random.default_rng(47)
    values = rng.normal(size=(4, 40, 50)).astype("f4")
    np.save(tmp_path / "stack.npy", values)
    x = np.load(tmp_path / "stack.npy", mmap_mode="r")
    assert isinstance(x, np.memmap)
    k = box(5, 5, dtype="f4")
    y = xconv.convolve(x, k, mode="same", method=method)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, xconv.convolve(values, k, mode="same", method=method))
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", "f4", values.shape)
    xconv.convolve(x, k, mode="same", method=method, out=out)
    out.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), y)
    np.testing.assert_array_equal(np.load(tmp_path / "stack.npy"), values)
