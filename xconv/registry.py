"""An array's type, or a backend's name → the backend that runs it."""

from __future__ import annotations

import functools
import importlib
from importlib import metadata
from typing import Any

import numpy as np

from . import calibration
from .backends.base import Backend
from .errors import ArgumentError, ArgumentTypeError, BackendUnavailable

__all__ = ["GROUP", "backends", "failures", "find"]

GROUP = "xconv.backends"
"""The entry-point group in which other packages register their backends."""

_BUILTIN = {
    "cpu": "xconv.backends.cpu:CPUBackend",
    "cuda": "xconv.backends.cuda:CUDABackend",
    "array_api": "xconv.backends.array_api:ArrayAPIBackend",
}
"""In the order they are asked, after the backends of other packages."""


@functools.cache
def _load() -> tuple[dict[str, Backend], dict[str, str]]:
    """Backends by name, and the reason for each that could not be loaded."""
    found: dict[str, Backend] = {}
    failed: dict[str, str] = {}
    entries = [(e.name, e.value) for e in metadata.entry_points(group=GROUP)]
    for name, value in (*entries, *_BUILTIN.items()):
        module, _, attribute = value.partition(":")
        try:
            backend = getattr(importlib.import_module(module), attribute)()
            if not isinstance(backend, Backend):
                raise TypeError(f"{value} is no subclass of xconv.backends.base.Backend")
        except Exception as error:  # another package's mistake must not break xconv
            failed[name] = f"{type(error).__name__}: {error}"
        else:
            found[name] = backend
    return found, failed


def backends() -> dict[str, Backend]:
    """Every backend that could be loaded, by name, in the order they are asked."""
    return _load()[0]


def failures() -> dict[str, str]:
    """The backends that could not be loaded, with the reason."""
    return _load()[1]


@functools.cache
def _cpu() -> Backend:
    return _ready(backends()["cpu"])


@functools.cache
def _ready(backend: Backend) -> Backend:
    """With the rates of this machine, which are looked up when a backend is first used."""
    return calibration.calibrated(backend)


def find(x: Any, name: str | None = None) -> Backend:
    """The backend that `x` belongs to, or the one named, which can run."""
    if name is not None:
        return _named(name, x)
    if type(x) is np.ndarray:
        return _cpu()
    for backend in backends().values():
        if backend.owns(x):
            reason = backend.unavailable()
            if reason:
                raise BackendUnavailable(
                    f"x is a {type(x).__module__}.{type(x).__name__}, which the backend "
                    f'"{backend.name}" runs, but it is not available: {reason}'
                )
            return _ready(backend)
    failed = "".join(
        f"; backend {name!r} failed to load ({why})" for name, why in failures().items()
    )
    raise ArgumentTypeError(
        f"x is a {type(x).__module__}.{type(x).__name__}, which no backend takes; pass a NumPy "
        f"array, or one of an array-API library (backends: {', '.join(backends())}){failed}"
    )


def _named(name: str, x: Any) -> Backend:
    known = backends()
    backend = known.get(name) if isinstance(name, str) else None
    if backend is None:
        raise ArgumentError(
            f"backend={name!r} is unknown; use one of {', '.join(map(repr, known))}, or leave it "
            "out to have the type of x decide"
        )
    reason = backend.unavailable()
    if reason:
        raise BackendUnavailable(f'backend="{name}" is not available: {reason}')
    _ready(backend)
    if backend.owns(x):
        return backend
    found = backend.for_host() if known["cpu"].owns(x) else None
    if found is None:
        raise ArgumentTypeError(
            f'backend="{name}" does not take x, a {type(x).__module__}.{type(x).__name__}; leave '
            "backend= out, or convert x first"
        )
    return found
