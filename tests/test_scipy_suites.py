"""SciPy's own tests of its convolutions pass with xconv's functions put in their place.

SciPy's wheel ships them.  They run in pytest processes of their own, whose plugin
`scipy_suites/dropins.py` puts our functions into the namespaces of the test modules and counts
the calls that arrive.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

SUITES = ("scipy.ndimage.tests.test_filters", "scipy.signal.tests.test_signaltools")

EXCLUDED: dict[str, str] = {}
"""Tests of SciPy's that do not run here, with the reason, which is never that they fail."""

FEWEST_CALLS = {
    "ndimage.convolve": 100,
    "ndimage.convolve1d": 100,
    "ndimage.correlate": 100,
    "ndimage.correlate1d": 100,
    "signal.convolve": 100,
    "signal.convolve2d": 20,
    "signal.correlate": 100,
    "signal.correlate2d": 10,
    "signal.fftconvolve": 1000,
    "signal.oaconvolve": 1000,
}


class Outcome(NamedTuple):
    counts: Counter[str]
    """Tests by outcome: "passed", "failed", "skipped"..."""
    calls: Counter[str]
    """Calls that arrived, by function."""
    report: str


def run(tests: list[str], package: str, folder: Path, *options: str) -> Outcome:
    """Run SciPy's tests with the functions of a package in place of its own."""
    here = Path(__file__).resolve().parent
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(here / "scipy_suites"), str(here.parent), os.environ.get("PYTHONPATH", "")]
        ),
        "DROPINS_PACKAGE": package,
        "DROPINS_COUNTS": str(folder),
    }
    command = [
        *(sys.executable, "-m", "pytest", "-p", "dropins", "-p", "no:cacheprovider", "-q"),
        *("-n", "2", "--dist", "worksteal", "--tb=short", "--pyargs", *tests, *options),
        *(f"--deselect={name}" for name in EXCLUDED),
    ]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    report = done.stdout + done.stderr
    summary = report.rstrip().rsplit("\n", 1)[-1]
    counts = Counter({word: int(n) for n, word in re.findall(r"(\d+) (\w+)", summary)})
    calls: Counter[str] = Counter()
    for path in folder.glob("*.json"):
        calls.update(json.loads(path.read_text()))
    return Outcome(counts, calls, report)


@pytest.mark.slow
def test_scipy_suites_pass(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    outcome = run(list(SUITES), "xconv", tmp_path)
    assert "failed" not in outcome.counts, outcome.report[-20000:]
    assert not {"error", "errors"} & set(outcome.counts), outcome.report[-20000:]
    assert outcome.counts["passed"] > 13_000
    assert outcome.counts["skipped"] < 10
    few = {name: outcome.calls[name] for name in FEWEST_CALLS}
    assert all(outcome.calls[name] >= least for name, least in FEWEST_CALLS.items()), few
    print(outcome.counts, few)


@pytest.mark.parametrize(
    "tests",
    [
        "scipy.ndimage.tests.test_filters::TestNdimageFilters::test_correlate01",
        "scipy.signal.tests.test_signaltools::TestConvolve2d::test_basic",
    ],
)
def test_the_harness_notices_wrong_answers(tests: str, tmp_path: Path) -> None:
    assert run([tests], "wrong", tmp_path).counts["failed"] > 0
