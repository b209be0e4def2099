"""Gradients: adjoint identities, finite differences, PyTorch's autograd."""

import itertools

import array_api_strict
import numpy as np
import pytest
import torch

import xconv
import xconv.torch
from xconv.backends import contraction
from xconv.testing import Case, cases

RNG = np.random.default_rng(0)


def like(y: np.ndarray) -> np.ndarray:
    noise = RNG.standard_normal(y.shape)
    return (noise + 1j * RNG.standard_normal(y.shape) if y.dtype.kind == "c" else noise).astype(
        y.dtype
    )


def rounding(case: Case, y: np.ndarray, gy: np.ndarray, x: np.ndarray, k: np.ndarray) -> float:
    """Bound of an inner product's rounding error: terms * eps * sum of absolute products.

    sum |gy| |y| is at most sum|gy| * sum|k| * max|x|; every factor is a sum of at most
    `gy.size * k.size` products, and three computations (y, gx or gk, and the two inner
    products) round.
    """
    terms = 3 * (k.size + gy.size + x.size)
    eps = float(np.finfo(y.dtype).eps)
    return terms * eps * float(np.abs(gy).sum() * np.abs(k).sum() * np.abs(x).max(initial=0)) + eps


@pytest.mark.parametrize("seed", range(4))
def test_adjoint_identity(seed: int) -> None:
    """<gy, A x> = <A^H gy, x> and = <B^H gy, k>, over every role, mode, boundary and stride."""
    checked = 0
    for case in cases(("float64", "complex128"), 100, seed):
        options = {name: v for name, v in case.keywords.items() if name != "cval"}
        y = getattr(xconv, case.op)(case.x, case.k, **options)
        gy = like(y)
        gx, gk = xconv.gradients(case.x, case.k, gy, case.op, **options)
        assert (gx.shape, gx.dtype) == (case.x.shape, case.x.dtype)
        assert (gk.shape, gk.dtype) == (case.k.shape, case.k.dtype)
        wanted, allowed = np.vdot(gy, y).real, rounding(case, y, gy, case.x, case.k)
        assert abs(np.vdot(gx, case.x).real - wanted) <= allowed, str(case)
        assert abs(np.vdot(gk, case.k).real - wanted) <= allowed, str(case)
        checked += 1
    assert checked > 100


@pytest.mark.parametrize("boundary", ["constant", "reflect", "mirror", "nearest", "wrap"])
def test_finite_differences(boundary: str) -> None:
    """The derivative of a linear map by each element is its value on the unit vector."""
    x, k = RNG.standard_normal((2, 5, 4)), RNG.standard_normal((2, 3))
    options = {"mode": ((4, 1), (0, 6)), "boundary": boundary, "stride": (2, 1)}
    if boundary == "constant":
        options["cval"] = 1.5
    y = xconv.convolve(x, k, **options)
    gy = like(y)
    gx, gk = xconv.gradients(x, k, gy, **options)
    # Both are bilinear, so that a difference quotient of step 1 has rounding errors only.
    allowed = 100 * np.finfo(float).eps * np.abs(gy).sum() * (np.abs(k).sum() + np.abs(x).sum() + 1)
    for array, gradient in ((x, gx), (k, gk)):
        for index in np.ndindex(array.shape):
            moved = array.copy()
            moved[index] += 1
            step = xconv.convolve(*((moved, k) if array is x else (x, moved)), **options) - y
            assert abs((step * gy).sum() - gradient[index]) <= allowed


