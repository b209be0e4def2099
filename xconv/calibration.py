"""Rates fitted to measured times; what is kept in the user's cache folder for this machine."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from .backends.base import Backend
from .errors import BackendUnavailable
from .problem import Work

__all__ = [
    "Sample", "cache_file", "calibrated", "fingerprint", "fit", "keep", "kept", "read", "write",
]  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """What was done by one worker, and how long it took."""

    work: Work
    seconds: float


def fit(samples: Sequence[Sample], rates: Mapping[str, float]) -> dict[str, float]:
    """Rates with which `cost.seconds` tells the times of the samples, starting from `rates`.

    The sum of squared logarithms of predicted / measured is made small, with a light pull towards
    the rates given, which decides what the samples leave open.  A rate that no sample used keeps
    its ratio to the measured ones of its kind ("direct.uint8" to "direct.float32", ...).

    >>> samples = [Sample(Work((("direct.float32", 1e9),)), 0.5)]
    >>> rates = fit(samples, {"direct.float32": 1.9e9, "direct.float64": 0.95e9})
    >>> [round(rates[name] / 1e9, 1) for name in sorted(rates)]
    [2.0, 1.0]
    """
    amounts: list[dict[str, float]] = [{} for _ in samples]
    for row, sample in zip(amounts, samples, strict=True):
        for name, amount in (*sample.work.amounts, *sample.work.serial):
            row[name] = row.get(name, 0.0) + amount
    names = sorted({name for row in amounts for name, amount in row.items() if amount > 0})
    parts = np.array([[row.get(name, 0.0) / rates[name] for name in names] for row in amounts])
    times = np.array([sample.seconds for sample in samples])
    factor = _log_factors(parts.reshape(len(samples), len(names)), times)
    measured = dict(zip(names, np.exp(factor).tolist(), strict=True))
    fitted = dict(rates)
    for name in rates:
        if name.endswith("efficiency"):
            continue
        kind = [f for other, f in measured.items() if other.partition(".")[0] == name.split(".")[0]]
        if name in measured:
            fitted[name] *= measured[name]
        elif "." in name and kind:
            fitted[name] *= median(kind)
    return fitted


_PULL = 0.03
"""Weight of the rates given beside one measurement."""


def _log_factors(parts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """u that minimises sum log²(sum_j parts[i, j] exp(-u_j) / times[i]) + pull * |u|²."""

    def cost(u: np.ndarray) -> float:
        residual = np.log(parts @ np.exp(-u) / times)
        return float(residual @ residual + _PULL * (u @ u))

    u = np.zeros(parts.shape[1])
    for _ in range(100):  # Gauss and Newton's method, each step halved until it helps
        shares = parts * np.exp(-u)
        total = shares.sum(axis=1)
        jacobian = -shares / total[:, None]
        gradient = jacobian.T @ np.log(total / times) + _PULL * u
        step = np.linalg.solve(jacobian.T @ jacobian + _PULL * np.eye(len(u)), -gradient)
        length, before = 1.0, cost(u)
        while length > 1e-6 and cost(u + length * step) > before:
            length /= 2
        u = u + length * step
        if np.abs(length * step).max(initial=0) < 1e-6:
            break
    return u


def fingerprint(backend: Backend) -> dict[str, str]:
    """What the rates of a backend hold for: the processor, its threads, the libraries.

    >>> from xconv.backends.cpu import CPUBackend
    >>> known = fingerprint(CPUBackend())
    >>> known["backend"], "processor" in known, "threads" in known
    ('cpu', True, True)
    """
    try:
        version = metadata.version("xconv")
    except metadata.PackageNotFoundError:  # used from a folder
        version = ""
    return {
        "xconv": version,
        "backend": backend.name,
        "version": backend.version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": str(backend.workers()),
        **backend.details(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def cache_file(backend: Backend, what: str = "rates") -> Path | None:
    """Where something is kept for a backend; None if there is no way to know the folder.

    XCONV_CACHE_DIR names another folder than the user's cache folder.
    """
    folder = os.environ.get("XCONV_CACHE_DIR")
    if not folder:
        try:
            import platformdirs
        except ImportError:
            return None
        folder = platformdirs.user_cache_dir("xconv", appauthor=False)
    return Path(folder) / f"{what}-{backend.name}.json"


def write(backend: Backend, what: str, content: Any) -> Path:
    """Keep something for this machine, at once or not at all; the file it is in."""
    path = cache_file(backend, what)
    if path is None:
        raise BackendUnavailable(
            "the user's cache folder cannot be found without the package platformdirs: "
            "pip install 'xconv[cli]', or name a folder in XCONV_CACHE_DIR"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"fingerprint": fingerprint(backend), what: content}, file, indent=1)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return path


def read(backend: Backend, what: str, parse: Callable[[Any], T], instead: str) -> T | None:
    """What was kept for this machine, if anything.

    A file for another machine or other versions is ignored.  One that is damaged, or that `parse`
    fails on, is set aside under another name, with a warning that says what is done `instead`.
    """
    path = cache_file(backend, what)
    try:
        if path is None:
            return None
        text = path.read_bytes()
    except OSError:
        return None
    try:
        content = json.loads(text)
        parsed, known = parse(content[what]), content["fingerprint"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _set_aside(path, error, instead)
        return None
    return parsed if known == fingerprint(backend) else None


def _set_aside(path: Path, error: Exception, instead: str) -> None:
    aside = path.with_suffix(".damaged")
    with contextlib.suppress(OSError):
        os.replace(path, aside)
    warnings.warn(
        f"{path} is damaged ({type(error).__name__}: {error}); it is now {aside}, and {instead}",
        RuntimeWarning,
        stacklevel=2,
    )


def keep(backend: Backend, rates: Mapping[str, float]) -> Path:
    """Keep the rates for this machine; the file they are in."""
    return write(backend, "rates", dict(sorted(rates.items())))


def kept(backend: Backend) -> dict[str, float] | None:
    """The rates that were kept for this machine, if any."""
    instead = "the default rates are used; run `xconv calibrate` to measure this machine again"
    return read(backend, "rates", _rates, instead)


def _rates(content: Any) -> dict[str, float]:
    rates = {name: float(rate) for name, rate in content.items()}
    if not all(math.isfinite(rate) and rate > 0 for rate in rates.values()):
        raise ValueError("a rate is not a positive number")
    return rates


def calibrated(backend: Backend) -> Backend:
    """The backend, with the rates that were kept for this machine in place of its own."""
    if backend.rates and backend.unavailable() is None:
        backend.rates = {**backend.rates, **(kept(backend) or {})}
    return backend
