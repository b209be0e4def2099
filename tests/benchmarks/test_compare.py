"""`--compare`: regressions beyond the spread, and nothing else."""

from __future__ import annotations

import pytest
from typer import Typer
from typer.testing import CliRunner

from xconv.bench import compare, results
from xconv.bench.cases import cases
from xconv.bench.command import bench

CASE = cases("seed")[0]


@pytest.mark.parametrize(
    ("after", "spread", "slower", "faster"),
    [
        (1.00, 0.01, False, False),
        (1.09, 0.00, False, False),  # below the least change that counts
        (1.11, 0.00, True, False),
        (0.85, 0.00, False, True),
        (1.40, 0.10, False, False),  # 3 * sqrt(2) * 0.1 = 0.42
        (1.45, 0.10, True, False),
    ],
)
def test_threshold_comes_from_the_spread(make, after, spread, slower, faster):
    (change,) = compare.changes(
        [make(CASE, "xconv", 1.0, spread)], [make(CASE, "xconv", after, spread)]
    )
    assert (change.slower, change.faster) == (slower, faster)


def test_peers_and_strangers_do_not_count(make):
    before = [make(CASE, "xconv", 1.0), make(CASE, "cv2.filter2D", 1.0)]
    after = [make(CASE, "xconv", 1.0), make(CASE, "cv2.filter2D", 9.0)]
    after.append(make(cases("seed")[1], "xconv", 9.0))
    assert [c.ratio for c in compare.changes(before, after)] == [1.0]


def test_what_fails_now_is_a_regression(make):
    broken = make(CASE, "xconv", 1.0) | {"status": "wrong", "reason": "2 of 9 outputs off"}
    text, bad = compare.text([make(CASE, "xconv", 1.0)], [broken])
    assert bad
    assert "no longer right" in text
    assert "2 of 9 outputs off" in text


@pytest.fixture
def run(tmp_path):
    app = Typer()
    app.command()(bench)

    def run(before, after):
        paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
        for path, records in zip(paths, (before, after), strict=True):
            if isinstance(records, str):
                path.write_text(records)
            else:
                results.save(path, records)
        return CliRunner().invoke(app, ["--compare", *map(str, paths)])

    return run


def test_exit_status(run, make):
    fast, slow = [make(CASE, "xconv", 1.0)], [make(CASE, "xconv", 2.0)]
    assert run(fast, fast).exit_code == 0
    assert run(slow, fast).exit_code == 0
    worse = run(fast, slow)
    assert worse.exit_code == 1
    assert "slower" in worse.output
    assert "2.00 times" in worse.output
    nothing = run(fast, [make(cases("seed")[1], "xconv", 1.0)])
    assert nothing.exit_code == 1
    assert "no figure in common" in nothing.output


@pytest.mark.parametrize("text", ["", "not JSON\n", "[1, 2]\n", '{"a": 1}\n'])
def test_damaged_files_are_named(run, make, text):
    outcome = run([make(CASE, "xconv", 1.0)], text)
    assert outcome.exit_code == 2
    assert "b.jsonl" in outcome.output
