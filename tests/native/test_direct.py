"""The compiled direct convolution against its definition, and the promise of identical bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import ndimage

pytest.importorskip("xconv._native", reason="the compiled core is not built")

from xconv import _native

from .case import (
    BOUNDARIES,
    DTYPES,
    Array,
    Case,
    accumulator,
    assert_right,
    in_memory_order,
    random_case,
    values,
)

seeds = st.integers(0, 2**32 - 1)


def bits(a: Array) -> Array:
    return np.ascontiguousarray(a).view(np.uint8)


def image_case(x: Array, w: Array, **options: Any) -> Case:
    """The "valid" correlation of 2-D images (N, H, W) with one kernel."""
    settings: dict[str, Any] = {
        "dtype": str(w.dtype),
        "spatial": 2,
        "stride": (1, 1),
        "dilation": (1, 1),
        "pad": (0, 0),
        "output": tuple(n - k + 1 for n, k in zip(x.shape[1:], w.shape, strict=True)),
    }
    return Case(x[:, None, None], w[None, None, None], **(settings | options))


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_equals_the_definition_for_any_problem(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = random_case(rng)
    out = in_memory_order(rng, np.zeros(case.y_shape, case.dtype))
    assert_right(case, case.run(in_memory_order(rng, case.x), out))


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_same_bits_however_it_is_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = random_case(rng)
    alone = bits(case.run())
    least = case.direct().least()
    for _ in range(3):
        out = in_memory_order(rng, np.zeros(case.y_shape, case.dtype))
        memory = least + int(rng.choice([0, 1000, 10**6]))
        turned = bool(rng.integers(2))
        case.run(in_memory_order(rng, case.x), out, int(rng.integers(1, 5)), memory, turned)
        assert_array_equal(alone, bits(out))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_a_batch_has_the_bits_of_its_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = random_case(rng)
    if case.x.ndim == case.spatial + 2:
        case.x = case.x[None]
    whole = case.run()
    single = Case(**{**vars(case), "x": case.x[-1:]})
    assert_array_equal(bits(whole[-1:]), bits(single.run()))


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [(40, 300), (7, 5), (1, 1)])
def test_borders_are_scipys(boundary: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((3, *size)), rng.standard_normal((9, 7))
    case = image_case(x, w, boundary=boundary, cval=1.5, pad=(4, 3), output=size)
    right = np.stack([ndimage.correlate(image, w, mode=boundary, cval=1.5) for image in x])
    np.testing.assert_allclose(case.run()[:, 0, 0], right, atol=63 * 2**-52 * 30)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_place_and_packed(dtype: str) -> None:
    rng = np.random.default_rng(3)
    w_dtype = "float32" if dtype == "float16" else dtype
    for shape in [(2, 12, 150), (70, 9, 10)]:
        w = values(rng, (5, 3), dtype).astype(w_dtype)
        case = image_case(values(rng, shape, dtype), w, dtype=dtype)
        assert_right(case, case.run())
        swapped = np.ascontiguousarray(case.x.transpose(3, 4, 0, 1, 2)).transpose(2, 3, 4, 0, 1)
        assert_array_equal(bits(case.run()), bits(case.run(swapped)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("last", ["images", "channels"])
@pytest.mark.parametrize(("groups", "outputs", "inputs"), [(1, 100, 70), (2, 64, 3), (90, 2, 1)])
def test_layers_in_any_memory_order(
    dtype: str, last: str, groups: int, outputs: int, inputs: int
) -> None:
    """More taps than their weights stay in cache for, kernels that fill no vector, borders."""
    rng = np.random.default_rng(2)
    x, w = (
        values(rng, (2, groups, inputs, 9, 14), dtype),
        values(rng, (groups, outputs, inputs, 3, 3), dtype),
    )
    case = Case(x, w, dtype, 2, (9, 14), (1, 1), (1, 1), (1, 1), "reflect")
    out = np.empty(case.y_shape, dtype)
    if last == "channels":
        x, out = (np.ascontiguousarray(np.moveaxis(a, (1, 2), (3, 4))) for a in (x, out))
        x, out = (np.moveaxis(a, (3, 4), (1, 2)) for a in (x, out))
    assert_right(case, case.run(x, out))
    assert_array_equal(bits(out), bits(case.run(turned=False)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("width", [33, 48, 100, 128, 129, 200, 1000])
@pytest.mark.parametrize("taps", [(1, 4), (1, 7), (1, 31), (9, 1)])
def test_lines_of_taps(dtype: str, width: int, taps: tuple[int, int]) -> None:
    """Taps along the lanes alone, or across them alone; the last inputs are the array's last."""
    rng = np.random.default_rng(width)
    x, w = rng.standard_normal((3, 12, width)).astype(dtype), rng.standard_normal(taps)
    case = image_case(x, w.astype(accumulator(dtype)), dtype=dtype)
    in_place = case.run()
    assert_right(case, in_place)
    backwards = np.ascontiguousarray(case.x[..., ::-1])[..., ::-1]
    assert_array_equal(bits(in_place), bits(case.run(backwards)))
    wide = {"boundary": "mirror", "pad": (2, 3), "output": (12, width)}
    padded = image_case(x, case.w[0, 0, 0], dtype=dtype, **wide)
    assert_right(padded, padded.run(workers=2))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "uint8"])
