"""Another package brings an array type and its backend, found through its entry point."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ARRAYS = '''
"""An array library of its own: every function is NumPy's on wrapped arrays."""

import numpy as np


def _unwrapped(value):
    if isinstance(value, Array):
        return value._values
    if isinstance(value, (list, tuple)):
        return type(value)(_unwrapped(item) for item in value)
    return value


def _wrapped(value):
    return Array(value) if isinstance(value, (np.ndarray, np.generic)) else value


class _Namespace:
    def __init__(self, numpy):
        self._numpy = numpy
        if numpy is np:
            self.fft = _Namespace(np.fft)

    def __getattr__(self, name):
        found = getattr(self._numpy, name)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *args, **kwargs: _wrapped(
            found(*_unwrapped(args), **{k: _unwrapped(v) for k, v in kwargs.items()})
        )


class Array:
    device = "cpu"

    def __init__(self, values):
        self._values = np.asarray(values)

    def __array_namespace__(self, api_version=None):
        return namespace

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype=dtype, copy=copy)

    def __getitem__(self, index):
        return _wrapped(self._values[index])

    def __setitem__(self, index, values):
        self._values[index] = _unwrapped(values)

    def __getattr__(self, name):
        return getattr(self._values, name)


def _operator(name):
    def apply(self, *others):
        return _wrapped(getattr(self._values, name)(*_unwrapped(others)))

    return apply


for _name in ("add", "mul", "sub", "truediv", "and", "or", "neg", "abs", "pow", "radd", "rmul"):
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))

namespace = _Namespace(np)
'''

BACKEND = """
from xconv.backends.array_api import ArrayAPIBackend
from xconv.backends.base import Backend

from .arrays import Array


class ShelfBackend(Backend):
    name = "shelf"
    rates = ArrayAPIBackend.rates

    def owns(self, x):
        return isinstance(x, Array)

    def version(self):
        return "shelf 1.0"

    def details(self):
        return {"shelves": "three"}
"""

CONVOLVE = """
import numpy as np
import xconv
from shelf.arrays import Array

rng = np.random.default_rng(0)
x, k = rng.standard_normal((20, 22, 3)), rng.standard_normal((3, 4))
for method in ("direct", "fft"):
    options = dict(layout="HWN", mode="same", boundary="reflect", method=method)
    y = xconv.convolve(Array(x), Array(k), **options)
    assert type(y) is Array, type(y)
    np.testing.assert_allclose(y._values, xconv.convolve(x, k, **options), rtol=1e-12, atol=1e-12)
assert type(xconv.convolve(x, k, layout="HWN")) is np.ndarray
plan = xconv.plan(Array(x), k, layout="HWN")
assert plan.backend.name == "shelf"
assert type(plan(Array(x))) is Array
"""

CHECK = """
from shelf.arrays import Array
from shelf.backend import ShelfBackend
from xconv.testing import check_backend

print(dict(check_backend(ShelfBackend(), lambda a: Array(a.copy()), count=40).passed))
"""

INFO = "from xconv.cli.info import report; print(report())"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as an installer leaves it, with the package in it."""
    package, record = tmp_path / "shelf", tmp_path / "shelf-1.0.dist-info"
    package.mkdir()
    record.mkdir()
    (package / "__init__.py").write_text("")
    (package / "arrays.py").write_text(ARRAYS)
    (package / "backend.py").write_text(BACKEND)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(
        "[xconv.backends]\nshelf = shelf.backend:ShelfBackend\n"
    )
    return tmp_path


def run(site: Path, code: str) -> str:
    start = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    command = [sys.executable, "-W", "error", "-c", start + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_found_and_used(site: Path) -> None:
    run(site, CONVOLVE)


def test_it_passes_the_conformance_suite(site: Path) -> None:
    passed = ast.literal_eval(run(site, CHECK))
    assert min(passed.get(name, 0) for name in ("direct", "fft", "separable")) > 10


def test_info_shows_it(site: Path) -> None:
    out = run(site, INFO)
    assert "shelf 1.0" in out
    assert "shelves: three" in out


def test_the_class_is_short() -> None:
    assert len(BACKEND.strip().splitlines()) < 60


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("shelf.gone:ShelfBackend", "ModuleNotFoundError: No module named 'shelf.gone'"),
        ("shelf.arrays:Array", "TypeError"),
        ("shelf.arrays:namespace", "TypeError"),
    ],
)
def test_a_broken_one_is_told_and_breaks_nothing(site: Path, value: str, reason: str) -> None:
    (site / "shelf-1.0.dist-info" / "entry_points.txt").write_text(
        f"[xconv.backends]\nshelf = {value}\n"
    )
    out = run(site, INFO)
    assert f"shelf        failed to load: {reason}" in out
    code = (
        "import numpy as np, xconv\n"
        "from shelf.arrays import Array\n"
        "assert xconv.convolve(np.ones(5), [1.0, 1.0]).shape == (6,)\n"
        "class Other: pass\n"
        "try: xconv.convolve(Other(), [1.0])\n"
        "except xconv.ArgumentTypeError as error: print(error)\n"
    )
    assert f"'shelf' failed to load ({reason}" in run(site, code)
