"""What only a CUDA device can show; skipped, with the reason, where there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xconv
from xconv import api, reference
from xconv.backends.cuda import CUDABackend
from xconv.cuda import layers
from xconv.cuda.source import sum_dtype
from xconv.cuda.status import status
from xconv.errors import MemoryLimitError
from xconv.testing import check_backend

STATE, SENTENCE = status()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(STATE != "ok", reason=SENTENCE)]

RNG = np.random.default_rng(7)


@pytest.fixture
def cupy() -> Iterator[Any]:
    import cupy

    yield cupy
    cupy.get_default_memory_pool().free_all_blocks()


@pytest.fixture
def backend() -> CUDABackend:
    return CUDABackend()


def operands(shape: tuple[int, ...] = (4, 200, 300), taps: int = 11) -> tuple[Any, Any]:
    return RNG.standard_normal(shape).astype("f4"), RNG.standard_normal((taps, taps)).astype("f4")


def agrees(y: Any, x: np.ndarray, k: np.ndarray, **keywords: Any) -> str:
    right = reference.expected(x, k, **keywords)
    return right.disagreement(y, right.direct)


def test_conformance(cupy: Any, backend: CUDABackend) -> None:
    report = check_backend(backend, cupy.asarray, count=60)
    assert report.passed["direct"] > 100
    assert report.passed["fft"] > 50


@pytest.mark.parametrize("layout", ["NHW", "HWN"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "uint8", "int64"])
def test_kernels_compiled_for_their_taps(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, layout: str, dtype: str
) -> None:
    monkeypatch.setattr("xconv.cuda.direct.WORTH_COMPILING", 0)
    x = (RNG.standard_normal((33, 40, 70)) * 50).astype(dtype)
    k = (RNG.standard_normal((5, 7)) * 50).astype(dtype)
    keywords = {"layout": layout, "boundary": "reflect"}
    y = xconv.convolve(cupy.asarray(x), k, method="direct", **keywords)
    assert not agrees(cupy.asnumpy(y), x, k, **keywords)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex128", "int32"])
@pytest.mark.parametrize("channels", [3, 20, 32])
@pytest.mark.parametrize("first", [True, False], ids=["NCHW", "NHWC"])
def test_layers(
    cupy: Any,
    backend: CUDABackend,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    channels: int,
    first: bool,
) -> None:
    """On every tile, several blocks of each."""
    backend.methods = (layers.LayerDirect(),)
    x = (RNG.standard_normal((3, channels, 15, 20)) * 9).astype(dtype)
    k = (RNG.standard_normal((70, channels, 3, 3)) * 9).astype(dtype)
    x = x if first else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    keywords: Any = {"layout": "NCHW" if first else "NHWC", "kernel_layout": "OIHW"}
    keywords |= {"mode": "same", "boundary": "reflect"} if channels == 20 else {"stride": (1, 2)}
    right = reference.expected(x, k, **keywords)
    there = cupy.asarray(x)
    for tile in (*layers.TILES[sum_dtype(dtype).itemsize], layers.SMALL):
        monkeypatch.setattr(layers, "choose", lambda part, *_, tile=tile: tile)
        layers._launch.cache_clear()
        plan = api.plan_on(backend, "convolve", there, k, **keywords)
        if channels > 3 or tile.parts(layers.nominal_layer(plan.problem)) == 1:
            y = plan(there, k)
            assert not right.disagreement(cupy.asnumpy(y), right.direct)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_strips(cupy: Any, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """Which are chosen, since no tile is cheaper than what costs nothing."""
    monkeypatch.setattr("xconv.cuda.tiling.cycles", lambda *_: float("inf"))
    x = RNG.standard_normal((150, 300, 40)).astype(dtype)
    k = RNG.standard_normal((9, 9)).astype(dtype)
    for keywords in ({"mode": "valid"}, {"mode": "same", "boundary": "reflect"}):
        y = xconv.convolve(cupy.asarray(x), k, layout="HWN", method="direct", **keywords)
        assert not agrees(cupy.asnumpy(y), x, k, layout="HWN", **keywords)


@pytest.mark.parametrize("layout", ["NHW", "HWN"])
def test_passes_in_chunks(cupy: Any, layout: str) -> None:
    x = RNG.standard_normal((30, 200, 250)).astype("f4")
    x[3, 50, 60] = np.inf
    k = np.multiply.outer(RNG.standard_normal(9), RNG.standard_normal(7)).astype("f4")
    plan = xconv.plan(cupy.asarray(x), k, layout=layout, method="separable", max_memory=2 << 20)
    right = reference.expected(x, k, layout=layout)
    allowed = plan._choice()[0].method.rounding(plan.problem)
    assert not right.disagreement(cupy.asnumpy(plan(cupy.asarray(x))), allowed)


def test_work_is_ordered_on_the_current_stream(cupy: Any) -> None:
    """The result is right although the input is written by slow work on the same stream."""
    x, k = operands()
    late = cupy.zeros_like(cupy.asarray(x))
    source = cupy.asarray(x)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        busy = cupy.ones((4000, 4000), "f4")
        for _ in range(5):
            busy = busy @ busy / 4000
        late[...] = source + 0 * busy[0, 0]
        y = xconv.convolve(late, k, method="direct")
    stream.synchronize()
    assert not agrees(cupy.asnumpy(y), x, k)


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_calls_do_not_wait_for_the_device(cupy: Any, method: str) -> None:
    x, k = operands()
    source = cupy.asarray(x)
    xconv.convolve(source, k, method=method)  # compiles, and plans the transform
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        busy = cupy.ones((8000, 8000), "f4")
        for _ in range(20):
            busy = busy @ busy / 8000
        event = stream.record()
        xconv.convolve(source, k, method=method)
        waited = event.done
    stream.synchronize()
    assert not waited


def test_a_plan_on_several_streams_and_threads(cupy: Any) -> None:
    x, k = operands(taps=31)
    source = cupy.asarray(x)
    plan = xconv.plan(source, k, method="direct")
    cupy.cuda.Device().synchronize()
    answers: list[Any] = [None] * 8

    def run(n: int) -> None:
        with cupy.cuda.Stream(non_blocking=True) as stream:
            answers[n] = plan(source)
            stream.synchronize()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(answers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not agrees(cupy.asnumpy(answers[0]), x, k)
    assert all((y == answers[0]).all() for y in answers)


def test_every_device(cupy: Any) -> None:
    x, k = operands((2, 40, 50), 5)
    for number in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(number):
            source = cupy.asarray(x)
        y = xconv.convolve(source, k)
        assert y.device.id == number
        assert not agrees(cupy.asnumpy(y), x, k)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("shape", [(64, 3000), (20, 200, 300), (8, 40, 50, 60)])
def test_work_areas_are_what_is_counted(cupy: Any, dtype: str, shape: tuple[int, ...]) -> None:
    x = cupy.ones(shape, dtype)
    k = np.ones((9,) * (len(shape) - 1), dtype)
    limit = 16 << 20
    backend = CUDABackend()  # with plans of its own
    plan = api.plan_on(backend, "convolve", x, k, method="fft", max_memory=limit)
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    y = plan(x)
    work = plan._choice()[0].work
    plans = backend.device.plans
    assert 2 <= len(plans) <= 3
    assert 0 <= plans.nbytes <= work.scratch  # cuFFT needs none where a kernel does an axis
    assert pool.total_bytes() - before - y.nbytes - work.kept <= limit + (1 << 20)


def test_torch_in_torch_out(cupy: Any) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    x, k = operands((2, 40, 50), 5)
    source = torch.as_tensor(x, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        y = xconv.convolve(source, torch.as_tensor(k, device="cuda"), method="direct")
        assert isinstance(y, torch.Tensor)
        assert y.is_cuda
        result = y.cpu().numpy()
    assert not agrees(result, x, k)
    out = torch.empty_like(y)
    assert xconv.convolve(source, k, method="direct", out=out) is out
    torch.testing.assert_close(out, y, rtol=0, atol=0)


def test_bfloat16(cupy: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    if int(cupy.__version__.split(".")[0]) < 14:
        pytest.skip("CuPy has bfloat16 from version 14")
    x, k = (a.astype(ml_dtypes.bfloat16) for a in operands((2, 40, 50), 5))
    right = reference.expected(x.astype("f4"), k.astype("f4"))
    allowed = right.bound(right.direct) + 2.0**-7 * np.abs(right.values)  # two last places
    source = cupy.asarray(x)
    answers = [cupy.asnumpy(xconv.convolve(source, taps)) for taps in (k, cupy.asarray(k))]
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        tensor = torch.tensor(x.astype("f4"), device="cuda").to(torch.bfloat16)
        y = xconv.convolve(tensor, k)
        assert y.dtype == torch.bfloat16
        answers.append(y.float().cpu().numpy())
    for y in answers:
        assert (np.abs(y.astype(np.longdouble) - right.values) <= allowed).all()


def test_gradients_of_torch_tensors(cupy: Any) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    import xconv.torch

    x, k = RNG.standard_normal((2, 4, 30, 20)), RNG.standard_normal((6, 4, 3, 3))
    ours, theirs = (
        [torch.tensor(a, device="cuda", requires_grad=True) for a in (x, k)] for _ in range(2)
    )
    with torch.cuda.stream(torch.cuda.Stream()):
        y = xconv.torch.correlate(
            *ours, layout="NCHW", kernel_layout="OIHW", mode=((1, 1), (1, 1)), stride=2
        )
        z = torch.nn.functional.conv2d(*theirs, stride=2, padding=1)
        gy = torch.randn_like(z)
        y.backward(gy)
        z.backward(gy)
        torch.cuda.current_stream().synchronize()
    # Both sum at most 2 * 15 * 10 products, of numbers below 6.
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad.is_cuda
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=2 * 300 * 300 * 36 * 2e-16)


def test_jax_in_jax_out(cupy: Any) -> None:
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("this JAX has no CUDA")
    x, k = operands((2, 40, 50), 5)
    y = xconv.convolve(jax.numpy.asarray(x), k, method="direct")
    assert isinstance(y, jax.Array)
    assert not agrees(np.asarray(y), x, k)


def test_numba_in_numba_out(cupy: Any) -> None:
    cuda = pytest.importorskip("numba.cuda")
    x, k = operands((2, 40, 50), 5)
    y = xconv.convolve(cuda.to_device(x), k, method="direct")
    assert type(y).__module__.startswith("numba")
    assert not agrees(y.copy_to_host(), x, k)


def test_out_of_memory_names_the_bytes_and_leaves_the_pool_usable(cupy: Any) -> None:
    pool = cupy.get_default_memory_pool()
    x = cupy.ones((1, 1000, 1000), "f4")
    pool.set_limit(size=pool.total_bytes() + (1 << 20))
    try:
        with pytest.raises(MemoryLimitError, match="takes 4,072,324 bytes"):
            xconv.convolve(x, np.ones((10, 10), "f4"), method="direct")
        small = xconv.convolve(x[:, :50, :50], np.ones((3, 3), "f4"), method="direct")
        assert float(small[0, 25, 25]) == 9
    finally:
        pool.set_limit(size=0)


def test_more_than_2_to_the_31_elements(cupy: Any) -> None:
    free, _ = cupy.cuda.runtime.memGetInfo()
    count = (1 << 31) + 1000
    if free < 3 * count:
        pytest.skip(f"needs {3 * count:,} bytes free on the device, which has {free:,}")
    x = cupy.zeros((count // 1000 + 1, 1000), "u1")
    x[-1, -3:] = cupy.asarray([1, 2, 3])
    y = xconv.convolve(x, np.ones((2, 2), "u1"), method="direct", mode="same")
    assert cupy.asnumpy(y[-1, -3:]).tolist() == [1, 3, 5]


@pytest.mark.parametrize("layout", ["NHW", "HWN"])
@pytest.mark.parametrize("method", ["direct", "fft"])
def test_numpy_images_in_blocks(cupy: Any, layout: str, method: str) -> None:
    """Four times the limit goes through the device, which never holds more than the limit."""
    x, k = operands((8, 600, 500), 9)
    x = np.ascontiguousarray(np.moveaxis(x, 0, layout.index("N")))
    limit = x.nbytes // 4
    plan = xconv.plan(
        x, k, layout=layout, boundary="reflect", method=method, max_memory=limit, backend="cuda"
    )
    pool, host = cupy.get_default_memory_pool(), cupy.get_default_pinned_memory_pool()
    host.free_all_blocks()
    pool.free_all_blocks()
    before = pool.total_bytes()
    y = plan(x)
    assert type(y) is np.ndarray
    assert not agrees(y, x, k, layout=layout, boundary="reflect")
    if method == "direct":
        assert pool.total_bytes() - before <= limit


def test_compute_sanitizer() -> None:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        pytest.skip("compute-sanitizer is not on the PATH; it comes with the CUDA toolkit")
    program = (
        "import cupy, numpy, xconv\n"
        "for layout in ('NHW', 'HWN'):\n"
        "    x = cupy.ones((30, 40, 50), 'f4')\n"
        "    xconv.convolve(x, numpy.ones((5, 5), 'f4'), layout=layout, method='direct')\n"
        "cupy.cuda.Device().synchronize()\n"
    )
    for check in ("memcheck", "racecheck", "initcheck"):
        subprocess.run(
            [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-c", program],
            check=True,
            cwd=Path(__file__).parents[2],
        )
