"""NumPy images through the emulated device in blocks: results, bounds, and what waits for what."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xconv
from xconv import api, reference, registry
from xconv.backends.cuda import CUDABackend
from xconv.cuda import streaming
from xconv.cuda.direct import AnyDirect
from xconv.errors import ArgumentError, ArgumentTypeError, BackendUnavailable, MemoryLimitError
from xconv.testing import check_backend

from .emulator import COMPILER, EmulatedDevice, on_device

emulated = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")

RNG = np.random.default_rng(11)


def streamed(block: int, *methods: Any) -> Any:
    """The backend for NumPy arrays, with blocks of so many bytes in flight."""
    card = CUDABackend(EmulatedDevice())
    card.block_bytes = block
    card.methods = methods or CUDABackend.methods
    return card.for_host()


def disagreement(y: Any, x: np.ndarray, k: Any, plan: Any, **keywords: Any) -> str:
    assert type(y) is np.ndarray
    return reference.expected(x, np.asarray(k), **keywords).disagreement(
        y, plan._choice()[0].method.rounding(plan.problem)
    )


@emulated
def test_conformance_of_one_thread_per_output_with_every_dtype() -> None:
    backend = streamed(1000, AnyDirect())
    report = check_backend(backend, count=20)
    assert report.passed["direct"] > 100
    sent = [name for name, _ in backend.card.device.history].count("send")
    assert sent > 5 * report.passed["direct"], "the blocks were not many"


@emulated
def test_conformance_of_every_row() -> None:
    backend = streamed(1500)
    report = check_backend(backend, dtypes=("float32",), count=20)
    assert report.passed["fft"] > 100
    assert report.passed["separable"] > 30


@emulated
@pytest.mark.parametrize("layout", ["NHW", "HWN", "HNW"])
@pytest.mark.parametrize("boundary", ["constant", "mirror", "wrap"])
def test_an_image_larger_than_the_memory_allowed(layout: str, boundary: str) -> None:
    shape = tuple({"N": 3, "H": 90, "W": 70}[letter] for letter in layout)
    x, k = RNG.standard_normal(shape), RNG.standard_normal((7, 4))
    backend = streamed(32 << 20)
    keywords: dict[str, Any] = {"layout": layout, "boundary": boundary, "mode": "full", "stride": 2}
    limit = 40_000
    assert x.nbytes // 3 > limit, "one image is larger"
    plan = api.plan_on(backend, "convolve", x, k, method="direct", max_memory=limit, **keywords)
    device = backend.card.device
    taken = []
    empty = device.xp.empty
    device.xp.empty = lambda n, dtype: taken.append(n * dtype.itemsize) or empty(n, dtype=dtype)
    y = plan(x)
    assert not disagreement(y, x, k, plan, **keywords)
    assert 0 < sum(taken) + device.pinned_bytes <= plan._choice()[0].work.scratch <= limit


@emulated
def test_one_block_is_sent_while_another_is_under_way() -> None:
    x, k = RNG.standard_normal((5, 30, 30)).astype("f4"), np.ones((3, 3), "f4")
    backend = streamed(4 * 2 * x[0].nbytes)
    plan = api.plan_on(backend, "convolve", x, k, mode="same", method="direct")
    assert not disagreement(plan(x), x, k, plan, mode="same")
    block = "send", "wait", "fetch"  # the wait is for the other block's arithmetic and the weights
    both = [(what, n) for n in (0, 1) for what in block]
    rest = [(what, n) for n in (0, 1, 0) for what in ("finish", *block)]
    happened = [event for event, _ in groupby(backend.card.device.history)]
    assert happened == [*both, *rest, ("finish", 0), ("finish", 1)]


@emulated
def test_the_emulated_device_shows_what_is_read_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming._Slot, "wait", lambda self: None)
    x, k = RNG.standard_normal((5, 30, 30)).astype("f4"), np.ones((3, 3), "f4")
    backend = streamed(4 * 2 * x[0].nbytes)
    plan = api.plan_on(backend, "convolve", x, k, mode="same", method="direct")
    assert disagreement(plan(x), x, k, plan, mode="same")


@emulated
def test_a_kernel_on_the_device_and_images_in_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RNG.standard_normal((4, 20, 30)))
    x, k = np.load(tmp_path / "x.npy", mmap_mode="r"), RNG.standard_normal((3, 5))
    backend = streamed(2000)
    plan = api.plan_on(backend, "convolve", x, on_device(k), mode="same")
    assert not disagreement(plan(x), np.asarray(x), k, plan, mode="same")


@emulated
def test_a_result_over_its_own_images() -> None:
    x, k = RNG.standard_normal((6, 20, 30)), RNG.standard_normal((3, 5))
    backend = streamed(2000)
    plan = api.plan_on(backend, "convolve", x, k, mode="same", method="direct")
    expected = plan(x)
    assert plan(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


@emulated
def test_too_little_memory_says_how_much_would_do() -> None:
    x, k = np.ones((2, 50, 50)), np.ones((9, 9))
    with pytest.raises(MemoryLimitError, match="raise max_memory to"):
        api.plan_on(streamed(1000), "convolve", x, k, max_memory=100)(x)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> CUDABackend:
    """The backend "cuda" of the registry, on the emulated device."""
    backend = CUDABackend(EmulatedDevice())
    monkeypatch.setitem(registry.backends(), "cuda", backend)
    return backend


@emulated
def test_backend_is_an_argument_of_every_call(card: CUDABackend) -> None:
    x, k = RNG.standard_normal((2, 20, 30)), RNG.standard_normal((3, 5))
    for op in (xconv.convolve, xconv.correlate):
        y = op(x, k, mode="same", backend="cuda")
        right = reference.expected(x, k, mode="same", op=op.__name__)
        assert not right.disagreement(y, right.direct)
    assert not isinstance(xconv.plan(x, k, backend="cuda")(x), type(on_device(x)))
    there = xconv.convolve(on_device(x), k, mode="same", backend="cuda")
    assert isinstance(there, type(on_device(x))), "the device's own arrays stay there"
    assert {name for name, _ in card.device.history} == {"send", "wait", "fetch", "finish"}


@emulated
def test_a_file_from_the_command_line(card: CUDABackend, tmp_path: Path) -> None:
    testing = pytest.importorskip("typer.testing")
    from xconv.cli.commands import app

    x, k = RNG.standard_normal((2, 20, 30)), RNG.standard_normal((3, 5))
    np.savez(tmp_path / "in.npz", x=x, k=k)
    given, target = f"{tmp_path}/in.npz", f"{tmp_path}/y.npy"
    done = testing.CliRunner().invoke(
        app, ["apply", f"{given}:x", f"{given}:k", "-o", target, "--backend", "cuda"]
    )
    assert done.exit_code == 0, done.output
    right = reference.expected(x, k)
    assert not right.disagreement(np.load(target), right.direct)
    assert card.device.history


def test_backends_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    x, k = np.ones((3, 3)), np.ones((2, 2))
    with pytest.raises(ArgumentError, match=r"backend='gpu' is unknown; use one of .*'cuda'"):
        xconv.convolve(x, k, backend="gpu")
    with pytest.raises(ArgumentError, match="backend=7 is unknown"):
        xconv.convolve(x, k, backend=7)  # type: ignore[arg-type]
    tensor = pytest.importorskip("torch").ones(3, 3)
    with pytest.raises(ArgumentTypeError, match=r'backend="cpu" does not take x, a torch.Tensor'):
        xconv.convolve(tensor, k, backend="cpu")
    card = CUDABackend(EmulatedDevice())
    monkeypatch.setattr(card, "unavailable", lambda: "no card")
    monkeypatch.setitem(registry.backends(), "cuda", card)
    with pytest.raises(BackendUnavailable, match=r'backend="cuda" is not available: no card'):
        xconv.convolve(x, k, backend="cuda")
