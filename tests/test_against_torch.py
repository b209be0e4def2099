"""CNN layers: `xconv.correlate` with letters is torch's conv1d, conv2d and conv3d.

Operands are small integers held as floats, so that every sum is exact and the comparison is
equality for the direct method; only transforms get the error bound as tolerance.
"""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import xconv

from .strategies import Case, constant

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SPATIAL = {1: "L", 2: "HW", 3: "DHW"}
BORDERS = {"mirror": "reflect", "nearest": "replicate", "wrap": "circular", "constant": "constant"}


def integers(rng, shape, dtype="f8"):
    values = rng.integers(-9, 10, shape).astype(dtype)
    return values + 1j * rng.integers(-9, 10, shape) if dtype[0] == "c" else values


def layer(rng, dims, groups, dtype="f8"):
    """Image NC..., weights OI... and their letters; each size is different where it can be."""
    inputs, outputs, batch = (int(n) for n in rng.integers(1, 4, 3))
    size = rng.integers(6, 9, dims) + (np.arange(dims) if dims < 3 else 0)
    taps = rng.integers(1, 4, dims)
    x = integers(rng, (batch, inputs * groups, *size), dtype)
    w = integers(rng, (outputs * groups, inputs, *taps), dtype)
    letters = {"layout": "NC" + SPATIAL[dims], "kernel_layout": "OI" + SPATIAL[dims]}
    return x, w, letters


def by_torch(x, w, **keywords):
    return CONVOLUTIONS[x.ndim - 2](torch.tensor(x), torch.tensor(w), **keywords).numpy()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_stride_dilation_groups_padding(dims, groups, stride, dilation):
    rng = np.random.default_rng([dims, groups, stride, dilation])
    for _ in range(3):
        x, w, letters = layer(rng, dims, groups)
        padding = [int(n) for n in rng.integers(0, 4, dims)]
        keywords = {"stride": stride, "dilation": dilation, "groups": groups}
        # the dilated kernel must fit the padded image
        padding = [
            max(p, (k - 1) * dilation // 2) for p, k in zip(padding, w.shape[2:], strict=True)
        ]
        right = by_torch(x, w, padding=padding, **keywords)
        case = Case("correlate", x, w, letters | keywords | {"mode": [(p, p) for p in padding]})
        np.testing.assert_array_equal(case.run(method="direct"), right)
        for method in ("auto", "fft"):
            plan = case.plan(method=method)
            limit = case.expected().bound(constant(plan))
            assert (np.abs(plan(x) - right) <= limit).all()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_steps_that_differ_per_axis(dims):
    rng = np.random.default_rng(31)
    for stride, dilation in itertools.islice(
        zip(itertools.cycle([(1, 2, 3), (3, 1, 2)]), itertools.product((1, 2), repeat=3)), 8
    ):
        x, w, letters = layer(rng, dims, 2)
        keywords = {"stride": stride[:dims], "dilation": dilation[:dims], "groups": 2}
        right = by_torch(x, w, **keywords)
        actual = xconv.correlate(x, w, mode="valid", method="direct", **letters, **keywords)
        np.testing.assert_array_equal(actual, right)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("boundary", BORDERS)
def test_uneven_padding_and_borders(dims, boundary):
    rng = np.random.default_rng([32, dims])
    for _ in range(6):
        x, w, letters = layer(rng, dims, 1)
        pairs = [(int(a), int(b)) for a, b in rng.integers(0, 5, (dims, 2))]
        flat = [n for pair in reversed(pairs) for n in pair]
        extra = {"value": 3.0} if boundary == "constant" else {}
        padded = F.pad(torch.tensor(x), flat, mode=BORDERS[boundary], **extra).numpy()
        right = by_torch(padded, w)
        actual = xconv.correlate(
            x,
            w,
            mode=pairs,
            boundary=boundary,
            cval=extra.get("value", 0),
            method="direct",
            **letters,
        )
        np.testing.assert_array_equal(actual, right)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_same(dims):
    """torch puts the extra pixel of an even extent after the image, xconv before it."""
    rng = np.random.default_rng([33, dims])
    for dilation in (1, 2):
        for _ in range(4):
            x, w, letters = layer(rng, dims, 1)
            keywords = letters | {"dilation": dilation, "method": "direct"}
            right = by_torch(x, w, padding="same", dilation=dilation)
            spans = [(n - 1) * dilation for n in w.shape[2:]]
            pairs = [(n // 2, n - n // 2) for n in spans]
            np.testing.assert_array_equal(xconv.correlate(x, w, mode=pairs, **keywords), right)
            if not any(n % 2 for n in spans):
                np.testing.assert_array_equal(xconv.correlate(x, w, mode="same", **keywords), right)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_any_layout(dims):
    """The same layer with the axes of image, kernel and result in every sort of order."""
    rng = np.random.default_rng([34, dims])
    for _ in range(12):
        groups = int(rng.integers(1, 4))
        x, w, letters = layer(rng, dims, groups)
        right = by_torch(x, w, groups=groups, stride=2)
        names = {
            "layout": letters["layout"],
            "kernel_layout": letters["kernel_layout"],
            "out_layout": "NO" + SPATIAL[dims],
        }
        orders = {name: rng.permutation(len(text)) for name, text in names.items()}
        shuffled = {n: "".join(text[i] for i in orders[n]) for n, text in names.items()}
        # Steps follow the spatial axes' order in x; they are equal here.
        actual = xconv.correlate(
            x.transpose(orders["layout"]),
            np.ascontiguousarray(w.transpose(orders["kernel_layout"])),
            mode="valid",
            stride=2,
            groups=groups,
            method="direct",
            **shuffled,
        )
        np.testing.assert_array_equal(actual, right.transpose(orders["out_layout"]))


@pytest.mark.parametrize("dtype", ["f4", "c8", "c16", "i8", "i4"])
def test_dtypes(dtype):
    """torch does not conjugate the kernel of its correlation, as `correlate` does."""
    rng = np.random.default_rng(35)
    x, w, letters = layer(rng, 2, 1, dtype)
    right = by_torch(x, w)
    actual = xconv.correlate(x, w.conj(), mode="valid", method="direct", **letters)
    assert actual.dtype == right.dtype
    np.testing.assert_array_equal(actual, right)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_depthwise_by_groups_and_by_letter(dims):
    rng = np.random.default_rng([36, dims])
    for multiplier in (1, 3):
        channels = 4
        x = integers(rng, (2, channels, *[7] * dims))
        w = integers(rng, (channels * multiplier, 1, *[3] * dims))
        right = by_torch(x, w, groups=channels)
        space = SPATIAL[dims]
        by_groups = xconv.correlate(
            x, w, layout="NC" + space, kernel_layout="OI" + space, groups=channels, mode="valid",
            method="direct",
        )  # fmt: skip
        np.testing.assert_array_equal(by_groups, right)
        bank = w.reshape(channels, multiplier, *w.shape[2:])
        by_letter = xconv.correlate(
            x, bank, layout="NC" + space, kernel_layout="CO" + space, out_layout="NCO" + space,
            mode="valid", method="direct",
        )  # fmt: skip
        np.testing.assert_array_equal(by_letter.reshape(right.shape), right)
