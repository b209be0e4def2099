"""Pytest plugin: SciPy's test modules call our functions, and the calls are counted.

Loaded with `-p dropins` in a pytest process that runs SciPy's shipped tests.  Before the tests
start, the functions under test are replaced in the namespaces of the test modules and in the
parameters of the tests.  SciPy's own modules keep the originals, so that nothing else in SciPy
changes.  Environment:

DROPINS_PACKAGE   where the functions come from: "xconv", "scipy", or "wrong", whose answers are
                  SciPy's with the largest one off by a little (the harness must notice)
DROPINS_COUNTS    folder for one JSON file per process: calls of each function
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

FUNCTIONS = {
    "ndimage": ("convolve", "convolve1d", "correlate", "correlate1d"),
    "signal": (
        "convolve",
        "convolve2d",
        "correlate",
        "correlate2d",
        "fftconvolve",
        "oaconvolve",
    ),
}
calls: Counter[str] = Counter()


def _counted(name: str, function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return function(*args, **kwargs)

    return call


def _wrong(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        y = function(*args, **kwargs)
        if isinstance(y, np.ndarray) and y.size and y.dtype.kind in "iufc":
            y.flat[np.argmax(np.abs(y))] *= 2
        return y

    return call


def _replacements() -> dict[int, Any]:
    """Our function for each of SciPy's, by the identity of the latter."""
    package = os.environ["DROPINS_PACKAGE"]
    found = {}
    for module, names in FUNCTIONS.items():
        source = importlib.import_module(("xconv." if package == "xconv" else "scipy.") + module)
        for name in names:
            function = getattr(source, name)
            function = _wrong(function) if package == "wrong" else function
            original = getattr(getattr(scipy, module), name)
            found[id(original)] = _counted(f"{module}.{name}", function)
    return found


class _Proxy(types.ModuleType):
    """A SciPy module with some functions replaced."""

    def __init__(self, module: types.ModuleType, replaced: dict[str, Any]) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(replaced)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _proxies(replacement: dict[int, Any]) -> dict[int, Any]:
    return {
        id(module): _Proxy(
            module, {name: replacement[id(getattr(module, name))] for name in FUNCTIONS[short]}
        )
        for short, module in (("ndimage", scipy.ndimage), ("signal", scipy.signal))
    }


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    replacement = _replacements()
    replacement |= _proxies(replacement)
    for module in {item.module for item in items}:
        for name, value in list(vars(module).items()):
            if id(value) in replacement:
                setattr(module, name, replacement[id(value)])
    for item in items:
        parameters = getattr(item, "callspec", None)
        for name, value in list(parameters.params.items()) if parameters else ():
            if id(value) in replacement:
                parameters.params[name] = replacement[id(value)]


def pytest_sessionfinish() -> None:
    folder = os.environ.get("DROPINS_COUNTS")
    if folder and calls:
        Path(folder, f"{os.getpid()}.json").write_text(json.dumps(calls))
