"""README's benchmark section is what the committed results give, to the letter."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
readme = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))


def test_section_is_drawn_from_the_results_it_names():
    section = readme["section"]((ROOT / "README.md").read_text())
    folder = readme["folder_of"](section)
    if folder is None:
        committed = list((ROOT / "benchmarks" / "results").glob("*/results.jsonl"))
        assert not committed, "results are committed, but README has none: benchmarks/readme.py"
        assert not section.strip(), "README's section names no results"
    else:
        assert section == readme["drawn"](folder), "run python benchmarks/readme.py"


def test_drawn_section_names_its_folder(records, tmp_path, monkeypatch):
    from xconv.bench import results

    folder = tmp_path / "benchmarks" / "results" / "made-up"
    folder.mkdir(parents=True)
    results.save(folder / "results.jsonl", records)
    monkeypatch.setitem(readme["drawn"].__globals__, "ROOT", tmp_path)
    section = readme["drawn"]("benchmarks/results/made-up")
    assert readme["folder_of"](section) == "benchmarks/results/made-up"
    assert "When does xconv lose?" in section
    assert "Made-up processor" in section


def test_readme_without_markers_is_refused():
    with pytest.raises(ValueError, match="markers"):
        readme["section"]("# xconv\n")
