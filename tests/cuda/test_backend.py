"""The backend around the kernels: whose arrays, why not, rates, caches, scratch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xconv
from xconv import api, reference, registry
from xconv.backends.cuda import CUDABackend
from xconv.cuda import device, rates, status
from xconv.errors import MemoryLimitError, MethodRefused
from xconv.methods.base import Limits
from xconv.planner import price

from .emulator import COMPILER, DeviceArray, EmulatedDevice, on_device

RNG = np.random.default_rng(11)

emulated = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")


def fake_cupy(**runtime: Any) -> ModuleType:
    cupy: Any = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(
        runtime=SimpleNamespace(CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}))
    )
    vars(cupy.cuda.runtime).update(runtime)
    return cupy


def count_fails() -> int:
    raise sys.modules["cupy"].cuda.runtime.CUDARuntimeError("cudaErrorNoDevice")


@pytest.mark.parametrize(
    ("cupy", "state", "words"),
    [
        (None, "not installed", r"xconv\[cuda12\].*xconv\[cuda13\]"),
        (ModuleType("cupy"), "broken", "cannot be imported"),
        (fake_cupy(driverGetVersion=lambda: 0), "no driver", "driver"),
        (
            fake_cupy(driverGetVersion=lambda: 13000, getDeviceCount=count_fails),
            "no device",
            "cudaErrorNoDevice",
        ),
        (
            fake_cupy(driverGetVersion=lambda: 13000, getDeviceCount=lambda: 0),
            "no device",
            "nvidia-smi",
        ),
        (fake_cupy(driverGetVersion=lambda: 13000, getDeviceCount=lambda: 2), "ok", "2 CUDA"),
    ],
    ids=["missing", "broken", "no-driver", "error", "none", "ok"],
)
def test_each_reason_has_its_sentence(
    monkeypatch: pytest.MonkeyPatch, cupy: ModuleType | None, state: str, words: str
) -> None:
    if cupy is None:
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
        monkeypatch.setattr(status.importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setitem(sys.modules, "cupy", cupy)
    status.status.cache_clear()
    try:
        found, sentence = status.status()
        assert found == state
        assert re.search(words, sentence)
        assert CUDABackend().unavailable() == (None if state == "ok" else sentence)
    finally:
        status.status.cache_clear()


def test_cupy_is_not_imported_for_other_arrays() -> None:
    """Not by importing the backend, nor by asking it about arrays."""
    program = (
        "import sys, numpy; from xconv.backends.cuda import CUDABackend; b = CUDABackend();"
        "assert not b.owns(numpy.ones(3)) and not b.owns([1]) and not b.owns(object());"
        "assert 'cupy' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


@emulated
def test_arrays_of_the_device_only() -> None:
    backend = CUDABackend(EmulatedDevice())
    assert backend.owns(on_device(np.ones(3)))
    assert not backend.owns(np.ones(3))


def test_choice_on_an_h100() -> None:
    """Direct for small kernels, separable for large ones of rank 1, FFT for the largest."""
    backend = CUDABackend(EmulatedDevice())
    limits = Limits(1, 1 << 30, backend.block_bytes)

    def order(taps: int) -> list[str]:
        x, k = api.Spec((50, 1000, 1000), "float32"), api.Spec((taps, taps), "float32")
        plan = api.plan_on(backend, "convolve", x, k, mode="valid")
        rows = price(plan.problem, backend.methods, rates.rates("NVIDIA H100 80GB HBM3"), limits)
        return [row.method.name for row in rows if row.refusal is None]

    assert order(5)[0] == "direct"
    assert order(101).index("fft") < order(101).index("direct")


@pytest.mark.parametrize("card", sorted(rates.CARDS))
def test_every_card_has_every_rate(card: str) -> None:
    found = rates.rates(f"NVIDIA {card}")
    assert set(found) == set(rates.rates("unknown"))
    assert all(rate > 0 for rate in found.values())


def test_integers_refuse_the_transforms() -> None:
    backend = CUDABackend(EmulatedDevice())
    x = on_device(np.ones((4, 4), "i4"))
    with pytest.raises(MethodRefused, match="exact"):
        api.plan_on(backend, "convolve", x, np.ones((2, 2), "i4"), method="fft")


@emulated
@pytest.mark.parametrize(("taps", "sent"), [(768, 0), (769, 1)])
def test_a_plan_sends_a_large_kernel_once(taps: int, sent: int) -> None:
    """A small one travels with each call, as an argument."""

    class Counting(EmulatedDevice):
        sent = 0

    emulated_device = Counting()
    asarray = emulated_device.xp.asarray

    def counted(*given: Any, **keywords: Any) -> Any:
        emulated_device.sent += 1
        return asarray(*given, **keywords)

    emulated_device.xp.asarray = counted
    x, k = on_device(np.ones((3, 20), "f4")), np.arange(taps, dtype="f4")
    for method in CUDABackend.methods[:2]:  # both kernels for single channels
        backend = CUDABackend(emulated_device)
        backend.methods = (method,)
        plan = api.plan_on(backend, "convolve", x, k)
        emulated_device.sent = 0
        first, second = plan(x), plan(x)
        assert emulated_device.sent == sent
        expected = np.stack([np.convolve(np.ones(20), k)] * 3)  # integers below 2^24
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(second, expected)


@emulated
@pytest.mark.parametrize("method", ["direct", "fft", "separable"])
def test_calls_with_the_same_kernel_send_it_once(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated_device = EmulatedDevice()
    x, k = on_device(np.ones((2, 40, 40))), np.ones((30, 30))  # too large to be an argument
    plan = api.plan_on(
        CUDABackend(emulated_device), "correlate", x, 3 * k, method=method, mode="valid"
    )
    sent: list[np.ndarray] = []
    asarray = emulated_device.xp.asarray

    def counted(values: Any, **keywords: Any) -> Any:
        sent.append(values)
        return asarray(values, **keywords)

    monkeypatch.setattr(emulated_device.xp, "asarray", counted)
    grew = []
    for value in (1.0, 1.0, 2.0, 2.0, 1.0):
        before = len(sent)
        k[...] = value  # the caller's own array, which the next call may find changed
        np.testing.assert_allclose(np.asarray(plan(x, k)), 900 * value, rtol=1e-12)
        grew.append(len(sent) > before)
    assert grew == [True, False, True, False, True]


@emulated
def test_a_call_is_repeated_only_for_arrays_that_lie_alike() -> None:
    """After the first calls a launch is kept; it must not be used where it does not fit."""
    emulated_device = EmulatedDevice(specialise=True)
    backend = CUDABackend(emulated_device)
    k = RNG.standard_normal((5, 5)).astype("f4")
    size = 300, 320  # so much that the kernel is compiled for its taps at once
    plan = api.plan_on(
        backend, "convolve", xconv.Spec((2, *size), "f4"), k, mode="same", method="direct"
    )
    memory = on_device(np.zeros(4 * (2 * 300 * 320 + 1), "u1"))
    odd = memory[1:-3].view("f4").reshape(2, *size)
    plain = [on_device(RNG.standard_normal((2, *size)).astype("f4")) for _ in range(3)]
    across = on_device(RNG.standard_normal((2, *size[::-1])).astype("f4")).transpose(0, 2, 1)
    odd[...] = plain[0]
    for x in (*plain, across, plain[1][:, ::-1], odd, plain[2]):
        for out in (None, on_device(np.empty((2, *size), "f4"))):
            y = plan(x, out=out)
            right = reference.expected(np.asarray(x), k, mode="same")
            assert not right.disagreement(np.asarray(y), right.direct)
    assert plan._bound is not None
    assert plan._bound[1].again is not None  # or nothing was repeated


@emulated
def test_a_call_is_not_repeated_for_fewer_images() -> None:
    """Of an `out` that overlaps, parts lie as the whole does, and the last one has fewer images."""
    images = RNG.standard_normal((6, 300, 320)).astype("f4")
    k = RNG.standard_normal((5, 5)).astype("f4")
    x = on_device(images.copy())
    backend = CUDABackend(EmulatedDevice(specialise=True))
    options: Any = {"mode": "same", "method": "direct", "max_memory": 2 * 2 * x[0].nbytes}
    plan = api.plan_on(backend, "convolve", x[:5], k, **options)
    y = plan(x[:5], out=x[:5])
    right = reference.expected(images[:5], k, mode="same")
    assert not right.disagreement(np.asarray(y), right.direct)
    np.testing.assert_array_equal(x[5], images[5])


@emulated
@pytest.mark.parametrize("method", ["direct", "fft", "separable"])
@pytest.mark.parametrize("make", [np.array, on_device], ids=["host", "device"])
def test_a_plan_keeps_the_values_that_the_kernel_had(make: Any, method: str) -> None:
    backend = CUDABackend(EmulatedDevice())
    x, k = on_device(np.ones((2, 40, 40))), make(np.ones((30, 30)))  # too large to be an argument
    plan = api.plan_on(backend, "correlate", x, k, method=method, mode="valid")
    k[...] = 0
    np.testing.assert_allclose(np.asarray(plan(x)), 900, rtol=1e-12)


@emulated
def test_a_plan_keeps_its_kernel_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    emulated_device = EmulatedDevice()
    sent: list[int] = []
    asarray = emulated_device.xp.asarray

    def counted(*given: Any, **keywords: Any) -> Any:
        sent.append(emulated_device.number())
        return asarray(*given, **keywords)

    x, k = on_device(np.ones((3, 20), "f4")), np.ones(1000, "f4")
    plan = api.plan_on(CUDABackend(emulated_device), "convolve", x, k, method="direct")
    monkeypatch.setattr(emulated_device.xp, "asarray", counted)
    for number in (0, 1, 0, 1):
        monkeypatch.setattr(emulated_device, "number", lambda number=number: number)
        plan(x)
    assert sent == [0, 1]


@emulated
def test_plans_of_calls_are_found_by_the_type_of_the_arrays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The backend is asked for once, and an array of another type has a plan of its own."""
    asked: list[type] = []
    known = {"cuda": CUDABackend(EmulatedDevice()), "cpu": registry.backends()["cpu"]}
    find = registry.find

    def counted(x: Any, name: str | None = None) -> Any:
        asked.append(type(x))
        return find(x, name)

    monkeypatch.setattr(registry, "backends", lambda: known)
    monkeypatch.setattr(registry, "find", counted)
    monkeypatch.setattr(api, "_kinds", {np.ndarray: False})
    monkeypatch.setattr(api, "_recent", {})
    x, k = RNG.standard_normal((3, 20)), RNG.standard_normal(5)
    for images in (on_device(x), x):
        for kernel in (k, 2 * k):
            for out in (None, np.empty((3, 24)).view(type(images))):
                y = xconv.convolve(images, kernel, out=out)
                assert type(y) is type(images)
                right = reference.expected(x, kernel)
                assert not right.disagreement(np.asarray(y), right.direct)
    assert asked == [DeviceArray, DeviceArray, np.ndarray]  # the second one makes the plan known


