"""SciPy's own tests of its convolutions pass with xconv's functions put in their place.

SciPy's wheel ships them.  They run in a pytest process of their own, whose plugin
`scipy_suites/replace_functions.py` gives the test modules our functions and counts the calls
that arrive.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

MODULES = ("scipy.ndimage.tests.test_filters", "scipy.signal.tests.test_signaltools")

EXCLUDED = {
    "::TestConvolve2d::test_large_array": "4 GiB and more than a minute; SciPy marks it slow",
}
"""Tests of SciPy's that do not run here, with the reason, which is never that they fail."""

FEWEST_CALLS = {
    "ndimage.convolve": 1000,
    "ndimage.convolve1d": 1000,
    "ndimage.correlate": 1000,
    "ndimage.correlate1d": 1000,
    "signal.convolve": 500,
    "signal.convolve2d": 20,
    "signal.correlate": 200,
    "signal.correlate2d": 10,
    "signal.fftconvolve": 5000,
    "signal.oaconvolve": 4000,
}

CONTROLS = (
    f"{MODULES[0]}::TestNdimageFilters::test_correlate01",
    f"{MODULES[0]}::TestNdimageFilters::test_correlate05",
    f"{MODULES[1]}::TestConvolve::test_basic",
    f"{MODULES[1]}::TestConvolve2d::test_2d_arrays",
    f"{MODULES[1]}::TestCorrelate::test_numpy_fastpath",
    f"{MODULES[1]}::TestCorrelate2d::test_complex_input",
    f"{MODULES[1]}::TestFFTConvolve::test_real",
    f"{MODULES[1]}::TestOAConvolve::test_zero_rank",
)
"""Tests that must notice a wrong answer of each function."""


class Outcome(NamedTuple):
    tests: dict[str, str]
    """Name of each test → "passed", "failed" or "skipped"."""
    calls: Counter[str]
    report: str


def run(tests: Sequence[str], folder: Path, *options: str, **settings: str) -> Outcome:
    """The outcome of SciPy's tests in a process of their own."""
    here = Path(__file__).resolve().parent
    paths = [str(here / "scipy_suites"), str(here.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "XCONV_SUITE_CALLS": str(folder),
        **settings,
    }
    command = [
        *(sys.executable, "-m", "pytest", "-p", "replace_functions", "-p", "no:cacheprovider"),
        *("-q", "--tb=short", f"--junitxml={folder}/results.xml", *options),
        *(f"--deselect={name}" for name in EXCLUDED),
        *("--pyargs", *tests),
    ]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    report = (done.stdout + done.stderr)[-20000:]
    assert done.returncode in (0, 1), report  # some failed at most: nothing was not found
    tests = {}
    for case in ElementTree.parse(folder / "results.xml").iter("testcase"):
        bad = case.find("failure") is not None or case.find("error") is not None
        name = f"{case.get('classname')}::{case.get('name')}"
        state = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        tests[name] = state
    calls = Counter[str]()
    for path in folder.glob("*.json"):
        calls.update(json.loads(path.read_text()))
    return Outcome(tests, calls, report)


@pytest.mark.slow
def test_scipy_suites_pass(tmp_path: Path) -> None:
    outcome = run(MODULES, tmp_path, "-n", "2", "--dist", "worksteal")
    states = Counter(outcome.tests.values())
    skipped = [name for name, state in outcome.tests.items() if state == "skipped"]
    print(dict(states), dict(outcome.calls), skipped)
    assert not states["failed"], outcome.report
    assert states["passed"] > 13_000
    assert len(skipped) <= 3, skipped
    few = {name: outcome.calls[name] for name, n in FEWEST_CALLS.items() if outcome.calls[name] < n}
    assert not few


def test_the_suites_notice_wrong_answers(tmp_path: Path) -> None:
    outcome = run(CONTROLS, tmp_path, XCONV_SUITE_WRONG="1")
    states: dict[str, set[str]] = {}
    for name, state in outcome.tests.items():
        (wrong,) = {"none", *FEWEST_CALLS} & set(re.split(r"[][-]", name))
        states.setdefault(wrong, set()).add(state)
    assert states.pop("none") == {"passed"}, outcome.report
    assert states.keys() == FEWEST_CALLS.keys()
    assert all("failed" in seen for seen in states.values()), states
