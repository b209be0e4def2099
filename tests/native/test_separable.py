"""Separable passes in the compiled core, apart from the planner's choice among methods."""

import numpy as np
import pytest

pytest.importorskip("xconv._native", reason="the compiled core is not built")

import xconv
from xconv import reference
from xconv.api import plan_on
from xconv.backends.cpu import CPUBackend
from xconv.backends.native import NativeSeparable

RNG = np.random.default_rng(0)


class Backend(CPUBackend):
    methods = (NativeSeparable(),)


def kernel(shape: tuple[int, ...], spatial: int, rank: int, dtype: str) -> np.ndarray:
    """Kernels (or one) whose last axes are of the rank given."""
    lead, total = shape[: len(shape) - spatial], 0.0
    for _ in range(rank):
        one = np.ones((*lead, *(1,) * spatial))
        for axis in range(len(lead), len(shape)):
            line = RNG.uniform(0.1, 1, (*lead, shape[axis]))
            one = one * np.expand_dims(line, [a for a in range(len(lead), len(shape)) if a != axis])
        total = total + one
    return np.asarray(total, dtype)


def check(x: np.ndarray, k: np.ndarray, op: str = "convolve", **options: object) -> None:
    limits = {name: options.pop(name) for name in ("workers", "max_memory") if name in options}
    plan = plan_on(Backend(), op, x, k, **options, **limits)
    expected = reference.expected(x, k, op=op, **options)
    disagreement = expected.disagreement(plan(x), NativeSeparable().rounding(plan.problem))
    assert not disagreement, disagreement


@pytest.mark.parametrize("layout", ["NHW", "HWN", "HNW"])
@pytest.mark.parametrize("boundary", ["constant", "reflect", "mirror", "nearest", "wrap"])
@pytest.mark.parametrize("mode", ["same", "full", "valid", ((9, 2), (0, 5))])
@pytest.mark.parametrize("workers", [1, 2])
def test_rows_are_continued(layout: str, boundary: str, mode: object, workers: int) -> None:
    """Also in blocks of a few rows: so little memory does not hold an image's."""
    sizes = {"N": 3, "H": 21, "W": 13}
    x = RNG.standard_normal([sizes[letter] for letter in layout]).astype("f4")
    k = kernel((4, 5), 2, 2, "f4")
    for memory in (None, workers * 24_000):
        for stride, dilation in ((1, 1), ((2, 3), 1), (1, (2, 1))):
            check(x, k, layout=layout, boundary=boundary, mode=mode, stride=stride,
                  dilation=dilation, workers=workers, max_memory=memory)  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "k_dtype", "options"),
    [
        ("f8", "f8", {}),
        ("f4", "f8", {"dtype": "float32"}),
        ("f2", "f4", {}),
        ("u1", "f4", {}),
        ("i8", "f8", {}),
        ("?", "f4", {}),
        ("c8", "f4", {}),
        ("f4", "c8", {}),
        ("c16", "c16", {}),
    ],
)
@pytest.mark.parametrize("op", ["convolve", "correlate"])
def test_dtypes(dtype: str, k_dtype: str, options: dict[str, str], op: str) -> None:
    x = (10 * RNG.standard_normal((2, 12, 11))).astype(dtype)
    k = kernel((3, 4), 2, 1, k_dtype)
    check(x, k * (1 + 2j) if k.dtype.kind == "c" else k, op, mode="same", **options)
    check(x[:, ::-2, ::3], k, op, **options)


@pytest.mark.parametrize(
    ("layout", "kernel_layout", "x_shape", "k_shape", "groups"),
    [
        ("NCHW", "CHW", (2, 3, 9, 10), (3, 5, 6), 1),
        ("NHWC", "OHW", (2, 9, 10, 3), (4, 5, 6), 1),
        ("NCHW", "OIHW", (2, 4, 9, 10), (6, 2, 5, 6), 2),
        ("DHWN", "DHW", (8, 9, 10, 2), (5, 4, 3), 1),
        ("NDHW", "DHW", (2, 8, 9, 10), (5, 1, 6), 1),
    ],
)
@pytest.mark.parametrize("rank", [1, 2])
def test_axes(
    layout: str, kernel_layout: str, x_shape: tuple[int, ...], k_shape: tuple[int, ...],
    groups: int, rank: int,
) -> None:  # fmt: skip
    k = kernel(k_shape, sum(letter in "DHW" for letter in kernel_layout), rank, "f8")
    check(RNG.standard_normal(x_shape), k, layout=layout, kernel_layout=kernel_layout,
          groups=groups, mode="same", boundary="mirror")  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 1e-38])
def test_images_out_of_range_are_computed_directly(value: float) -> None:
    """As many rows of them as a block has, so that the others of the batch keep the bound."""
    x = RNG.standard_normal((4, 12, 13)).astype("f4")
    x[1, 5, 6] = value
    x[2] *= 1e-38
    k = kernel((2, 4, 4), 2, 1, "f4")
    for memory in (None, 28_000):
        check(x, k, layout="NHW", kernel_layout="OHW", mode="same", workers=1, max_memory=memory)


def test_rows_that_read_beyond_the_image_alone() -> None:
    x, k = RNG.standard_normal((2, 3, 50)).astype("f4"), kernel((2, 3), 2, 1, "f4")
    for layout in ("NHW", "HNW"):
        check(x, k, layout=layout, mode=((40, 30), (1, 1)), workers=1, max_memory=40_000)


def test_what_the_passes_cannot_do_is_left_to_arrays() -> None:
    x, k = RNG.standard_normal((2, 12, 13)), kernel((3, 3), 2, 1, "f8")
    for options, reason in (
        ({"cval": 1.5}, "continued by 1.5"),
        ({"dtype": "float16"}, "summed in float32"),
        ({"max_memory": 100}, "raise max_memory to"),
    ):
        with pytest.raises((xconv.MethodRefused, xconv.MemoryLimitError), match=reason):
            plan_on(Backend(), "convolve", x, k, **options)
    swapped = x.astype(x.dtype.newbyteorder())
    check(swapped, k, mode="same")
