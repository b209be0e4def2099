"""A CUDA device of NumPy, scipy.fft and the host's C++ compiler, to test the backend without one.

The kernels are the very sources that NVRTC gets.  What this cannot show: speed, bank conflicts,
divergence of warps.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import array_api_compat.numpy
import numpy as np
import scipy.fft

from xconv.cuda.plans import Plans

HERE = Path(__file__).parent
COMPILER = shutil.which("g++") or shutil.which("clang++")
BEHIND = """
extern "C" const unsigned long emulated_argument_bytes = sizeof(Call);
extern "C" void emulated_run(void* call) { %s(*static_cast<const Call*>(call)); }
"""


class DeviceArray(np.ndarray):
    """An array in the memory of the emulated device; plain NumPy arrays are on the host."""


def on_device(values: Any) -> DeviceArray:
    return np.asarray(values).view(DeviceArray)


class Namespace:
    """array_api_compat.numpy with results on the device."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(array_api_compat.numpy, name)
        if isinstance(found, type) or not callable(found):
            return found

        @functools.wraps(found)
        def call(*arguments: Any, **keywords: Any) -> Any:
            result = found(*arguments, **keywords)
            return result.view(DeviceArray) if isinstance(result, np.ndarray) else result

        setattr(self, name, call)
        return call


