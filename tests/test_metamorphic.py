"""Relations between answers that hold whatever the right answer is."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xconv

from .strategies import ORDERS, Case, constant, problems, random_case, stored

METHODS = ("direct", "fft", "separable")
BOUNDARIES = ("constant", "reflect", "mirror", "nearest", "wrap")
BIT_DTYPES = ("?", "i4", "u1", "f2", "f4", "f8", "c8", "c16")
brief = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
OPERATIONS = {"convolve": xconv.convolve, "correlate": xconv.correlate}


def numbers(rng, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.4
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    values = rng.normal(size=shape)
    return (values + 1j * rng.normal(size=shape) if dtype.kind == "c" else values).astype(dtype)


def rank_one(rng, shape, dtype="f8"):
    k = np.ones((1,) * len(shape))
    for axis, n in enumerate(shape):
        k = k * rng.normal(size=[n if a == axis else 1 for a in range(len(shape))])
    return k.astype(dtype)


def same_bits(a, b):
    """Equal to the last bit, signed zeros and NaN too."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    unequal = a.copy(order="C").view(np.uint8) != b.copy(order="C").view(np.uint8)
    assert not unequal.any()


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("dtype", ["u1", "i8"])
def test_linearity_is_exact_for_integers(op, dtype):
    rng = np.random.default_rng(51)
    for boundary, method in itertools.product(BOUNDARIES, ("auto", "direct")):
        keywords = {"mode": "same", "boundary": boundary, "method": method, "stride": (1, 2)}
        a, b = numbers(rng, (2, 3, 9, 8), dtype)
        k, j = numbers(rng, (2, 3, 4), dtype)
        three = np.array(3, dtype)
        run = OPERATIONS[op]
        y = run(a, k, **keywords)
        same_bits(run(three * a + b, k, **keywords), three * y + run(b, k, **keywords))
        same_bits(run(a, three * k + j, **keywords), three * y + run(a, j, **keywords))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8"])
def test_linearity_within_the_bounds(method, dtype):
    rng = np.random.default_rng(52)
    keywords = {"mode": "full", "boundary": "mirror"}
    for _ in range(4):
        a, b = numbers(rng, (2, 3, 19, 18), dtype)
        k = rank_one(rng, (4, 3), dtype)
        total = a * np.array(2, dtype) + b
        cases = [Case("convolve", x, k, keywords) for x in (a, b, total)]
        plans = [case.plan(method=method) for case in cases]
        ya, yb, y = (plan(case.x) for plan, case in zip(plans, cases, strict=True))
        ba, bb, limit = (case.expected().bound(constant(plans[0])) for case in cases)
        # adding the images, and the results, rounds once each
        eps = np.finfo(dtype).eps
        limit = limit + 2 * ba + bb + eps * (cases[2].expected().scale + np.abs(y))
        assert (np.abs(2 * ya + yb - y) <= limit).all()


@pytest.mark.parametrize("dtype", BIT_DTYPES)
def test_a_shifted_image_gives_a_shifted_result(dtype):
    """Around a periodic border every output has the same window; direct has the same bits."""
    rng = np.random.default_rng(53)
    x, k = numbers(rng, (2, 12, 11), dtype), numbers(rng, (5, 4), dtype)
    keywords = {"mode": "same", "boundary": "wrap"}
    for by in ((1, 0), (0, 1), (5, -3)):
        moved = np.roll(x, by, (1, 2))
        for op, run in OPERATIONS.items():
            y = run(x, k, method="direct", **keywords)
            same_bits(run(moved, k, method="direct", **keywords), np.roll(y, by, (1, 2)))
            case = Case(op, moved, k, keywords)
            plan = case.plan()
            limit = 2 * case.expected().bound(constant(plan))
            if dtype[0] in "fc":
                error = np.abs(plan(moved).astype("c16") - np.roll(y, by, (1, 2)))
                assert (error <= limit).all()


