"""The file of results: written and read, and runs of several suites put together."""

from __future__ import annotations

import json

import pytest
from typer import Typer
from typer.testing import CliRunner

from xconv.bench import results, tables
from xconv.bench.cases import cases
from xconv.bench.command import bench


def test_records_survive_the_file(records, tmp_path):
    path = tmp_path / "results.jsonl"
    results.save(path, records)
    loaded = results.load(path)
    assert loaded == json.loads(json.dumps(records))
    assert tables.markdown(loaded) == tables.markdown(records)


@pytest.fixture
def two_runs(records, make):
    """A run of two suites, a later one of the second, and what differs in their machines."""
    (machine, roofline, skipped), (seed, cnn) = records[:3], (cases(s)[0] for s in ("seed", "cnn"))
    before = [machine, roofline, make(seed, "xconv", 1.0), make(cnn, "xconv", 2.0), skipped]
    later = machine | {"date": "2026-02-02T00:00:00+00:00", "load": [1.5, 1.0, 1.0]}
    better = roofline | {"flops": {"float32": 3e11, "float64": 9e10}, "copy": 1e10}
    return before, [later, better, make(cnn, "xconv", 4.0)]


def test_the_later_run_of_a_suite_counts(two_runs):
    found = results.merged(*two_runs)
    times = {r["case"]["suite"]: results.median(r) for r in results.of_kind(found, "result")}
    assert times == {"seed": 1.0, "cnn": 4.0}
    assert [m["suites"] for m in results.of_kind(found, "machine")] == [["seed"], ["cnn"]]
    assert [r["suite"] for r in results.of_kind(found, "skipped")] == ["gpu"]
    (limits,) = results.of_kind(found, "roofline")
    assert (limits["flops"], limits["copy"]) == ({"float32": 3e11, "float64": 1e11}, 2e10)
    told = tables.machine(found)
    assert told.count("Made-up processor") == 1
    assert "suites seed: xconv 0.1.0" in told
    assert "suites cnn: xconv 0.1.0" in told


def test_a_run_that_is_replaced_whole_leaves_nothing(two_runs):
    found = results.merged(two_runs[1], two_runs[0])
    assert [m["suites"] for m in results.of_kind(found, "machine")] == [["seed", "cnn"]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"date": "2027", "load": None, "mhz": "1", "commit": "abc"}, []),
        ({"cpu": "Other"}, ["cpu was Made-up processor, is Other"]),
        ({"workers": 1}, ["workers was 2, is 1"]),
        ({"gpu": {"name": "H100"}}, ["gpu was None, is H100"]),
    ],
)
def test_another_machine_is_told_apart(records, change, told):
    assert results.differing(records, records[0] | change) == told


def test_bench_keeps_other_suites(tmp_path, capfd):
    app = Typer()
    app.command()(bench)

    def run(*words):
        return CliRunner().invoke(app, ["--quick", "-o", str(tmp_path), "--workers", "1", *words])

    def suites():
        return results.suites(results.load(tmp_path / "results.jsonl"))

    assert run("--suite", "overhead").exit_code == 0
    assert run("--suite", "gpu", "--keep").exit_code == 0
    assert suites() == ["overhead"]
    refused = run("--suite", "overhead", "--keep", "--workers", "2")
    assert refused.exit_code == 2
    words = " ".join((refused.output + capfd.readouterr().err).replace("│", " ").split())
    assert "another machine (workers was 1, is 2); name another folder" in words
    assert run("--suite", "gpu").exit_code == 0
    assert suites() == []
