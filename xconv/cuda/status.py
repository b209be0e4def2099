"""Whether CUDA can be used here, and the reason in words where it cannot."""

from __future__ import annotations

import functools
import importlib.util
import sys

__all__ = ["reason", "status"]

INSTALL = "pip install 'xconv[cuda12]' or 'xconv[cuda13]', whichever `nvidia-smi` shows as CUDA"


@functools.cache
def status() -> tuple[str, str]:
    """One of "ok", "not installed", "broken", "no driver" and "no device", and a sentence.

    It imports CuPy, and never raises.
    """
    if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
        return "not installed", f"CuPy is not installed; {INSTALL}"
    try:
        import cupy

        runtime = cupy.cuda.runtime
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        return (
            "broken",
            f"CuPy is installed but cannot be imported ({why}); {INSTALL}",
        )
    try:
        if runtime.driverGetVersion() == 0:
            return "no driver", (
                "CuPy is installed but there is no CUDA driver (libcuda.so.1); install NVIDIA's "
                "driver, or start the container with --gpus all"
            )
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        return "no device", f"the CUDA driver finds no device ({error}); see `nvidia-smi`"
    except Exception as error:
        return "broken", f"CuPy fails to ask the driver ({type(error).__name__}: {error})"
    if count == 0:
        return "no device", "the CUDA driver finds no device; see `nvidia-smi`"
    return "ok", f"{count} CUDA device{'s' * (count > 1)}"


def reason() -> str | None:
    """Why CUDA cannot be used; None if it can."""
    state, sentence = status()
    return None if state == "ok" else sentence
