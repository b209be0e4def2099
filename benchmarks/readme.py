"""Writes README's benchmark section from committed results.

    python benchmarks/readme.py benchmarks/results/FOLDER

Without a folder: from the results that the section is drawn from already.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from xconv.bench import results, tables

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"(?<=<!-- benchmarks -->\n).*?(?=<!-- /benchmarks -->)", re.DOTALL)


def section(text: str) -> str:
    """The section between the markers of a README."""
    found = SECTION.search(text)
    if not found:
        raise ValueError("README.md has no <!-- benchmarks --> and <!-- /benchmarks --> markers")
    return found.group()


def folder_of(section: str) -> str | None:
    """The folder of results that a section was drawn from; None for an empty section."""
    found = re.search(r"\]\((benchmarks/results/[^)/]+)/results\.md\)", section)
    return found.group(1) if found else None


def drawn(folder: str) -> str:
    """The section that the results of a folder give."""
    records = results.load(ROOT / folder / "results.jsonl")
    return f"\n{tables.summary(records, folder)}\n\n"


def main(arguments: list[str]) -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    named = Path(arguments[0]).resolve().relative_to(ROOT).as_posix() if arguments else None
    folder = named or folder_of(section(text))
    if folder is None:
        sys.exit("README.md has no results yet; name a folder: benchmarks/readme.py FOLDER")
    readme.write_text(SECTION.sub(lambda _: drawn(folder), text))
    print(f"README.md: benchmark section drawn from {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
