"""`xconv calibrate --backend cuda`, and where what it keeps is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xconv import calibration, registry
from xconv.backends.cuda import CUDABackend

from .emulator import COMPILER, EmulatedDevice

testing = pytest.importorskip("typer.testing")

from xconv.cli import calibrate  # noqa: E402
from xconv.cli.commands import app  # noqa: E402


@pytest.fixture(autouse=True)
def _few_small_cases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(CUDABackend, "calibration_seconds", 0.0)
    monkeypatch.setattr(calibrate, "_THREADS", 1)  # the emulator runs one kernel at a time
    small = calibrate._Case("NHW", (1, 12, 14), (3, 4))
    layer = calibrate._Case("NCHW", (1, 9, 5, 6), (9, 9, 2, 2), ("direct",), "OIHW", rate="layer")
    cases = [(small, "float32"), (layer, "float32"), (small, "int8")]
    monkeypatch.setattr(calibrate, "_CASES", cases)
    monkeypatch.setattr(CUDABackend, "parallel", 2)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulated device")
def test_the_rates_are_kept_for_this_card(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CUDABackend(EmulatedDevice())
    monkeypatch.setattr(registry, "backends", lambda: {"cuda": backend})
    done = testing.CliRunner().invoke(app, ["calibrate", "--backend", "cuda"])
    assert done.exit_code == 0, done.output
    # Two sizes: five rows of float32, four direct ones of a layer, three of int8.
    assert "24 cases in" in done.output
    assert "compiling: 36 of 36 first calls" in done.output
    assert "float32: 18 timed in" in done.output
    defaults = backend.default_rates()
    measured = {name for name in defaults if backend.rates[name] != defaults[name]}
    kinds = ("direct", "any", "layer", "array", "fft")
    assert measured >= {"calls", *(f"{kind}.float32" for kind in kinds)}
    assert backend.rates["transfer"] == defaults["transfer"]

    path = calibration.cache_file(backend)
    assert path is not None
    known = json.loads(path.read_text())["fingerprint"]
    assert known["driver"] == "CUDA 13.0"
    assert known["device 0"] == "emulated, sm_00"
    assert calibration.kept(CUDABackend(EmulatedDevice())) == backend.rates
    other = EmulatedDevice()
    other.card = "another card, sm_00"
    assert calibration.kept(CUDABackend(other)) is None


def test_cupy_is_not_imported_to_look_for_rates(tmp_path: Path) -> None:
    """Nor for anything else, while there are only NumPy's arrays."""
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text("raise SystemExit('CuPy was imported')")
    program = "import xconv, numpy; xconv.convolve(numpy.ones(9), [1.0, 2.0])"
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))},
        cwd=Path(__file__).parents[2],
    )
