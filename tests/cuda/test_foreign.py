"""Arrays of PyTorch, JAX and Numba on the emulated device: whose memory, which stream, what type.

PyTorch's tensors are real ones on the host that say they are on a device; CuPy, JAX and Numba are
stood in for by the little of them that xconv asks for.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xconv
from xconv import api, reference, registry
from xconv.backends.cuda import CUDABackend
from xconv.cuda import foreign

from .emulator import COMPILER, DeviceArray, EmulatedDevice

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")

RNG = np.random.default_rng(13)
X, K = RNG.standard_normal((2, 20, 30)).astype("f4"), RNG.standard_normal((3, 5)).astype("f4")


class Backend(CUDABackend):
    def owns(self, x: Any) -> bool:
        return self.device.owns(x) or foreign.is_foreign(x)


def module(name: str, **names: Any) -> Any:
    found = ModuleType(name)
    vars(found).update(names)
    return found


class Interface:
    """An array with the CUDA interface, as Numba's; and what hands one to NumPy on the host."""

    __module__ = "numba.cuda.cudadrv"

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.shape, self.dtype, self.strides = values.shape, values.dtype, values.strides

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.values.__array_interface__


class JaxArray:
    def __init__(self, values: Any, platform: str = "gpu") -> None:
        self.values, self.platform = np.asarray(values), platform
        self.shape, self.dtype = self.values.shape, self.values.dtype

    def devices(self) -> list[Any]:
        return [SimpleNamespace(platform=self.platform)]

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.values.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.values.__dlpack_device__()


class Streams:
    """CuPy's streams: which were made current."""

    entered: list[Any]

    def __init__(self) -> None:
        self.entered = []

    @contextmanager
    def current(self, *stream: Any) -> Iterator[None]:
        self.entered.append(stream)
        yield


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    """A CuPy whose arrays are those of the emulated device."""
    streams = Streams()

    def unowned(address: int, size: int, owner: Any, device: int) -> Any:
        memory = (ctypes.c_char * size).from_address(address)
        memory.owner = owner
        return memory

    def asarray(x: Any) -> Any:
        return np.asarray(SimpleNamespace(__array_interface__=x.__cuda_array_interface__)).view(
            DeviceArray
        )

    cupy = module(
        "cupy",
        ndarray=DeviceArray,
        from_dlpack=lambda x: np.from_dlpack(x).view(DeviceArray),
        asarray=asarray,
        cuda=SimpleNamespace(
            Stream=SimpleNamespace(from_external=streams.current),
            ExternalStream=streams.current,
            get_current_stream=lambda: SimpleNamespace(ptr=5),
            UnownedMemory=unowned,
            MemoryPointer=lambda memory, offset: memory,
        ),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return streams


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch, streams: Streams) -> Any:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    stream = SimpleNamespace(cuda_stream=77, device_index=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return torch


def wrong(y: Any, x: np.ndarray = X, k: np.ndarray = K) -> str:
    right = reference.expected(x, k)
    return right.disagreement(np.asarray(y), right.direct)


def convolve(x: Any, k: Any, out: Any = None) -> Any:
    return api.plan_on(Backend(EmulatedDevice()), "convolve", x, k, method="direct")(x, out=out)


@pytest.mark.parametrize(("address", "entered"), [(5, 0), (77, 1)])
def test_a_stream_that_is_current_is_not_entered(
    monkeypatch: pytest.MonkeyPatch, torch: Any, streams: Streams, address: int, entered: int
) -> None:
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda n: address, raising=False)
    assert not wrong(convolve(torch.tensor(X), K))
    assert len(streams.entered) == entered