@pytest.mark.parametrize(("stride", "dilation"), [*itertools.product((1, 2, 3), (1, 2, 3))])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_against_torch_autograd(stride: int, dilation: int, groups: int, pad: int) -> None:
    x, k = RNG.standard_normal((2, 4, 13, 14)), RNG.standard_normal((6, 4 // groups, 3, 2))
    tx, tk = (torch.tensor(a, requires_grad=True) for a in (x, k))
    y = torch.nn.functional.conv2d(
        tx, tk, stride=stride, dilation=dilation, groups=groups, padding=pad
    )
    gy = RNG.standard_normal(y.shape)
    y.backward(torch.tensor(gy))
    gx, gk = xconv.gradients(
        x, k, gy, "correlate", layout="NCHW", kernel_layout="OIHW", stride=stride,
        dilation=dilation, groups=groups, mode=((pad, pad), (pad, pad)),
    )  # fmt: skip
    # Both sides round sums of at most 2 * 16 * 17 products of values below 5.
    allowed = 2 * 544 * np.finfo(float).eps * 544 * 25
    assert np.abs(gx - tx.grad.numpy()).max() <= allowed
    assert np.abs(gk - tk.grad.numpy()).max() <= allowed


@pytest.mark.parametrize("stride", [1, 2])
def test_transpose_convolve_is_torchs(stride: int) -> None:
    y, k = RNG.standard_normal((2, 3, 6, 5)), RNG.standard_normal((3, 4, 3, 3))
    right = torch.nn.functional.conv_transpose2d(torch.tensor(y), torch.tensor(k), stride=stride)
    shape = tuple(right.shape)
    result = xconv.transpose_convolve(
        y, k, shape, "correlate", layout="NCHW", kernel_layout="OIHW", mode="valid", stride=stride
    )
    assert np.abs(result - right.numpy()).max() <= 2 * 27 * np.finfo(float).eps * 27 * 25


def test_other_namespaces() -> None:
    x, k = RNG.standard_normal((2, 9)), RNG.standard_normal(3)
    gy = RNG.standard_normal((2, 9))
    options = {"mode": "same", "boundary": "reflect"}
    right = xconv.gradients(x, k, gy, **options)
    for asarray in (torch.asarray, array_api_strict.asarray):
        result = xconv.gradients(asarray(x), asarray(k), asarray(gy), **options)
        for a, b in zip(result, right, strict=True):
            # Sums of at most 18 products of values below 5, rounded twice.
            assert np.abs(np.asarray(a) - b).max() <= 2 * 18 * np.finfo(float).eps * 18 * 25


def exact_kernel_gradient(x: np.ndarray, gy: np.ndarray, taps: int, stride: int) -> np.ndarray:
    """The definition for one group of channels, mode "valid": NCHW, OIHW."""
    result = np.zeros((gy.shape[1], x.shape[1], taps, taps), np.result_type(x, gy))
    for o, i, u, v in np.ndindex(result.shape):
        rows, columns = (slice(t, t + (n - 1) * stride + 1, stride)
                         for t, n in zip((u, v), gy.shape[2:], strict=True))  # fmt: skip
        result[o, i, u, v] = (x[:, i, rows, columns] * gy[:, o]).sum()
    return result


LAYERS = [
    # N, C, O, size, taps, stride, groups: more lanes than a vector has, then fewer; a kernel per
    # channel; a single channel.
    (3, 20, 6, 40, 3, 1, 1), (3, 3, 8, 37, 5, 2, 1), (3, 8, 8, 40, 3, 1, 8), (3, 4, 4, 41, 3, 2, 4),
    (3, 1, 2, 41, 3, 1, 1),
]  # fmt: skip


@pytest.mark.skipif(not contraction._compiled, reason="threads of NumPy's products deal otherwise")
@pytest.mark.parametrize("layer", LAYERS)
def test_kernel_gradient_has_the_same_bits_for_any_number_of_workers(
    layer: tuple[int, ...],
) -> None:
    n, c, o, size, taps, stride, groups = layer
    x = RNG.standard_normal((n, c, size, size), np.float32)
    out = (size - taps) // stride + 1
    gy = RNG.standard_normal((n, o, out, out), np.float32)
    one, three = (
        xconv.kernel_gradient(
            x, xconv.Spec((o, c // groups, taps, taps)), gy, "correlate", layout="NCHW",
            kernel_layout="OIHW", out_layout="NOHW", mode="valid", stride=stride, groups=groups,
            workers=workers,
        )
        for workers in (1, 3)
    )  # fmt: skip
    assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("compiled", [True, False])
def test_kernel_gradient_in_blocks(
    layer: tuple[int, ...], layout: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums over many blocks, by one worker and by three, as those over all positions at once."""
    if not compiled:
        monkeypatch.setattr(contraction, "_compiled", False)
    n, c, o, size, taps, stride, groups = layer
    x = RNG.standard_normal((n, c, size, size))
    out = (size - taps) // stride + 1
    gy = RNG.standard_normal((n, o, out, out))
    k = xconv.Spec((o, c // groups, taps, taps))
    order = tuple("NCHW".index(a) for a in layout)
    right = np.concatenate([
        exact_kernel_gradient(a, b, taps, stride)
        for a, b in zip(np.split(x, groups, 1), np.split(gy, groups, 1), strict=True)
    ])  # fmt: skip
    # Sums of at most 3 * 40 * 40 products of values below 5, rounded twice.
    allowed = 2 * gy[:, 0].size * np.finfo(float).eps * gy[:, 0].size * 25
    for workers in (1, 3):
        result, again = (
            xconv.kernel_gradient(
                np.ascontiguousarray(x.transpose(order)), k, gy.transpose(order), "correlate",
                layout=layout, kernel_layout="OIHW", out_layout=layout.replace("C", "O"),
                mode="valid", stride=stride, groups=groups, workers=workers, max_memory=500_000,
            )
            for _ in range(2)
        )  # fmt: skip
        assert np.abs(result - right).max() <= allowed
        assert (result == again).all()


FEW_CHANNELS = [
    # Of batch, channels, kernels, sizes, taps, stride, dilation, groups: sums of windows in 1-D,
    # 2-D and 3-D, whose lines overlap, leave gaps, and end within the padding.
    (2, 1, 20, (41,), (5,), 1, 1, 1), (2, 3, 16, (50,), (4,), 3, 2, 1),
    (3, 3, 16, (21, 30), (7, 7), 2, 1, 1), (1, 2, 17, (9, 40), (3, 2), 4, 1, 1),
    (2, 4, 32, (19, 18), (3, 3), 1, 2, 2), (1, 1, 16, (6, 7, 9), (3, 3, 2), 2, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("layer", FEW_CHANNELS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("max_memory", [None, 5_000_000, 100_000])
def test_input_gradient_of_few_channels(
    layer: tuple, channels_last: bool, max_memory: int | None
) -> None:
    """PyTorch's, and the same bits for any number of workers and whatever the memory."""
    n, c, o, size, taps, stride, dilation, groups = layer
    rank = len(size)
    torch.manual_seed(0)
    x = torch.randn((n, c, *size), dtype=torch.float64, requires_grad=True)
    k = torch.randn((o, c // groups, *taps), dtype=torch.float64)
    conv = getattr(torch.nn.functional, f"conv{rank}d")
    y = conv(x, k, stride=stride, padding=1, dilation=dilation, groups=groups)
    gy = torch.randn(y.shape, dtype=torch.float64)
    y.backward(gy)
    right, gy, letters = x.grad.numpy(), gy.numpy(), "DHW"[3 - rank :]
    options = {
        "layout": f"NC{letters}", "kernel_layout": f"OI{letters}", "out_layout": f"NO{letters}",
        "mode": ((1, 1),) * rank, "stride": stride, "dilation": dilation, "groups": groups,
    }  # fmt: skip
    if channels_last:
        gy, right = np.ascontiguousarray(np.moveaxis(gy, 1, -1)), np.moveaxis(right, 1, -1)
        options["layout"], options["out_layout"] = f"N{letters}C", f"N{letters}O"
    one, three = (
        xconv.input_gradient(
            xconv.Spec(right.shape, "f8"), k.numpy(), gy, "correlate", workers=workers,
            max_memory=max_memory, **options,
        )
        for workers in (1, 3)
    )  # fmt: skip
    # Sums of at most o * taps products of values below 5, rounded on both sides.
    terms = o * np.prod(taps)
    assert np.abs(one - right).max() <= 2 * terms * np.finfo(float).eps * terms * 25
    if max_memory != 100_000:  # which one worker's sums of windows fit in, and three's do not
        assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize("columns", [5, 20, 28])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kernels", [16, 64])
def test_weights_that_are_not_finite_reach_only_what_they_weigh(
    columns: int, layout: str, kernels: int
) -> None:
    """Whatever whole vectors hold beyond the end of a line."""
    weights = RNG.standard_normal((kernels, 1, 5, 5)).astype(np.float32)
    weights[0, 0, 0, 4], weights[1, 0, 4, 0] = np.inf, np.nan
    gy = RNG.standard_normal((2, kernels, 9, columns)).astype(np.float32)
    reached = np.zeros((13, columns + 4), bool)
    reached[:9, 4:] = reached[4:, :columns] = True
    x_shape: tuple[int, ...] = (2, 1, 9, columns)
    if layout == "NHWC":
        gy, x_shape = np.ascontiguousarray(gy.transpose(0, 2, 3, 1)), (2, 9, columns, 1)
    gx = xconv.input_gradient(
        xconv.Spec(x_shape, "float32"), weights, gy, op="correlate", layout=layout,
        kernel_layout="OIHW", out_layout=layout.replace("C", "O"), mode="same",
    )  # fmt: skip
    for image in gx.reshape(2, 9, columns):
        np.testing.assert_array_equal(~np.isfinite(image), reached[2:-2, 2:-2])


@pytest.mark.parametrize("boundary", ["reflect", "mirror", "nearest", "wrap"])
def test_input_gradient_of_few_channels_beyond_the_edge(boundary: str) -> None:
    x, k = RNG.standard_normal((3, 1, 12, 40)), RNG.standard_normal((16, 1, 3, 4))
    options = {"layout": "NCHW", "kernel_layout": "OIHW", "out_layout": "NOHW", "stride": 2,
               "mode": ((1, 3), (2, 1)), "boundary": boundary}  # fmt: skip
    y = xconv.convolve(x, k, **options)
    gy = like(y)
    gx = xconv.input_gradient(x, k, gy, **options)
    # The adjoint identity, to the rounding of `rounding`.
    allowed = 3 * (k.size + y.size + x.size) * np.finfo(float).eps
    allowed *= np.abs(gy).sum() * np.abs(k).sum() * np.abs(x).max()
    assert abs(np.vdot(gx, x) - np.vdot(gy, y)) <= allowed


def test_kernel_gradient_of_records_with_a_flag() -> None:
    """Kernels that are contiguous, at positions that lie no whole number of elements apart."""
    x, gy = RNG.standard_normal((2, 9, 11, 1)), RNG.standard_normal((2, 7, 9, 16))
    records = np.zeros((2, 7, 9), [("gy", "f8", 16), ("flag", "u1")])
    records["gy"] = gy
    packed, right = (
        xconv.kernel_gradient(
            x, xconv.Spec((3, 3, 1, 16)), a, "correlate", layout="NHWC", kernel_layout="HWIO",
            mode="valid",
        )
        for a in (records["gy"], gy)
    )  # fmt: skip
    # Sums of 2 * 7 * 9 products of values below 5, rounded on both sides.
    assert np.abs(packed - right).max() <= 2 * 126 * np.finfo(float).eps * 126 * 25


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_reaches_only_the_taps_that_meet_it(stride: int, bad: float) -> None:
    x, gy = RNG.standard_normal((2, 3, 9, 9)), RNG.standard_normal((2, 3, 7, 7)) + 10
    gy = gy[:, :, ::stride, ::stride]
    x[0, 1, 8, 0] = bad  # under tap (2, 0) of the second channel alone
    result = xconv.kernel_gradient(
        x, xconv.Spec((3, 3, 3)), gy, "correlate", layout="NCHW", kernel_layout="CHW",
        mode="valid", stride=stride,
    )  # fmt: skip
    wrong = np.argwhere(~np.isfinite(result)).tolist()
    assert wrong == [[1, 2, 0]]


def test_what_has_no_gradient_is_refused() -> None:
    x, k = np.ones(5, int), np.ones(2, int)
    with pytest.raises(xconv.ArgumentTypeError, match="int64 has no gradient"):
        xconv.gradients(x, k, np.ones(6, int))
    with pytest.raises(xconv.ArgumentError, match=r"gy has shape \(5,\)"):
        xconv.gradients(x * 1.0, k * 1.0, np.ones(5))


CASES = [
    ((1, 5, 4), (3, 2), {"mode": "same", "boundary": "mirror"}),
    ((2, 4, 7), (4, 2, 3), {"layout": "NCW", "kernel_layout": "OIW", "groups": 2, "stride": 2}),
    ((2, 6, 3), (2, 3), {"layout": "NWC", "kernel_layout": "WC", "dilation": 2, "cval": 0.5}),
]


@pytest.mark.parametrize(("x_shape", "k_shape", "options"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("op", ["convolve", "correlate"])
def test_gradcheck(
    x_shape: tuple[int, ...], k_shape: tuple[int, ...], options: dict, dtype: torch.dtype, op: str
) -> None:
    def function(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return getattr(xconv.torch, op)(x, k, **options)

    torch.manual_seed(0)
    x = torch.randn(x_shape, dtype=dtype, requires_grad=True)
    k = torch.randn(k_shape, dtype=dtype, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x, k))
    assert torch.autograd.gradgradcheck(function, (x, k))


def test_torch_arguments() -> None:
    with pytest.raises(xconv.ArgumentTypeError, match="takes tensors"):
        xconv.torch.convolve(np.ones(3), torch.ones(2))
    with pytest.raises(xconv.ArgumentTypeError, match="takes no out="):
        xconv.torch.convolve(torch.ones(3), torch.ones(2), out=torch.ones(4))