@pytest.mark.parametrize("size", [(12, 12), (14, 33), (27, 28), (35, 40)])
@pytest.mark.parametrize("taps", [4, 5, 7, 11])
def test_small_images_are_convolved_together(dtype: str, size: tuple[int, int], taps: int) -> None:
    """Tiles of one height, and of two, of images that lie apart, one after the other."""
    rng = np.random.default_rng(taps)
    apart = values(rng, (2 * 37, *size), dtype)
    case = image_case(apart[::2], values(rng, (taps, taps), accumulator(dtype)))
    assert_right(case, case.run(case.x))
    one_by_one = [image_case(image[None], case.w[0, 0, 0]).run() for image in apart[::2]]
    assert_array_equal(bits(case.run(workers=2)), bits(np.concatenate(one_by_one)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("images_last", [False, True])
@pytest.mark.parametrize("rows", [3, 4, 5, 6, 7, 9, 11])
def test_columns_of_any_width_have_the_bits_of_their_rows(
    dtype: str, images_last: bool, rows: int
) -> None:
    """Tall images go down column by column; parts of two rows are too short for it."""
    rng = np.random.default_rng(rows)
    w = values(rng, (rows, 3), dtype)
    for width in (18, 63, 131):
        case = image_case(values(rng, (3, 6 * rows + 1, width), dtype), w)
        if images_last:
            case.x = np.ascontiguousarray(np.moveaxis(case.x, 0, -1)).transpose(4, 0, 1, 2, 3)
        whole = case.run()
        assert_right(case, whole)
        assert_array_equal(bits(whole), bits(case.run(workers=2)))
        for top in range(0, 5 * rows + 2, 2):
            part = image_case(case.x[:, 0, 0, top : top + rows + 1], w)
            assert_array_equal(bits(whole[..., top : top + 2, :]), bits(part.run()))


def test_no_scratch_is_needed_in_place() -> None:
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((3, 40, 50)), rng.standard_normal((5, 5))
    case = image_case(x, w)
    assert_right(case, case.run(max_memory=0))
    assert case.direct().least() > 0  # for arrays that must be packed
    with pytest.raises(MemoryError, match="at least"):
        case.run(in_memory_order(np.random.default_rng(1), case.x)[..., ::-1], max_memory=0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_values_reach_their_windows_only(dtype: str, bad: float) -> None:
    rng = np.random.default_rng(6)
    for shape in [(2, 20, 150), (70, 9, 10)]:
        x, w = values(rng, shape, dtype), values(rng, (3, 3), dtype)
        case = image_case(x, w)
        clean = case.run()
        x[1, 4, 5] = bad
        spoiled = image_case(x, w).run()
        touched = np.zeros(spoiled.shape, bool)
        touched[1, 0, 0, 2:5, 3:6] = True
        assert not np.isfinite(spoiled[touched]).any()
        assert_array_equal(
            bits(clean)[~touched.repeat(clean.itemsize, -1)],
            bits(spoiled)[~touched.repeat(clean.itemsize, -1)],
        )


def test_zero_taps_are_multiplied() -> None:
    x = np.full((1, 8, 40), np.inf, "float32")
    assert np.isnan(image_case(x, np.zeros((3, 3), "float32")).run()).all()


def test_signed_zeros_and_subnormals() -> None:
    tiny = np.finfo("float32").smallest_subnormal
    x = np.full((1, 8, 40), tiny)
    right = np.full((1, 1, 1, 8, 40), 3 * tiny)
    assert_array_equal(image_case(x, np.full((1, 1), 3, "float32")).run(), right)
    minus = image_case(np.full((1, 8, 40), -0.0, "float32"), np.ones((2, 2), "float32")).run()
    assert_array_equal(np.signbit(minus), False)  # +0 + -0 is +0: sums start from +0


def test_bool_views_of_other_bytes_are_true() -> None:
    x = np.full((2, 6, 70), 2, np.uint8).view(bool)
    case = image_case(x, np.ones((2, 2), bool), dtype="bool")
    assert_array_equal(case.run().view(np.uint8), 1)
    assert_array_equal(case.run(in_memory_order(np.random.default_rng(0), case.x)), True)


@pytest.mark.parametrize("source", ["float64", "float32", "int32"])
def test_float16_rounds_operands_once(source: str) -> None:
    rng = np.random.default_rng(8)
    exact = np.arange(-70000, 70000, 7).astype(source)
    if source != "int32":
        halves = rng.integers(0, 0x7C00, exact.size).astype(np.uint16).view(np.float16)
        exact = halves.astype(source)
        exact += np.spacing(halves).astype(source) / 2  # ties
        exact[::3] = np.nextafter(exact[::3], np.array(0, source))
    with np.errstate(over="ignore"):
        right = exact.astype("float16")
    case = image_case(exact.reshape(1, 1, -1), np.ones((1, 1), "float32"), dtype="float16")
    assert_array_equal(case.run().ravel().view("uint16"), right.view("uint16"))


def test_unaligned_strides() -> None:
    rng = np.random.default_rng(9)
    record = np.zeros((3, 9, 50), np.dtype([("tag", "i1"), ("value", "f8")]))
    record["value"] = rng.standard_normal(record.shape)
    case = image_case(record["value"], rng.standard_normal((3, 3)))
    out = np.zeros((3, 1, 1, 7, 48), record.dtype)["value"]
    case.run(out=out)
    assert_right(case, np.ascontiguousarray(out))


def test_channel_axis_split_by_groups() -> None:
    rng = np.random.default_rng(10)
    x, w = rng.standard_normal((9, 8, 6)), rng.standard_normal((2, 5, 3, 3, 3))
    direct = _native.Direct(
        "float64", "float64", [(2, 2, 3), (3, 2, 1), (9, 0, 1), (8, 1, 1)],
        [(2, 2, 5), (5, 2, 1), (7, 0, 1), (6, 1, 1)], 2, w.shape, (1, 1), (1, 1), (0, 0), 0, 0.0,
    )  # fmt: skip
    out = np.empty((7, 6, 10))
    direct.run(x, w, out, 2, 1 << 20)
    case = Case(
        x.transpose(2, 0, 1).reshape(2, 3, 9, 8), w, "float64", 2, (7, 6), (1, 1), (1, 1), (0, 0)
    )
    assert_right(case, out.transpose(2, 0, 1).reshape(2, 5, 7, 6))


GOOD: dict[str, Any] = {
    "x_dtype": "float32", "dtype": "float32",
    "x_axes": [(2, 0, 1), (1, -1, 1), (1, -1, 1), (9, 1, 1)],
    "y_axes": [(2, 0, 1), (1, -1, 1), (1, -1, 1), (7, 1, 1)],
    "nspatial": 1, "kernel_shape": (1, 1, 1, 3), "stride": (1,), "dilation": (1,), "pad_lo": (0,),
    "boundary": 0, "cval": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"x_dtype": "complex64"}, ValueError),
        ({"dtype": "float128"}, ValueError),
        ({"nspatial": 0}, ValueError),
        ({"nspatial": 3}, ValueError),
        ({"nspatial": -1}, ValueError),
        ({"kernel_shape": (1, 1, 1, 0)}, ValueError),
        ({"kernel_shape": (1, 1, 2, 3)}, ValueError),
        ({"kernel_shape": (1, 1, 3)}, ValueError),
        ({"kernel_shape": ()}, ValueError),
        ({"stride": (0,)}, ValueError),
        ({"dilation": (-1,)}, ValueError),
        ({"dilation": (2**62,)}, ValueError),
        ({"pad_lo": (2**62,)}, ValueError),
        ({"pad_lo": (0, 0)}, ValueError),
        ({"boundary": 5}, ValueError),
        ({"cval": "a"}, TypeError),
        ({"x_axes": [(2, 0, 1), (1, -1, 1), (9, 1, 1)]}, ValueError),
        ({"x_axes": [(2, 0, 1), (1, -1, 1), (1, -1, 1), (9, 64, 1)]}, ValueError),
        ({"x_axes": [(2, 0, 1), (1, -1, 1), (1, -1, 1), (9, 1, 0)]}, ValueError),
        ({"x_axes": [(2, 0, 1), (1, -1, 1), (1, -1, 1), (2**60, 1, 2**10)]}, ValueError),
        ({"x_axes": [(3, 0, 1), (1, -1, 1), (1, -1, 1), (9, 1, 1)]}, ValueError),
        ({"x_axes": [(2, 0, 1), (1, -1, 1), (1, -1, 1), (0, 1, 1)], "boundary": 1}, ValueError),
        ({"kernel_is_real": True}, ValueError),
    ],
)
def test_what_makes_no_convolution_is_refused(change: dict[str, Any], error: type) -> None:
    _native.Direct(**GOOD)
    with pytest.raises(error):
        _native.Direct(**(GOOD | change))