@emulated
def test_running_out_of_memory_says_how_much_was_wanted() -> None:
    emulated_device = EmulatedDevice()

    def empty(*given: Any, **keywords: Any) -> Any:
        raise MemoryError("Out of memory allocating 1,000 bytes")

    emulated_device.empty = empty  # type: ignore[method-assign]
    x = on_device(np.ones((3, 20), "f4"))
    plan = api.plan_on(CUDABackend(emulated_device), "convolve", x, np.ones(3, "f4"))
    with pytest.raises(MemoryLimitError, match="takes 264 bytes"):
        plan(x)


@emulated
def test_max_memory_bounds_the_scratch_of_transforms() -> None:
    backend = CUDABackend(EmulatedDevice())
    x, k = on_device(np.ones((4, 64, 64), "f4")), np.ones((9, 9), "f4")
    plan = api.plan_on(backend, "convolve", x, k, method="fft", max_memory=200_000)
    assert [c.scratch <= 200_000 for c in plan.candidates if c.chosen] == [True]
    np.testing.assert_allclose(np.asarray(plan(x))[:, 20, 20], 81, rtol=1e-5)


@emulated
def test_the_work_areas_of_transforms_are_bounded_between_calls() -> None:
    """Plans of many shapes would stay; what is over the limit goes, the oldest first."""
    backend, k, limit = CUDABackend(EmulatedDevice()), np.ones((41, 41), "f4"), 600_000
    made = set()
    for n in range(100, 160, 10):  # whose tiles are longer than what takes no work area
        x = on_device(np.ones((4, n, n), "f4"))
        plan = api.plan_on(backend, "convolve", x, k, method="fft", max_memory=limit)
        y = plan(x)
        np.testing.assert_allclose(np.asarray(y)[:, 50, 50], 1681, rtol=1e-5)
        plans = backend.device.plans
        made |= set(plans)
        assert 0 < plans.nbytes <= limit
        assert {inverse for *_, inverse in list(plans)[-2:]} == {False, True}
    assert len(made) > len(plans)


