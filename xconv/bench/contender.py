"""What every contender is: something to run, its answer, and what its layout costs to make."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cases import Case

__all__ = [
    "Array", "Contender", "Prepare", "Refused", "configure", "copies", "on_host", "optional",
    "ordered", "packed", "plain", "pool",
]  # fmt: skip

Array = np.ndarray[Any, Any]


class Refused(Exception):
    """A library cannot do a case; the message is the reason."""


@dataclass(frozen=True)
class Contender:
    """One way to compute a case."""

    name: str
    run: Callable[[], Any]
    result: Callable[[Any], Array] = np.asarray
    """What `run` gave, in the result's layout (a view where possible): a NumPy array, or one of
    CuPy on a GPU."""
    copies: Callable[[], Any] | None = None
    """Brings the image into the library's layout and the result back; None if neither moves."""


Prepare = Callable[[Case, Array, Array, int], Contender]


def optional(module: str, install: str) -> Any:
    """The module, or a refusal that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Refused(f"{module} is not installed ({error}); pip install {install}") from error


def configure(workers: int) -> None:
    """The same number of threads for every library that is there."""
    with contextlib.suppress(Refused):
        optional("torch", "torch").set_num_threads(workers)
    with contextlib.suppress(Refused):
        optional("cv2", "opencv-python-headless").setNumThreads(workers)


@functools.cache
def pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers)


def ordered(array: Array, given: str, wanted: str) -> Array:
    """A view with the axes named by `wanted`, those not there of length 1."""
    view = array.transpose([given.index(a) for a in wanted if a in given])
    return view[tuple(slice(None) if a in given else None for a in wanted)]


def packed(array: Array) -> Array:
    """The array itself if its elements follow each other in memory in its order, else a copy."""
    return array if array.flags.c_contiguous else array.copy()


def on_host(array: Any) -> Array:
    """A NumPy or CuPy array as one of NumPy."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


def plain(case: Case, *, borders: bool = False) -> None:
    """Refuse what no SciPy function does."""
    if case.summed:
        raise Refused("does not sum channels")
    if case.stride != 1:
        raise Refused("has no stride")
    if case.boundary != "constant" and not borders:
        raise Refused("continues the image with zeros only")


def copies(moved: Array) -> Callable[[], Any] | None:
    """What the user's arrays cost to bring into the order of `moved`, and the result back."""
    if moved.flags.c_contiguous:
        return None
    back = packed(moved)
    order = np.argsort([-abs(s) for s in moved.strides], kind="stable")

    def both() -> None:
        packed(moved)
        packed(back.transpose(order.tolist()))

    return both