@pytest.mark.parametrize("dtype", BIT_DTYPES)
@pytest.mark.parametrize("shape", [(40, 37), (9, 8), (5,), (3, 6, 7)])
def test_a_batch_is_its_images(dtype, shape):
    rng = np.random.default_rng(54)
    x, k = numbers(rng, (33, *shape), dtype), numbers(rng, [3, 4, 2][: len(shape)], dtype)
    for boundary, mode in itertools.product(("constant", "mirror"), ("full", "same")):
        keywords = {"mode": mode, "boundary": boundary, "method": "direct"}
        y = xconv.convolve(x, k, **keywords)
        for n in (0, 1, 16, 31, 32):
            same_bits(y[n], xconv.convolve(x[n], k, **keywords))
        same_bits(y[5:12], xconv.convolve(x[5:12], k, **keywords))


@pytest.mark.parametrize(
    ("method", "dims"),
    [(m, d) for m in METHODS for d in (1, 2, 3) if (m, d) != ("separable", 1)],
)
def test_layouts_are_permutations(method, dims):
    """Direct has the same bits wherever the batch stands; all agree when spatial axes swap."""
    rng = np.random.default_rng([55, dims])
    letters = "NC" + "DHW"[3 - dims :]
    x, k = rng.normal(size=(3, 2, 8, 7, 6)[: 2 + dims]), rank_one(rng, (3, 2, 4)[:dims])
    case = Case("convolve", x, k, {"layout": letters, "mode": "same", "boundary": "reflect"})
    plan = case.plan(method=method)
    y = plan(x)
    limit = 2 * case.expected().bound(constant(plan))
    orders = list(itertools.permutations(range(2 + dims)))
    for order in rng.permutation(orders)[:30]:
        layout = "".join(letters[i] for i in order)
        keywords = {"kernel_layout": letters[2:], "mode": "same", "boundary": "reflect"}
        for moved in (x.transpose(order), np.ascontiguousarray(x.transpose(order))):
            z = xconv.convolve(moved, k, layout=layout, method=method, **keywords)
            z = z.transpose(np.argsort(order))
            if method == "direct" and [i for i in order if i >= 2] == list(range(2, 2 + dims)):
                same_bits(z, y)
            else:
                assert (np.abs(z - y) <= limit).all()


@pytest.mark.parametrize("seed", range(6))
def test_direct_gives_the_same_bits(seed):
    """For any workers, max_memory, memory order and with out=, on every kind of problem."""
    for i in range(25):
        rng = np.random.default_rng([56, seed, i])
        case = random_case(rng)
        y = case.run(method="direct")
        for workers, memory in ((1, None), (2, None), (1, 1 << 15), (2, 1 << 16)):
            try:
                same_bits(case.run(method="direct", workers=workers, max_memory=memory), y)
            except xconv.MemoryLimitError:
                assert memory is not None, case
        plan = case.plan(method="direct")
        for order in ORDERS:
            values = np.ascontiguousarray(case.x).astype(case.x.dtype.newbyteorder("="))
            moved = stored(values, order, i)
            if order != "swapped":
                same_bits(plan(moved), y)
            out = stored(np.zeros(y.shape, y.dtype), order, i)
            if order not in ("swapped", "readonly"):
                assert case.run(method="direct", out=out) is out
                same_bits(out, y)


def test_direct_gives_the_same_bits_when_blocks_are_small():
    rng = np.random.default_rng(57)
    for dtype, layout in itertools.product(("f4", "f8", "c8", "f2"), ("HWN", "NHW")):
        shape = {"H": 50, "W": 41, "N": 9}
        x = numbers(rng, [shape[a] for a in layout], dtype)
        k = numbers(rng, (7, 6), dtype)
        keywords = {"layout": layout, "mode": "same", "boundary": "mirror", "method": "direct"}
        y = xconv.convolve(x, k, **keywords)
        reached = 0
        for workers, memory in itertools.product((1, 2, 3), (1 << 14, 1 << 17, 1 << 28)):
            try:
                z = xconv.convolve(x, k, workers=workers, max_memory=memory, **keywords)
            except xconv.MemoryLimitError:
                continue
            same_bits(z, y)
            reached += 1
        assert reached >= 4


