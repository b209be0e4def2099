"""A pytest plugin: SciPy's test modules see xconv's functions in the places of SciPy's.

`scipy.signal` and `scipy.ndimage` are replaced by copies of themselves, with the functions
exchanged, only while the test modules are imported.  So `from scipy import signal` and
`from scipy.signal import convolve` inside them give xconv's functions, parametrised lists
included, while SciPy's own code has been loaded before and stays on the originals.

XCONV_SUITE_CALLS names a folder for the number of calls that arrived, one file per process.
Where XCONV_SUITE_WRONG is set, every test runs once with all functions as they are and once for
each function with that one giving a wrong answer, which the suites must notice.
"""

import collections
import functools
import importlib
import json
import os
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import scipy
from scipy._lib._array_api import xp_capabilities_table

REPLACED = {
    "ndimage": ("convolve", "correlate", "convolve1d", "correlate1d"),
    "signal": (
        "convolve",
        "correlate",
        "fftconvolve",
        "oaconvolve",
        "convolve2d",
        "correlate2d",
    ),
}
TEST_MODULES = ("scipy.ndimage.tests.test_filters", "scipy.signal.tests.test_signaltools")
FUNCTIONS = [f"{package}.{name}" for package, names in REPLACED.items() for name in names]

calls = collections.Counter()
wrong = types.SimpleNamespace(name=None)
lock = threading.Lock()


@pytest.fixture(autouse=True)
def wrong_function(request):
    """The function that is wrong during a test."""
    wrong.name = getattr(request, "param", None)


def pytest_generate_tests(metafunc):
    if "XCONV_SUITE_WRONG" in os.environ:
        metafunc.parametrize("wrong_function", ("none", *FUNCTIONS), indirect=True)


def moved(result):
    """A result with another first element."""
    result = np.array(result)
    if result.size:
        result.flat[0] += result.dtype.type(1)
    return result


def stand_in(name, original, function):
    """The function, counting its calls, known to SciPy's tests as the original is."""

    @functools.wraps(original)
    def counted(*args, **kwargs):
        with lock:
            calls[name] += 1
        result = function(*args, **kwargs)
        return moved(result) if wrong.name == name else result

    xp_capabilities_table[counted] = xp_capabilities_table[original]
    return counted


def copy_with_functions(package):
    original = importlib.import_module(f"scipy.{package}")
    ours = importlib.import_module(f"xconv.{package}")
    copied = types.ModuleType(original.__name__)
    copied.__dict__.update(vars(original))
    for name in REPLACED[package]:
        function = stand_in(f"{package}.{name}", getattr(original, name), getattr(ours, name))
        setattr(copied, name, function)
    return copied


def pytest_configure():
    originals = {name: importlib.import_module(f"scipy.{name}") for name in REPLACED}
    # Whatever SciPy imports late must see the originals, so it is loaded now.
    for name in ("fft", "linalg", "optimize", "special", "stats", "interpolate"):
        importlib.import_module(f"scipy.{name}")
    for name in REPLACED:
        copied = copy_with_functions(name)
        sys.modules[f"scipy.{name}"] = copied
        setattr(scipy, name, copied)
    try:
        for name in TEST_MODULES:
            importlib.import_module(name)
    finally:
        for name, original in originals.items():
            sys.modules[f"scipy.{name}"] = original
            setattr(scipy, name, original)


def pytest_sessionfinish():
    folder = Path(os.environ["XCONV_SUITE_CALLS"])
    (folder / f"{os.getpid()}.json").write_text(json.dumps(calls))
