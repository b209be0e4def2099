"""Every name of CuPy that is used exists in the CuPy that is installed; it needs no device."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import xconv

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")

ROOTS = {
    "cupy": "cupy",
    "_cupy": "cupy",
    "runtime": "cupy.cuda.runtime",
    "driver": "cupy.cuda.driver",
    "nvrtc": "cupy_backends.cuda.libs.nvrtc",
}
"""What these variables hold in xconv's sources."""
OF_OBJECTS = {
    "cupy.cuda.Stream": ("ptr", "record", "wait_event", "__enter__"),
    "cupy.cuda.Event": ("record", "synchronize"),
    "cupy.cuda.Device": ("attributes", "compute_capability", "__enter__"),
    "cupy.cuda.MemoryPointer": ("ptr", "copy_from_host_async", "copy_to_host_async"),
    "cupy.cuda.function.Module": ("load", "get_function"),
    "cupy.cuda.function.Function": ("ptr",),
    "cupy.ndarray": ("data", "device", "strides", "transpose", "reshape", "conj", "astype"),
}
OPTIONAL = {"cupy.cuda.Stream.from_external"}
"""New in CuPy 14, and asked for before it is used."""


def found(name: str) -> Any:
    module, _, rest = name.partition(".")
    value: Any = importlib.import_module(module)
    for part in rest.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            value = importlib.import_module(f"{value.__name__}.{part}")
    return value


def used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
            if parts[-1] in ROOTS:
                break
        root = parts.pop() if parts and parts[-1] in ROOTS else getattr(node, "id", "")
        if parts and root in ROOTS:
            yield ".".join((ROOTS[root], *reversed(parts)))


def test_names_of_cupy() -> None:
    package = Path(xconv.__file__).parent
    sources = [*(package / "cuda").glob("*.py"), package / "backends" / "cuda.py"]
    names = {name for path in sources for name in used(ast.parse(path.read_text()))}
    assert len(names) > 20
    for name in names - OPTIONAL:
        assert found(name) is not None, name


@pytest.mark.parametrize("kind", OF_OBJECTS)
def test_what_objects_of_cupy_are_asked(kind: str) -> None:
    for name in OF_OBJECTS[kind]:
        # A stream gets its address when it is made.
        assert hasattr(found(kind), name) or (kind, name) == ("cupy.cuda.Stream", "ptr")


def test_parameters_of_transforms() -> None:
    """As `plans.CuFFT` passes them, by position; cuFFT need not be installed to read that."""
    source = Path(cupy.__file__).parent / "cuda" / "cufft.pyx"
    if not source.exists():
        pytest.skip("this CuPy has no sources")
    text = " ".join(source.read_text().split())
    assert (
        "cdef class PlanNd: def __init__(self, object shape, object inembed, int istride, "
        "int idist, object onembed, int ostride, int odist, int fft_type, int batch, str order, "
        "int last_axis, last_size"
    ) in text
    plan = text[text.index("cdef class PlanNd") :]
    assert "def fft(self, a, out, direction): cdef intptr_t plan = self.handle" in plan
    assert "self.work_area = work_area" in plan