@brief
@given(problems(dtypes=("f4", "f8", "c8", "c16")))
def test_methods_agree_within_the_sum_of_their_bounds(case):
    right = case.expected()
    found = []
    for method in METHODS:
        try:
            plan = case.plan(method=method)
        except xconv.MethodRefused:
            continue
        y = plan(case.x)
        np.testing.assert_array_equal(np.isfinite(y), np.isfinite(found[0][0] if found else y))
        found.append((y, right.bound(constant(plan))))
    for (y, limit), (z, other) in itertools.combinations(found, 2):
        allowed = limit + other
        with np.errstate(all="ignore"):
            error = np.abs(y - z)
        fine = (error <= allowed) | right.touched | np.isinf(allowed)
        assert fine.all(), case


@brief
@given(problems(dtypes=BIT_DTYPES))
def test_correlate_is_convolve_with_the_kernel_reversed_and_conjugated(case):
    k = np.asarray(case.k)
    letters = case.keywords.get("kernel_layout")
    axes = tuple(i for i, a in enumerate(letters or "") if a not in "COI") if letters else None
    flipped = np.flip(k, axes)
    flipped = flipped.conj() if k.dtype.kind == "c" else flipped
    keywords = case.keywords | {"method": "direct"}
    if not hasattr(case.k, "dtype"):
        flipped = flipped.tolist()
    y = xconv.correlate(case.x, case.k, **keywords)
    same_bits(xconv.convolve(case.x, flipped, **keywords), y)


@brief
@given(problems(), st.integers(0, 5))
def test_plans_are_the_call(case, seed):
    """A plan with or without a kernel's values, used again and for other values."""
    y = case.run()
    bound = case.plan()
    same_bits(bound(case.x), bound(case.x))
    free = xconv.plan(xconv.Spec(case.x.shape, case.x.dtype), case.k, case.op, **case.keywords)
    same_bits(free(case.x), bound(case.x))
    same_bits(bound(case.x, case.k), y)
    other = stored(np.roll(case.x, seed), "C")
    same_bits(bound(other), Case(case.op, other, case.k, case.keywords).run())