X, W, Y = np.zeros((2, 9), "f4"), np.zeros((1, 1, 1, 3), "f4"), np.zeros((2, 7), "f4")


@pytest.mark.parametrize(
    ("x", "w", "out", "error"),
    [
        (X.astype("f8"), W, Y, TypeError),
        (X.astype(">f4"), W, Y, TypeError),
        (X.astype(object), W, Y, (TypeError, ValueError)),
        (None, W, Y, TypeError),
        (X[:, :8], W, Y, ValueError),
        (X[0], W, Y, ValueError),
        (np.stack([X, X], -1), W, Y, ValueError),
        (X, W.astype("f8"), Y, TypeError),
        (X, W[0, 0, 0], Y, ValueError),
        (X, np.zeros((1, 1, 1, 6), "f4")[..., ::2], Y, ValueError),
        (X, W, Y.astype("f8"), TypeError),
        (X, W, Y[:, :6], ValueError),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x: Any, w: Any, out: Any, error: Any) -> None:
    with pytest.raises(error):
        _native.Direct(**GOOD).run(x, w, out, 1, 1 << 20)


def test_a_read_only_out_is_refused() -> None:
    out = np.zeros((2, 7), "f4")
    out.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        _native.Direct(**GOOD).run(np.zeros((2, 9), "f4"), np.zeros((1, 1, 1, 3), "f4"), out, 1, 0)


def test_empty_batches() -> None:
    axes = {
        "x_axes": [(0, 0, 1), (1, -1, 1), (1, -1, 1), (9, 1, 1)],
        "y_axes": [(0, 0, 1), (1, -1, 1), (1, -1, 1), (7, 1, 1)],
    }
    direct = _native.Direct(**(GOOD | axes))
    direct.run(np.zeros((0, 9), "f4"), np.zeros((1, 1, 1, 3), "f4"), np.zeros((0, 7), "f4"), 2, 0)


def test_the_kernel_table_names_every_kernel_once() -> None:
    table = _native.kernels()
    names = [row["name"] for row in table]
    assert len(set(names)) == len(names)
    for row in table:
        tile = f"{row['rows']}x{row['vectors']}"
        assert row["name"] == f"{row['op']}_{row['dtype']}_{tile}_{row['isa']}"
    assert {row["isa"] for row in table} == set(_native.isas())
