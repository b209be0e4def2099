"""Tuned plans: what is timed, what is remembered, and that neither changes a result.

The clock of these tests is moved by the methods alone, so no test depends on the machine's speed.
"""

import json
import sys
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import xconv
from xconv import calibration, tuning
from xconv.api import plan_on
from xconv.backends.cpu import CPUBackend
from xconv.methods.direct import Direct
from xconv.methods.fft import FFT
from xconv.methods.separable import Separable
from xconv.problem import Work

RNG = np.random.default_rng(0)
X, K = RNG.standard_normal((2, 9, 10)), RNG.standard_normal((3, 3))


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Timed(Direct):
    """Predicted to take some seconds, and takes others."""

    def __init__(self, clock: Clock, name: str, variant: str, predicted: float, takes: float):
        self.clock, self.name, self.variant = clock, name, variant
        self.predicted, self.takes, self.runs = predicted, takes, 0

    def work(self, *_: Any) -> Work:
        return Work((), (("second", self.predicted),), note=self.variant)

    def run(self, *args: Any) -> Any:
        self.runs += 1
        self.clock.now += self.takes
        return super().run(*args)


class Machine(CPUBackend):
    """Whose predictions are wrong: "b" is faster than "a", which is thought the fastest."""

    rates = MappingProxyType({"second": 1.0})  # type: ignore[assignment]

    def __init__(self, clock: Clock) -> None:
        self.methods = (  # type: ignore[misc]
            Timed(clock, "a", "one", 1.0, 3.0),
            Timed(clock, "a", "two", 1.5, 2.5),
            Timed(clock, "b", "", 3.9, 0.5),
            Timed(clock, "c", "fourth", 3.95, 0.1),
            Timed(clock, "d", "hopeless", 4.1, 0.1),
        )

    def runs(self) -> list[int]:
        """How often each method has run since the last question."""
        runs = [method.runs for method in self.methods]  # type: ignore[attr-defined]
        for method in self.methods:
            method.runs = 0  # type: ignore[attr-defined]
        return runs


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "_known", {})
    return tmp_path / "cache"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    clock = Clock()
    monkeypatch.setattr(tuning, "time", clock)
    return Machine(clock)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process has it."""
    monkeypatch.setattr(tuning, "_known", {})


def tuned(machine: Machine, x: Any = X, k: Any = K, **options: Any) -> xconv.Plan:
    return plan_on(machine, "convolve", x, k, tune=True, **options)


def test_the_clock_decides(machine: Machine) -> None:
    plan = tuned(machine)
    # Once untimed and once timed; three methods at most.
    assert machine.runs() == [2, 2, 2, 0, 0]
    assert plan.method == "b"
    assert plan_on(machine, "convolve", X, K).method == "a"
    measured = {(c.method, c.note): c.measured for c in plan.candidates}
    assert measured == {
        ("a", "one"): 3.0,
        ("a", "two"): 2.5,
        ("b", ""): 0.5,
        ("c", "fourth"): None,
        ("d", "hopeless"): None,
    }
    text = plan.explain()
    assert "tuned: timed on this machine" in text
    assert "*b                  3.9        0.5 " in text
    result = plan(X)
    assert machine.runs() == [0, 0, 1, 0, 0]
    untuned = plan_on(machine, "convolve", X, K)
    assert "tuned" not in untuned.explain()
    assert np.array_equal(untuned(X), result)


def test_short_runs_are_repeated_and_the_shortest_counts(machine: Machine) -> None:
    for method in machine.methods:
        method.takes = 0.01  # type: ignore[attr-defined]
    tuned(machine)
    # 0.1 s for each of three: 10 rounds, one more where sums of 0.01 are rounded down, one untimed.
    assert machine.runs() in ([11] * 3 + [0] * 2, [12] * 3 + [0] * 2)


def test_what_is_predicted_four_times_slower_is_not_tried(machine: Machine) -> None:
    machine.methods[1].predicted = 4.05  # type: ignore[attr-defined]
    machine.methods[2].predicted = 4.06  # type: ignore[attr-defined]
    machine.methods[3].predicted = 4.07  # type: ignore[attr-defined]
    plan = tuned(machine)
    assert machine.runs() == [0] * 5
    assert "tuned" not in plan.explain()


def test_a_method_that_is_named_has_its_implementations_timed(machine: Machine) -> None:
    plan = tuned(machine, method="a")
    assert machine.runs() == [2, 2, 0, 0, 0]
    assert [c.note for c in plan.candidates if c.chosen] == ["two"]
    tuned(machine, method="b")
    assert machine.runs() == [0] * 5
    with pytest.raises(xconv.ArgumentError, match="method='e' is unknown"):
        tuned(machine, method="e")


def test_nothing_is_timed_twice(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tuned(machine)
    machine.runs()
    again = tuned(machine, RNG.standard_normal(X.shape), 2 * K)
    forget(monkeypatch)
    elsewhere = tuned(machine)
    assert machine.runs() == [0] * 5
    assert first.explain() == again.explain() == elsewhere.explain()


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (X, {"workers": 1}),
        (X, {"max_memory": 1 << 20}),
        (X, {"mode": "same"}),
        (X, {"boundary": "wrap", "mode": "same"}),
        (X, {"dtype": "float32"}),
        (X.astype("f4"), {}),
        (X.astype(X.dtype.newbyteorder()), {}),
        (np.asfortranarray(X), {}),
        (np.where(X[0, 0, 0] < X, np.nan, X), {}),
    ],
)
def test_another_problem_is_timed_anew(machine: Machine, x: np.ndarray, options: Any) -> None:
    tuned(machine, workers=2)
    machine.runs()
    tuned(machine, x, **{"workers": 2, **options})
    assert machine.runs()[:3] == [2, 2, 2]
    tuned(machine, workers=2)
    assert machine.runs() == [0] * 5


@pytest.mark.parametrize("shape", [(0, 9, 10), (2, 0, 10)])
def test_there_is_nothing_to_time_in_nothing(machine: Machine, shape: tuple[int, ...]) -> None:
    assert tuned(machine, np.empty(shape))(np.empty(shape)).shape[0] == shape[0]
    assert machine.runs() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", ["f4", "f2", "c8", "i2", "u1", "?"])
def test_x_is_used_but_never_written(machine: Machine, dtype: str) -> None:
    x, k = (3 * X).astype(dtype), K.astype(dtype)
    before = x.copy()
    x.flags.writeable = False
    assert tuned(machine, x, k).method == "b"
    assert np.array_equal(x, before)
    machine.runs()
    tuned(machine, xconv.Spec(X.shape, dtype), k)
    assert machine.runs()[:3] == [2, 2, 2]


def test_the_kernel_must_be_there(machine: Machine) -> None:
    with pytest.raises(xconv.ArgumentError, match="pass the kernel's array"):
        tuned(machine, X, xconv.Spec((3, 3)))


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'{"times": {}}',
        b'{"times": [1], "fingerprint": {}}',
        b'{"times": {"x": [["a", "one"]]}, "fingerprint": {}}',
        b'{"times": {"x": [["a", "one", 0]]}, "fingerprint": {}}',
        b'{"times": {"x": [["a", "one", NaN]]}, "fingerprint": {}}',
    ],
)
def test_a_damaged_file_is_set_aside(
    folder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    folder.mkdir()
    file = folder / "times-cpu.json"
    file.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="is damaged .* plans are timed again"):
        assert tuned(machine).method == "b"
    assert file.with_suffix(".damaged").read_bytes() == content
    machine.runs()
    forget(monkeypatch)
    assert tuned(machine).method == "b"
    assert machine.runs() == [0] * 5


def test_times_of_another_machine_are_not_used(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(machine)
    machine.runs()
    forget(monkeypatch)
    monkeypatch.setattr(CPUBackend, "version", lambda self: "NumPy 3")
    tuned(machine)
    assert machine.runs()[:3] == [2, 2, 2]


def test_other_processes_lose_nothing(
    folder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(machine)
    forget(monkeypatch)
    tuned(machine, mode="same")
    assert len(json.loads((folder / "times-cpu.json").read_text())["times"]) == 2
    monkeypatch.setattr(tuning, "KEPT", 2)
    tuned(machine, mode="valid")
    forget(monkeypatch)
    machine.runs()
    tuned(machine, mode="valid")
    tuned(machine, mode="same")
    assert machine.runs() == [0] * 5
    tuned(machine)
    assert machine.runs()[:3] == [2, 2, 2]


@pytest.mark.parametrize("lack", ["platformdirs", "folder"])
def test_without_a_folder_the_process_remembers(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    if lack == "folder":
        (tmp_path / "file").touch()
        monkeypatch.setenv("XCONV_CACHE_DIR", str(tmp_path / "file" / "cache"))
    else:
        monkeypatch.delenv("XCONV_CACHE_DIR")
        monkeypatch.setitem(sys.modules, "platformdirs", None)
        assert calibration.cache_file(machine, "times") is None
    assert tuned(machine).method == "b"
    machine.runs()
    assert tuned(machine).method == "b"
    assert machine.runs() == [0] * 5


def test_threads_time_a_problem_once(machine: Machine) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(tuned(machine).method)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["b"] * 6
    assert machine.runs() == [2, 2, 2, 0, 0]


class Mistaken(CPUBackend):
    """Takes the separable method for the fastest of those in Python, the transform for next."""

    methods = (Direct(), FFT(), Separable())
    rates = dict.fromkeys(CPUBackend.rates, 1e12) | dict.fromkeys(
        (n for n in CPUBackend.rates if n.endswith("efficiency")), 1.0
    )


def test_the_kernels_values_count() -> None:
    """Kernels of other rank, or with NaN, are another choice; so is each one passed to a plan."""
    x, (a, b, c) = RNG.standard_normal((2, 40, 40)), RNG.standard_normal((3, 9))
    one, two = np.outer(a, b), np.outer(a, b) + np.outer(b, c)
    broken = np.where(one == one.max(), np.nan, one)
    backend = Mistaken()
    plan = plan_on(backend, "convolve", x, one, tune=True)
    assert len(tuning._known) == 1
    assert len([c for c in plan.candidates if c.measured]) >= 2
    for kernel in (one, two):
        expected = xconv.convolve(x, kernel, method="direct")
        # The bounds of the separable method, the widest of the three.
        bound = (4 * (18 + 3) + 22) * 2.3e-16 * np.abs(kernel).sum() * np.abs(x).max()
        assert np.abs(plan(x, kernel) - expected).max() <= bound
    assert np.isnan(plan(x, broken)).any()
    plan_on(backend, "convolve", x, two, tune=True)
    assert len(tuning._known) == 2
    assert plan_on(backend, "convolve", x, broken, tune=True).method == "direct"
    assert len(tuning._known) == 2
    forced = plan_on(backend, "convolve", x, one, tune=True, method="separable")
    assert forced.method == "separable"
    with pytest.raises(xconv.MethodRefused, match="NaN"):
        forced(x, broken)


def test_with_the_methods_of_this_machine() -> None:
    x, k = RNG.standard_normal((3, 50, 50)).astype("f4"), RNG.standard_normal((15, 15))
    plan = xconv.plan(x, k, layout="NHW", mode="same", tune=True)
    measured = {c.method: c.measured for c in plan.candidates if c.measured is not None}
    assert len(tuning._known) == (1 if measured else 0)
    assert plan.method == min(measured, key=lambda m: measured[m], default=plan.method)
    expected = xconv.convolve(x, k, layout="NHW", mode="same", method=plan.method)
    assert np.array_equal(plan(x), expected)
