"""The seam between the backend and a CUDA device; tests put an emulated one in its place."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .plans import CuFFT, Plans, Transform

__all__ = ["CuPyDevice", "Device", "Kernel", "compile_options"]

Kernel = Callable[[int, tuple[int, int], int, bytes], None]
"""(blocks, threads (x, y), bytes of dynamic shared memory, the one argument: a struct)."""


class Device(Protocol):
    """What the backend asks of a device; the current one, where there are several."""

    xp: Any
    """Array namespace, as array-api-compat gives it."""
    specialise: bool
    """Whether kernels are compiled for the taps of a problem, where that pays."""

    def __hash__(self) -> int: ...

    def number(self) -> int:
        """Of the current device."""

    def mark(self) -> Any:
        """Stands for what has been ordered on the current stream so far."""

    def wait(self, mark: Any) -> None:
        """Orders what comes next on the current stream after a mark; the host does not wait."""

    def finish(self, mark: Any) -> None:
        """Has the host wait for a mark."""

    def stream(self, which: int) -> AbstractContextManager[Any]:
        """Makes one of several streams the current one, which wait for no other."""

    def pinned(self, size: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """A flat array in page-locked memory of the host, which copies need to be asynchronous."""

    def send(self, values: np.ndarray[Any, Any], x: Any) -> None:
        """Copy flat page-locked memory to the device on the current stream; nothing waits."""

    def fetch(self, x: Any, values: np.ndarray[Any, Any]) -> None:
        """Copy a flat array to page-locked memory of the host, likewise."""

    def seconds(self, run: Callable[[], Any]) -> float:
        """How long a call and the work that it orders on the current stream take."""

    def details(self) -> Mapping[str, str]:
        """Driver, runtime and cards."""

    def owns(self, x: Any) -> bool:
        """Whether `x` is an array of the namespace."""

    def pointer(self, x: Any) -> int: ...

    def holds(self, x: Any) -> int | None:
        """The number of the current device if `x` is in its memory."""

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A new array of the namespace on the current device."""

    def to_numpy(self, x: Any) -> np.ndarray[Any, Any]: ...

    def active(self, x: Any) -> AbstractContextManager[Any]:
        """Makes the device of `x` the current one."""

    def shared_bytes(self) -> int:
        """Most dynamic shared memory of one block."""

    def processors(self) -> int:
        """Blocks that really run at the same time."""

    def transform(
        self, lengths: tuple[int, ...], planes: int, dtype: str, inverse: bool
    ) -> Transform:
        """The plan for so many planes of these lengths and dtype on the current device."""

    def trim_plans(self, most: int) -> None:
        """Forget transforms used least recently while all that are kept hold more bytes."""

    def kernel(self, name: str, source: str) -> Kernel:
        """The compiled kernel of that name, from a cache where it has been compiled before."""


def compile_options(architecture: str) -> tuple[str, ...]:
    """Options for NVRTC: IEEE arithmetic (CuPy's own would flush subnormals to zero)."""
    return (f"--gpu-architecture={architecture}", "--std=c++17", "--ftz=false", "-default-device")