def test_a_result_of_torch_is_made_by_torch(monkeypatch: pytest.MonkeyPatch, torch: Any) -> None:
    """By its allocator, which says in its own way that there is no more memory."""
    made = []
    empty = torch.empty

    def counted(*given: Any, **options: Any) -> Any:
        made.append(empty(*given, **options))
        return made[-1]

    monkeypatch.setattr(torch, "empty", counted)
    x = torch.tensor(X)
    y = convolve(x, K)
    assert [y is one for one in made] == [True]

    def full(*given: Any, **options: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("3 GiB are reserved by PyTorch")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(xconv.MemoryLimitError, match=r"takes 5,984 bytes.*reserved by PyTorch"):
        convolve(x, K)


@pytest.mark.parametrize("where", ["host", "device"])
def test_torch_in_torch_out(torch: Any, streams: Streams, where: str) -> None:
    x = torch.tensor(X, requires_grad=True)
    k = torch.tensor(K) if where == "device" else K
    y = convolve(x, k)
    assert isinstance(y, torch.Tensor)
    assert not wrong(y)
    assert streams.entered
    assert {stream.cuda_stream for (stream,) in streams.entered} == {77}


def test_calls_with_tensors_are_found_by_their_device(
    monkeypatch: pytest.MonkeyPatch, torch: Any
) -> None:
    """Tensor and result are borrowed once, the backend asked for once; host tensors are others'."""
    backend, asked, lent = Backend(EmulatedDevice()), [], []
    find, borrowed = registry.find, foreign.borrowed

    def counted(x: Any, name: str | None = None) -> Any:
        asked.append(x)
        return backend if getattr(x, "is_cuda", False) else find(x, name)

    def once(x: Any) -> Any:
        lent.append(x)
        return borrowed(x)

    monkeypatch.setattr(api.registry, "find", counted)
    monkeypatch.setattr(foreign, "borrowed", once)
    monkeypatch.setattr(api, "_kinds", {np.ndarray: False})
    monkeypatch.setattr(api, "_recent", {})
    for sign in (1, -1, 1):
        lent.clear()
        x = torch.tensor(sign * X)
        y = api.convolve(x, K)
        assert not wrong(y, sign * X)
        assert [id(array) for array in lent] == [id(x), id(y)]
    assert len(asked) == 2  # with the second one the plan is known
    meta = torch.empty(X.shape, device="meta")
    with pytest.raises(Exception, match="meta"):  # another device: another plan, or none
        api.convolve(meta, K)
    assert len(asked) == 3


def test_the_streams_of_torch_in_cupy_13(torch: Any, streams: Streams) -> None:
    del sys.modules["cupy"].cuda.Stream.from_external
    assert not wrong(convolve(torch.tensor(X), K))
    assert set(streams.entered) == {(77, 0)}


def test_torch_memory_is_used_where_it_is(torch: Any) -> None:
    x = torch.tensor(X)
    assert foreign.borrowed(x).ctypes.data == x.data_ptr()
    lent = np.zeros((2, 3), "f4").view(DeviceArray)
    given = foreign.given_back(lent, x)
    given[0, 0] = 1
    assert lent[0, 0] == 1
    out = torch.zeros((2, 22, 34))
    assert convolve(x, K, out=out) is out
    assert not wrong(out)


def test_torch_strides_and_views_that_wait_for_conjugation(torch: Any) -> None:
    z = (X + 1j * X[::-1]).astype("c8")
    assert not wrong(convolve(torch.tensor(z).conj(), K), z.conj())
    assert not wrong(convolve(torch.tensor(z).conj().imag, K), z.conj().imag)
    assert not wrong(convolve(torch.tensor(X).mT, K), X.swapaxes(1, 2))


def test_bfloat16_goes_by_its_bits(torch: Any) -> None:
    pytest.importorskip("ml_dtypes")
    x = torch.tensor(np.round(4 * X)).to(torch.bfloat16)  # integers that bfloat16 holds
    y = convolve(x, np.ones((1, 2), "f4").tolist())
    assert y.dtype == torch.bfloat16
    sums = x.float()
    expected = torch.nn.functional.pad(sums, (0, 1)) + torch.nn.functional.pad(sums, (1, 0))
    assert torch.equal(y.float(), expected)


def test_jax_in_jax_out(monkeypatch: pytest.MonkeyPatch, streams: Streams) -> None:
    dlpack = SimpleNamespace(from_dlpack=JaxArray)
    monkeypatch.setitem(sys.modules, "jax", module("jax", Array=JaxArray, dlpack=dlpack))
    y = convolve(JaxArray(X), JaxArray(K))
    assert isinstance(y, JaxArray)
    assert not wrong(y.values)
    assert not foreign.is_foreign(JaxArray(X, platform="cpu"))


def test_numba_in_numba_out(monkeypatch: pytest.MonkeyPatch, streams: Streams) -> None:
    cuda = SimpleNamespace(as_cuda_array=Interface)
    monkeypatch.setitem(sys.modules, "numba", module("numba", cuda=cuda))
    x = Interface(X)
    assert foreign.borrowed(x).ctypes.data == X.ctypes.data
    y = convolve(x, Interface(K))
    assert isinstance(y, Interface)
    assert not wrong(y.values)