class EmulatedTransform:
    """scipy.fft in place; it has a work area where an axis is longer than `PLAIN`."""

    PLAIN = 64

    def __init__(self, lengths: tuple[int, ...], planes: int, dtype: str, inverse: bool) -> None:
        self.real = not dtype.startswith("complex")
        self.lengths, self.inverse, self.dtype = lengths, inverse, np.dtype(dtype)
        pitch = 2 * (lengths[-1] // 2 + 1) if self.real else lengths[-1]
        self.shape = (planes, *lengths[:-1], pitch)
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        self.nbytes = size if max(lengths) > self.PLAIN else 0

    def __call__(self, planes: DeviceArray) -> None:
        assert isinstance(planes, DeviceArray)
        assert planes.dtype == self.dtype
        assert planes.flags.c_contiguous
        axes = tuple(range(1, len(self.shape)))
        values = np.asarray(planes).reshape(self.shape)
        spectra = values.view(np.result_type(self.dtype, np.complex64))
        with np.errstate(all="ignore"):
            if not self.real:
                function = scipy.fft.ifftn if self.inverse else scipy.fft.fftn
                values[...] = function(values, axes=axes, norm="forward" if self.inverse else None)
            elif self.inverse:
                y = scipy.fft.irfftn(spectra, s=self.lengths, axes=axes, norm="forward")
                values[..., : self.lengths[-1]] = y
            else:
                spectra[...] = scipy.fft.rfftn(values[..., : self.lengths[-1]], axes=axes)


class EmulatedDevice:
    """Implements xconv.cuda.device.Device.

    Copies are as late as CUDA allows: one to the device takes place when its stream is next asked
    for something, one to the host when the host waits for it.  Memory holds poison until then, so
    that who reads too early, or writes into a copy under way, gets a wrong result.
    """

    def __init__(
        self,
        *,
        specialise: bool = False,
        shared: int = 48 << 10,
        order: int | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.xp: Any = Namespace()
        self.plans = Plans(EmulatedTransform)
        self.specialise = specialise
        self.launches: list[str] = []
        """Names of the kernels that ran."""
        self.history: list[tuple[str, int]] = []
        """What was asked of which stream: "send", "fetch", "wait" for another, and "finish" where
        the host waits for it."""
        self._streams: dict[int, list[Callable[[], None]]] = {-1: []}
        self._done = {-1: 0}
        self._current = [-1]
        self.pinned_bytes = 0
        self.card = "emulated, sm_00"
        self._shared = shared
        self._order = order
        self._options = options

    def number(self) -> int:
        return 0

    def mark(self) -> tuple[int, int]:
        stream = self._current[-1]
        return stream, self._done[stream] + len(self._streams[stream])

    def wait(self, mark: tuple[int, int]) -> None:
        if mark[0] != self._current[-1]:
            self.history.append(("wait", self._current[-1]))
            self._complete(*mark)

    def finish(self, mark: tuple[int, int]) -> None:
        self.history.append(("finish", mark[0]))
        self._complete(*mark)

    def _complete(self, stream: int, until: int | None = None) -> None:
        """Do what was asked of a stream, up to a mark or all of it, in order."""
        pending = self._streams[stream]
        while pending and (until is None or self._done[stream] < until):
            pending.pop(0)()
            self._done[stream] += 1

    @contextmanager
    def stream(self, which: int) -> Iterator[None]:
        self._streams.setdefault(which, [])
        self._done.setdefault(which, 0)
        self._current.append(which)
        yield
        self._current.pop()

    def pinned(self, size: int, dtype: np.dtype) -> np.ndarray:
        self.pinned_bytes += size * dtype.itemsize
        return poisoned(np.empty(size, dtype))

    def send(self, values: np.ndarray, x: DeviceArray) -> None:
        self._copy("send", values, x)

    def fetch(self, x: DeviceArray, values: np.ndarray) -> None:
        self._copy("fetch", x, values)

    def _copy(self, name: str, source: np.ndarray, target: np.ndarray) -> None:
        assert isinstance(source, DeviceArray) != isinstance(target, DeviceArray)
        assert source.flags.c_contiguous
        assert target.flags.c_contiguous
        assert source.nbytes == target.nbytes
        stream = self._current[-1]
        self.history.append((name, stream))
        poisoned(target)
        self._streams[stream].append(lambda: np.copyto(np.asarray(target), np.asarray(source)))

    def seconds(self, run: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    def details(self) -> dict[str, str]:
        return {"driver": "CUDA 13.0", "device 0": self.card}

    def owns(self, x: Any) -> bool:
        return isinstance(x, DeviceArray)

    def pointer(self, x: DeviceArray) -> int:
        assert isinstance(x, DeviceArray), "the address of a host array went to the device"
        return x.ctypes.data

    def holds(self, x: DeviceArray) -> int:
        self._complete(self._current[-1])
        return 0

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        return np.empty(shape, dtype).view(DeviceArray)

    def to_numpy(self, x: DeviceArray) -> np.ndarray:
        self._complete(self._current[-1])
        return np.array(x, subok=False)

    @contextmanager
    def active(self, x: DeviceArray) -> Iterator[None]:
        self._complete(self._current[-1])
        yield

    def shared_bytes(self) -> int:
        return self._shared

    def trim_plans(self, most: int) -> None:
        self.plans.trim(most)

    def transform(
        self, lengths: tuple[int, ...], planes: int, dtype: str, inverse: bool
    ) -> EmulatedTransform:
        return self.plans.get(lengths, planes, dtype, inverse)

    def processors(self) -> int:
        return 4

    @functools.lru_cache(1024)  # noqa: B019 - devices live as long as the tests
    def kernel(self, name: str, source: str) -> Any:
        library = ctypes.CDLL(str(built(source, name, self._options)))
        run = ctypes.cast(library.emulated_run, ctypes.c_void_p)
        size = ctypes.c_ulong.in_dll(library, "emulated_argument_bytes").value
        start = ctypes.CDLL(str(runtime(self._options))).emulated_launch
        start.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint),
            ctypes.c_size_t, ctypes.c_int, ctypes.c_uint32,
        ]  # fmt: skip

        def launch(blocks: int, threads: tuple[int, int], shared: int, argument: bytes) -> None:
            assert len(argument) == size, f"{len(argument)} bytes for a struct of {size}"
            assert len(argument) <= 4096, "a call passes at most 4096 bytes by value"
            assert 0 < blocks < 1 << 31
            assert 0 < threads[0] * threads[1] <= 1024
            assert shared <= self._shared
            number = len(self.launches)
            self.launches.append(name)
            order = number % 3 if self._order is None else self._order
            address = aligned(argument)
            failed = start(run, address.ctypes.data, blocks, (ctypes.c_uint * 2)(*threads), shared,
                           order, number)  # fmt: skip
            if failed:
                raise RuntimeError(
                    f"{name}: some threads wait at a barrier that others never reach"
                )

        launch.library = library  # type: ignore[attr-defined]
        return launch


def poisoned(array: np.ndarray) -> np.ndarray:
    """The array with every byte 0xA5: -2.9e-16 as float32, -1515870811 as int32."""
    np.asarray(array).view(np.uint8)[...] = 0xA5
    return array


def aligned(argument: bytes) -> np.ndarray:
    """A copy of the struct at an address that is a multiple of 16, as parameters are."""
    room = np.zeros(len(argument) + 16, np.uint8)
    at = -room.ctypes.data % 16
    copy = room[at : at + len(argument)]
    copy[...] = np.frombuffer(argument, np.uint8)
    return copy


def runtime(options: tuple[str, ...] = ()) -> Path:
    source = (HERE / "emulator.cpp").read_text()
    return compiled(source, "emulator.cpp", ("-O2", *options))


def built(source: str, name: str, options: tuple[str, ...] = ()) -> Path:
    """The kernel as a shared library of the host."""
    library = runtime(options)
    text = '#include "emulator.h"\n' + source + BEHIND % name
    return compiled(text, f"{name}.cpp", ("-O1", "-ffp-contract=off", *options, str(library)))


@functools.cache
def _header() -> str:
    return (HERE / "emulator.h").read_text()


def compiled(source: str, name: str, options: tuple[str, ...]) -> Path:
    """The source as a shared library, from the cache where it has been compiled before."""
    assert COMPILER is not None
    folder = Path(
        os.environ.get("XCONV_EMULATOR_CACHE")
        or Path(tempfile.gettempdir()) / f"xconv-emulator-{os.getuid()}"
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = hashlib.sha256("\n".join((_header(), *options, source)).encode()).hexdigest()[:24]
    path = folder / f"{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            (Path(work) / name).write_text(source)
            subprocess.run(
                [COMPILER, "-std=c++17", "-shared", "-fPIC", "-w", f"-I{HERE}", name,
                 "-o", "out.so", *options],
                cwd=work, check=True,
            )  # fmt: skip
            os.replace(Path(work) / "out.so", path)
    return path
