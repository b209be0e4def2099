"""Rates are fitted to times, kept for the machine they hold on, and never a cause of failure."""

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xconv import calibration, cost, registry
from xconv.backends.cpu import CPUBackend
from xconv.calibration import Sample
from xconv.cli import calibrate
from xconv.cli.commands import app
from xconv.errors import BackendUnavailable
from xconv.problem import Work


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCONV_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def samples(rates: dict[str, float]) -> list[Sample]:
    works = [
        Work((("direct.float32", n), ("calls", c)), (("svd", s),))
        for n, c, s in ((1e9, 0, 0), (1e6, 5e3, 0), (3e7, 1e2, 1e4), (0, 10, 1e6), (2e8, 7e4, 1e3))
    ]
    return [Sample(work, cost.seconds(work, rates, 1)) for work in works]


def test_fit_finds_the_rates_that_made_the_times() -> None:
    true = {"direct.float32": 7e9, "calls": 3e5, "svd": 9e6}
    fitted = calibration.fit(samples(true), {"direct.float32": 1e9, "calls": 1e6, "svd": 1e8})
    # The pull towards the start leaves a few percent of the factors of 7, 3 and 11.
    assert fitted == pytest.approx(true, rel=0.1)


def test_fit_carries_what_was_not_measured_along() -> None:
    start = {"direct.float32": 1e9, "direct.uint8": 4e9, "calls": 1e6, "fft.float32": 2e9}
    fitted = calibration.fit([Sample(Work((("direct.float32", 1e9),)), 0.25)], start)
    assert fitted["direct.uint8"] / fitted["direct.float32"] == pytest.approx(4)
    assert fitted["calls"] == start["calls"]
    assert fitted["fft.float32"] == start["fft.float32"]


def test_fit_of_nothing_is_what_was_given() -> None:
    assert calibration.fit([], {"calls": 2.0}) == {"calls": 2.0}


def test_kept_rates_come_back_for_the_same_machine_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = CPUBackend()
    assert calibration.kept(backend) is None
    path = calibration.keep(backend, {"calls": 123.0})
    assert path.parent == folder
    assert calibration.kept(backend) == {"calls": 123.0}
    used = calibration.calibrated(CPUBackend())
    assert used.rates == {**CPUBackend.rates, "calls": 123.0}
    assert CPUBackend.rates["calls"] != 123.0

    monkeypatch.setattr(CPUBackend, "version", lambda self: "NumPy 3")
    assert calibration.kept(backend) is None
    assert calibration.calibrated(CPUBackend()).rates == CPUBackend.rates
    assert json.loads(path.read_text())["rates"] == {"calls": 123.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"rates": {"calls": 1}}',
        b'{"rates": [1], "fingerprint": {}}',
        b'{"rates": {"calls": 0}, "fingerprint": {}}',
        b'{"rates": {"calls": -1.5}, "fingerprint": {}}',
        b'{"rates": {"calls": NaN}, "fingerprint": {}}',
        b'{"rates": {"calls": "fast"}, "fingerprint": {}}',
    ],
)
def test_a_damaged_file_is_set_aside(folder: Path, content: bytes) -> None:
    backend = CPUBackend()
    path = calibration.keep(backend, {"calls": 1.0})
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"is damaged .* `xconv calibrate`"):
        assert calibration.kept(backend) is None
    assert [file.read_bytes() for file in folder.iterdir()] == [content]
    assert not path.exists()
    assert calibration.kept(backend) is None  # without a second warning


def test_a_write_that_fails_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = CPUBackend()
    path = calibration.keep(backend, {"calls": 1.0})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        calibration.keep(backend, {"calls": 2.0})
    assert [*folder.iterdir()] == [path]
    assert calibration.kept(backend) == {"calls": 1.0}


def test_what_cannot_be_read_is_ignored(folder: Path) -> None:
    path = calibration.cache_file(CPUBackend())
    assert path is not None
    path.mkdir(parents=True)
    assert calibration.kept(CPUBackend()) is None
    assert path.is_dir()


def test_without_platformdirs_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XCONV_CACHE_DIR")
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert calibration.kept(CPUBackend()) is None
    with pytest.raises(BackendUnavailable, match=r"xconv\[cli\].*XCONV_CACHE_DIR"):
        calibration.keep(CPUBackend(), {"calls": 1.0})


@pytest.fixture
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CPUBackend, "calibration_seconds", 0.0)
    floats = [pair for pair in calibrate._CASES if pair[1] == "float32"][:2]
    monkeypatch.setattr(calibrate, "_CASES", [*floats, *calibrate._CASES[-1:]])


def exhaust(lines: Generator[str, None, Any], told: list[str]) -> Any:
    """What a generator returns, once it has told everything."""
    while True:
        try:
            told.append(next(lines))
        except StopIteration as end:
            return end.value


@pytest.mark.usefixtures("few_cases")
def test_every_method_of_the_cpu_is_measured() -> None:
    backend = CPUBackend()
    told: list[str] = []
    found, efficiencies = exhaust(calibrate.measure(backend), told)
    assert [line.partition(":")[0] for line in told] == ["float32", calibrate._CASES[-1][1]]
    assert all(0 <= share <= 1 for share in efficiencies.values())
    assert set(efficiencies) <= {f"{name.partition('.')[0]}.efficiency" for name in backend.rates}
    assert len(found) >= 2 * len(backend.methods) + 1
    used = {name for sample in found for name, _ in sample.work.amounts}
    assert {"fft.float32", "calls"} <= used
    assert all(sample.seconds > 0 for sample in found)


@pytest.mark.usefixtures("few_cases")
def test_the_command_keeps_what_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CPUBackend()
    monkeypatch.setattr(registry, "backends", lambda: {"cpu": backend})
    monkeypatch.setattr(registry, "find", lambda x: backend)
    result = CliRunner().invoke(app, ["calibrate"])
    assert result.exit_code == 0, result.output
    path = calibration.cache_file(backend)
    assert path is not None
    assert str(path) in result.output.replace("\n", "")
    assert calibration.kept(backend) == backend.rates
    assert backend.rates.keys() >= CPUBackend.rates.keys()
    assert backend.rates["fft.float32"] != CPUBackend.rates["fft.float32"]


@pytest.mark.parametrize("name", ["gpu", "array_api"])
def test_the_command_says_why_a_backend_cannot_be_measured(name: str) -> None:
    result = CliRunner().invoke(app, ["calibrate", "--backend", name])
    assert result.exit_code == 2
    assert name in result.stderr
