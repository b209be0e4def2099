"""Tests run with the default rates: what `xconv calibrate` may have kept here is not looked at."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

os.environ["XCONV_CACHE_DIR"] = str(Path(__file__) / "none")

# A shell's background job ignores Ctrl-C, and so would the processes that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests wait for a GPU, and why."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", ())
        if "gpu" in getattr(report, "keywords", ())  # a module skipped as a whole has none
    )
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} tests for a GPU did not run: {reason}")