class CuPyDevice:
    """The current CUDA device, through CuPy; work is ordered on CuPy's current stream."""

    def __init__(self) -> None:
        import array_api_compat.cupy as xp
        import cupy

        self.xp: Any = xp
        self._cupy: Any = cupy
        self._array: Any = cupy.ndarray
        self._number: Any = cupy.cuda.runtime.getDevice
        self.plans = Plans(lambda number, *key: CuFFT(self, *key))

    specialise = True

    def number(self) -> int:
        return self._number()  # type: ignore[no-any-return]

    def mark(self) -> Any:
        stream = self._cupy.cuda.get_current_stream()
        return stream.ptr, stream.record()

    def wait(self, mark: Any) -> None:
        stream = self._cupy.cuda.get_current_stream()
        made_on, event = mark
        if stream.ptr != made_on:
            stream.wait_event(event)

    def finish(self, mark: Any) -> None:
        mark[1].synchronize()

    def stream(self, which: int) -> AbstractContextManager[Any]:
        return self._stream(self.number(), which)  # type: ignore[no-any-return]

    @functools.lru_cache(512)  # noqa: B019 - as for the kernels; the pool keeps memory by stream
    def _stream(self, device: int, which: int) -> Any:
        return self._cupy.cuda.Stream(non_blocking=True)

    def pinned(self, size: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        memory = self._cupy.cuda.alloc_pinned_memory(max(size, 1) * dtype.itemsize)
        return np.frombuffer(memory, dtype, size)

    def send(self, values: np.ndarray[Any, Any], x: Any) -> None:
        stream = self._cupy.cuda.get_current_stream()
        x.data.copy_from_host_async(values.ctypes.data, values.nbytes, stream)

    def fetch(self, x: Any, values: np.ndarray[Any, Any]) -> None:
        stream = self._cupy.cuda.get_current_stream()
        x.data.copy_to_host_async(values.ctypes.data, values.nbytes, stream)

    def seconds(self, run: Callable[[], Any]) -> float:
        begin, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(begin, end)) / 1e3

    def details(self) -> Mapping[str, str]:
        runtime = self._cupy.cuda.runtime
        found = {
            "driver": _version(runtime.driverGetVersion()),
            "runtime": _version(runtime.runtimeGetVersion()),
        }
        for n in range(runtime.getDeviceCount()):
            card = runtime.getDeviceProperties(n)
            found[f"device {n}"] = (
                f"{card['name'].decode()}, sm_{card['major']}{card['minor']}, "
                f"{card['totalGlobalMem'] >> 20:,} MiB"
            )
        return found

    def owns(self, x: Any) -> bool:
        return isinstance(x, self._array)

    def pointer(self, x: Any) -> int:
        return int(x.data.ptr)

    def holds(self, x: Any) -> int | None:
        number: int = self._number()
        return number if x.data.device_id == number else None

    def empty(self, shape: int | tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return self._array(shape, dtype)

    def to_numpy(self, x: Any) -> np.ndarray[Any, Any]:
        return np.asarray(self._cupy.asnumpy(x))

    def active(self, x: Any) -> AbstractContextManager[Any]:
        return x.device if self.holds(x) is None else nullcontext()

    def _attribute(self, name: str) -> int:
        return int(self._cupy.cuda.Device().attributes[name])

    def shared_bytes(self) -> int:
        return self._attribute("MaxSharedMemoryPerBlockOptin")

    def processors(self) -> int:
        return self._attribute("MultiProcessorCount")

    def transform(
        self, lengths: tuple[int, ...], planes: int, dtype: str, inverse: bool
    ) -> Transform:
        # A complex plan does for both directions, but it is as cheap to have two.
        return self.plans.get(self.number(), lengths, planes, dtype, inverse)

    def trim_plans(self, most: int) -> None:
        self.plans.trim(most)

    def kernel(self, name: str, source: str) -> Kernel:
        return self._kernel(self.number(), name, source)

    @functools.lru_cache(512)  # noqa: B019 - there is one such object in a process
    def _kernel(self, device: int, name: str, source: str) -> Kernel:
        driver, stream = self._cupy.cuda.driver, self._cupy.cuda.get_current_stream
        architecture = f"sm_{self._cupy.cuda.Device(device).compute_capability}"
        module = self._cupy.cuda.function.Module()
        module.load(_cached(source, compile_options(architecture), self._compiled))
        function = module.get_function(name)
        largest = 48 << 10  # what a kernel may use without asking

        def launch(blocks: int, threads: tuple[int, int], shared: int, argument: bytes) -> None:
            nonlocal largest
            if shared > largest:
                attribute = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                driver.funcSetAttribute(function.ptr, attribute, shared)
                largest = shared
            pointers = ctypes.c_char_p(argument)  # an array of one pointer
            driver.launchKernel(
                function.ptr, blocks, 1, 1, *threads, 1, shared,
                stream().ptr, ctypes.addressof(pointers), 0,
            )  # fmt: skip

        launch.module = module  # type: ignore[attr-defined]  # the function lives as long as it
        return launch

    def _compiled(self, source: str, options: Sequence[str]) -> bytes:
        from cupy_backends.cuda.libs import nvrtc

        program = nvrtc.createProgram(source, "xconv.cu", (), ())
        try:
            nvrtc.compileProgram(program, tuple(options))
            return bytes(nvrtc.getCUBIN(program))
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program)
            raise RuntimeError(f"NVRTC could not compile a kernel of xconv: {log}") from error
        finally:
            nvrtc.destroyProgram(program)


def _version(number: int) -> str:
    """CUDA's 12040 as "12.4"."""
    return f"CUDA {number // 1000}.{number % 1000 // 10}"


def cache_folder() -> Path:
    """Where compiled kernels are kept: XCONV_CACHE_DIR, else xconv in the user's cache folder."""
    given = os.environ.get("XCONV_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given or Path(home) / "xconv") / "cuda"


def _cached(
    source: str, options: Sequence[str], compiled: Callable[[str, Sequence[str]], bytes]
) -> bytes:
    """The binary from the disk cache, or compiled and put there; a full disk does no harm."""
    key = hashlib.sha256("\n".join((*options, source)).encode()).hexdigest()[:32]
    path = cache_folder() / f"{key}.cubin"
    with suppress(OSError):
        return path.read_bytes()
    binary = compiled(source, options)
    with suppress(OSError), _replacing(path) as temporary:
        temporary.write_bytes(binary)
    return binary


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path` that takes its place when it is written in full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