@pytest.mark.parametrize("dtype", BIT_DTYPES)
def test_windows_are_parts_of_full(dtype):
    """ "same", "valid", explicit padding and stride keep some outputs of "full", bit for bit."""
    rng = np.random.default_rng(58)
    for _ in range(5):
        size, taps = rng.integers(5, 12, 2), rng.integers(1, 6, 2)
        gap = int(rng.integers(1, 3)) if max(taps) < 4 else 1
        x, k = numbers(rng, (2, *size), dtype), numbers(rng, taps, dtype)
        keywords = {"method": "direct", "dilation": gap}
        full = xconv.convolve(x, k, **keywords)
        last = [int(n - 1) * gap for n in taps]
        first = [n // 2 for n in last]
        parts = {
            "same": [slice(f, f + int(n)) for f, n in zip(first, size, strict=True)],
            "valid": [slice(e, int(n)) for e, n in zip(last, size, strict=True)],
            ((last[0], 0), (0, last[1])): [slice(0, int(size[0])), slice(last[1], None)],
        }
        for mode, part in parts.items():
            y = xconv.convolve(x, k, mode=mode, **keywords)
            same_bits(y, full[:, *part])
            for stride in ((2, 3), (1, 2)):
                steps = [slice(None, None, s) for s in stride]
                z = xconv.convolve(x, k, mode=mode, stride=stride, **keywords)
                same_bits(z, y[:, *steps])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_border_is_a_padded_image(method, boundary):
    rng = np.random.default_rng(59)
    x, k = rng.normal(size=(2, 14, 15)), rank_one(rng, (5, 4))
    names = {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge"}
    extra = {"constant_values": 2.0} if boundary == "constant" else {}
    padded = np.pad(x, [(0, 0), (3, 2), (4, 6)], names.get(boundary, boundary), **extra)
    for op, run in OPERATIONS.items():
        keywords = {"mode": [(3, 2), (4, 6)], "boundary": boundary}
        keywords["cval"] = extra.get("constant_values", 0)
        case = Case(op, x, k, keywords)
        plan = case.plan(method=method)
        y, z = plan(x), run(padded, k, mode="valid", method=method)
        if method == "direct":
            same_bits(y, z)
        assert (np.abs(y - z) <= 2 * case.expected().bound(constant(plan))).all()


@pytest.mark.parametrize("method", METHODS)
def test_dilation_is_zeros_between_the_taps(method):
    rng = np.random.default_rng(60)
    x, k = rng.normal(size=(2, 20, 21)), rank_one(rng, (3, 4))
    spread = np.zeros((5, 10))
    spread[::2, ::3] = k
    case = Case("convolve", x, k, {"mode": "same", "dilation": (2, 3), "boundary": "wrap"})
    plan = case.plan(method=method)
    y = xconv.convolve(x, spread, mode="same", boundary="wrap", method=method)
    wide = xconv.plan(x, spread, mode="same", boundary="wrap", method=method)
    limit = case.expected().bound(constant(plan) + constant(wide))
    assert (np.abs(plan(x) - y) <= limit).all()


@pytest.mark.parametrize("dtype", BIT_DTYPES)
def test_groups_and_banks_are_separate_calls(dtype):
    rng = np.random.default_rng(61)
    x, k = numbers(rng, (2, 6, 9, 8), dtype), numbers(rng, (4, 3, 3, 2), dtype)
    letters = {"layout": "NCHW", "kernel_layout": "OIHW", "method": "direct", "mode": "same"}
    y = xconv.correlate(x, k, groups=2, **letters)
    for g in range(2):
        part = xconv.correlate(x[:, 3 * g : 3 * g + 3], k[2 * g : 2 * g + 2], **letters)
        same_bits(y[:, 2 * g : 2 * g + 2], part)
    for o in range(4):
        one = letters | {"kernel_layout": "IHW"}
        g = o // 2
        same_bits(y[:, o], xconv.correlate(x[:, 3 * g : 3 * g + 3], k[o], **one))
    each = {"layout": "NCHW", "kernel_layout": "CHW", "method": "direct", "mode": "same"}
    bank = numbers(rng, (6, 3, 2), dtype)
    depthwise = xconv.convolve(x, bank, **each)
    for c in range(6):
        single = xconv.convolve(x[:, c], bank[c], layout="NHW", method="direct", mode="same")
        same_bits(depthwise[:, c], single)


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_operands_of_full_may_be_swapped(method):
    rng = np.random.default_rng(62)
    x, k = rng.normal(size=40), rng.normal(size=13)
    limits = [
        Case("convolve", a, b).expected().bound(constant(xconv.plan(a, b, method=method)))
        for a, b in ((x, k), (k, x))
    ]
    error = np.abs(xconv.convolve(x, k, method=method) - xconv.convolve(k, x, method=method))
    assert (error <= sum(limits)).all()


@pytest.mark.parametrize("method", ["auto", "direct"])
def test_empty_batches(method):
    for shape in ((0, 8, 9), (3, 0, 8, 9)):
        y = xconv.convolve(np.zeros(shape, "f4"), np.ones((3, 3), "f4"), method=method)
        assert y.shape == (*shape[:-2], 10, 11)
        assert y.dtype == np.float32
    k = np.ones((5, 3), "f4")
    y = xconv.convolve(np.zeros((0, 9), "f4"), k, layout="NW", kernel_layout="OW", method=method)
    assert y.shape == (0, 5, 11)
