"""Every method keeps |error| <= c eps sum|k| max|x in the image|, measured with mpmath.

Nothing here uses the reference: sums and bounds are taken in 600-bit arithmetic.
"""

import math

import mpmath
import numpy as np
import pytest

import xconv

from .strategies import constant

METHODS = ("direct", "fft", "separable")


def signals(rng, shape, kind):
    """Images that are hard to sum: of one sign, cancelling, of wide range, mostly tiny."""
    noise = rng.normal(size=shape)
    signs = 1 - 2 * (np.indices(shape).sum(0) % 2)
    return {
        "noise": noise,
        "one sign": 1 + 1e-3 * np.abs(noise),
        "cancelling": signs * (1 + 1e-3 * noise),
        "wide": noise * 10.0 ** rng.integers(-12, 1, shape),
        "one peak": np.where(np.arange(noise.size).reshape(shape) == noise.size // 2, 1e6, noise),
    }[kind]


def exact(x, k, op, at):
    """Output `at` of mode "full" with zeros beyond the edge, exactly."""
    pairs = []
    for t in np.ndindex(*k.shape):
        place = (
            t if op == "correlate" else tuple(n - 1 - i for i, n in zip(t, k.shape, strict=True))
        )
        source = tuple(p + i - n + 1 for p, i, n in zip(at, place, k.shape, strict=True))
        if all(0 <= s < n for s, n in zip(source, x.shape, strict=True)):
            pairs.append((mpmath.mpmathify(x[source].item()), mpmath.mpmathify(k[t].item())))
    return mpmath.fdot([(a, mpmath.conj(b) if op == "correlate" else b) for a, b in pairs])


def check(x, k, y, c, dtype, op, positions):
    """Asserts the bound at the positions given."""
    info = np.finfo(np.float32 if dtype == "f2" else dtype)
    with mpmath.workprec(600):
        total = mpmath.fsum(mpmath.fabs(v.item()) for v in k.ravel())
        peak = max(mpmath.fabs(v.item()) for v in x.ravel())
        tiny = mpmath.mpf(float(info.smallest_subnormal))
        allowed = c * (float(info.eps) * total * peak + tiny * (1 + total + peak))
        for at in positions:
            right = exact(x, k, op, at)
            limit = allowed
            if dtype == "f2":  # half a unit in the last place, 2^-24 at least
                size = float(mpmath.fabs(right) + allowed)
                limit = allowed + mpmath.mpf(2) ** (max(math.frexp(size)[1], -13) - 12)
            error = mpmath.fabs(mpmath.mpmathify(y[at].item()) - right)
            assert error <= limit, (at, mpmath.nstr(error, 5), mpmath.nstr(limit, 5))


def some_positions(rng, shape, count=40):
    corners = [(0,) * len(shape), tuple(n - 1 for n in shape), tuple(n // 2 for n in shape)]
    return corners + [tuple(int(rng.integers(n)) for n in shape) for _ in range(count)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("kind", ["noise", "one sign", "cancelling", "wide", "one peak"])
def test_bound(method, dtype, kind):
    rng = np.random.default_rng(21)
    for size, taps in (((31, 40), (7, 5)), ((300,), (61,)), ((2, 700), (2, 9))):
        if method == "separable" and len(taps) == 1:
            continue
        x, k = signals(rng, size, kind), signals(rng, taps, "noise" if kind == "wide" else kind)
        if method == "separable":
            vectors = [signals(rng, (n,), "noise") for n in taps]
            if dtype == "f2":  # outer products of a half's few digits are only then exact
                vectors = [np.round(v * 3) + 1 for v in vectors]
            k = vectors[0][:, np.newaxis] * vectors[1]
        if dtype[0] == "c":
            x, k = x * (1 - 0.5j), k * (0.3 + 1j)
        if dtype == "f2":
            x, k = x / np.abs(x).max(), k / 64
        x, k = x.astype(dtype), k.astype(dtype)
        for op in ("convolve", "correlate"):
            plan = xconv.plan(x, k, op, method=method)
            y = plan(x)
            terms = k.size + 2 * (dtype[0] == "c")
            c = terms if method == "direct" else constant(plan)
            check(x, k, y, c, dtype, op, some_positions(rng, y.shape))


def test_constants_are_what_they_are_said_to_be():
    """Direct: taps x summed channels, + 2. FFT: a small multiple of the transform's log2."""
    for n, taps, channels in ((64, 3, 1), (256, 31, 4), (1024, 100, 16)):
        x = xconv.Spec((2, channels, n), "float32")
        k = xconv.Spec((5, channels, taps), "float32")
        letters = {"layout": "NCL", "kernel_layout": "OIL"}
        terms = taps * channels
        assert terms <= constant(xconv.plan(x, k, method="direct", **letters)) <= terms + 2
        longest = math.log2(2 * (n + taps))
        c = constant(xconv.plan(x, k, method="fft", **letters))
        assert c <= 4 * longest + channels + 2


def test_float16_accumulates_in_float32():
    """4096 ones summed in halves would stop at 2048."""
    x, k = np.ones(4096, "f2"), np.ones(4096, "f2")
    for method in ("direct", "fft"):
        assert xconv.convolve(x, k, mode="valid", method=method).tolist() == [4096.0]


@pytest.mark.parametrize("method", METHODS)
def test_subnormal_images_keep_the_bound(method):
    rng = np.random.default_rng(22)
    vectors = rng.normal(size=5), rng.normal(size=4)
    for dtype in ("f4", "f8"):
        tiny = float(np.finfo(dtype).smallest_subnormal)
        x = (np.round(rng.normal(size=(12, 13)) * 1000) * tiny).astype(dtype)
        for scale in (1, 1e3):
            k = (np.outer(*vectors) * scale).astype(dtype)
            plan = xconv.plan(x, k, method=method)
            y = plan(x)
            c = k.size if method == "direct" else constant(plan)
            check(x, k, y, c, dtype, "convolve", some_positions(rng, y.shape))
            assert y.any()


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_finite_by_direct_is_finite(method):
    """Transforms of values near the largest would overflow; the answer does not."""
    for dtype in ("f4", "f8"):
        largest = np.finfo(dtype).max
        x = np.full((40, 40), largest / 8, dtype)
        k = np.outer([0.5, 1, 0.5], [0.25, 0.5, 0.25]).astype(dtype)
        plan = xconv.plan(x, k, mode="valid", method=method)
        y = plan(x)
        assert np.isfinite(y).all()
        right = 2 * x[0, 0]
        c = max(constant(plan), k.size)
        assert np.abs(y / right - 1).max() <= c * np.finfo(dtype).eps


def test_summing_in_float32_would_be_caught():
    rng = np.random.default_rng(23)
    x, k = rng.normal(size=200), rng.normal(size=30)
    y = np.convolve(x.astype("f4"), k.astype("f4")).astype("f8")
    with pytest.raises(AssertionError):
        check(x, k, y, k.size, "f8", "convolve", some_positions(rng, y.shape))