def test_compiled_kernels_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCONV_CACHE_DIR", str(tmp_path))
    asked = []

    def compiler(source: str, options: Any) -> bytes:
        asked.append(source)
        return b"binary of " + source.encode()

    options = device.compile_options("sm_90")
    for source in ("a", "a", "b"):
        assert device._cached(source, options, compiler) == b"binary of " + source.encode()
    assert asked == ["a", "b"]
    assert device._cached("a", device.compile_options("sm_80"), compiler)
    assert len(asked) == 3
    assert len(list(tmp_path.rglob("*.cubin"))) == 3
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 3


def test_a_cache_folder_that_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XCONV_CACHE_DIR", str(tmp_path / "file"))
    assert device._cached("a", (), lambda source, options: b"binary") == b"binary"


@emulated
def test_parts_of_a_batch_and_other_strides_through_one_plan() -> None:
    """What a plan remembers of one call is not used for arrays that lie otherwise."""
    backend = CUDABackend(EmulatedDevice())
    k = np.ones((3, 3), "f4")
    images = np.arange(7 * 20 * 20, dtype="f4").reshape(7, 20, 20)
    x = on_device(images.copy())
    plan = api.plan_on(
        backend, "convolve", x, k, mode="same", method="direct", max_memory=3 * 20 * 20 * 4
    )
    expected = np.asarray(plan(x)).copy()
    other = on_device(np.ascontiguousarray(images.transpose(2, 1, 0))).transpose(2, 1, 0)
    np.testing.assert_array_equal(np.asarray(plan(other)), expected)
    assert plan(x, out=x) is x  # in parts of 3, 3 and 1 images
    np.testing.assert_array_equal(np.asarray(x), expected)
