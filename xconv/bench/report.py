"""One HTML page with all results: plots as inline SVG, no file or network beside it."""

from __future__ import annotations

import html
import re
from importlib.resources import files

from . import tables
from .cases import GPU
from .plots import drawn
from .results import Record, of_kind
from .targets import predictions, verdicts

__all__ = ["page"]


def page(records: list[Record]) -> str:
    """The report of a run as the text of an HTML page."""
    figures = "\n".join(
        f'<figure id="plot-{name}"><figcaption><b>{html.escape(title)}</b>{html.escape(text)}'
        f"</figcaption>{svg}</figure>"
        for name, (title, text, svg) in drawn(records).items()
    )
    details = "\n".join(
        f"<details><summary>Suite {suite}</summary>{_html(table)}</details>"
        for suite, table in tables.suite_tables(records)
    )
    targets = tables.targets(records)
    skipped = "".join(
        f"<li>not run: suite {html.escape(r['suite'])}: {html.escape(r['reason'])}</li>"
        for r in of_kind(records, "skipped")
    )
    seed, on_gpu = (of_kind(records, "result", suite) for suite in ("seed", GPU))
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">",
        f"<title>xconv bench</title><style>{_file('report.css')}</style></head><body>",
        "<h1><span>xconv</span> bench</h1>",
        _html(tables.machine(records)),
        f"<ul>{skipped}</ul>" if skipped else "",
        f'<div class="plots">{figures}</div>',
        f"<h2>The first table</h2>{_html(tables.seed_table(records))}" if seed else "",
        f"<h2>The first table on the GPU</h2>{_html(tables.gpu_table(records))}" if on_gpu else "",
        f"<h2>When does xconv lose?</h2>{_html(tables.losses(records))}",
        f"<h2>Targets</h2>{_html(targets)}" if verdicts(records) else "",
        f"<h2>Does the planner know what it costs?</h2>{_html(tables.planner(records))}"
        if predictions(records)
        else "",
        "<h2>All results</h2><p>Time is the median, spread half the distance between the "
        "quartiles; error is in units of eps &times; sum|k| &times; max|x|; the limit is what the "
        "measured arithmetic and memory allow the direct method, so that others may pass it.</p>",
        '<p><input id="find" type="search" placeholder="Find: words of case or contender" '
        'aria-label="Find in all results"></p>',
        details,
        f"<script>{_file('report.js')}</script></body></html>",
    ]
    return "\n".join(part for part in parts if part)


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text()


def _html(markdown: str) -> str:
    """Our own Markdown (paragraphs, lists, tables, code, bold) as HTML."""
    out = []
    for block in markdown.split("\n\n"):
        lines = block.splitlines()
        if block.startswith("| "):
            out.append(_table(lines))
        elif block.startswith("- "):
            out.append("<ul>" + "".join(f"<li>{_inline(x[2:])}</li>" for x in lines) + "</ul>")
        else:
            out.append(f"<p>{_inline(block)}</p>")
    return "\n".join(out)


def _table(lines: list[str]) -> str:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows[2:])
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _cell(cell: str) -> str:
    long = ' class="long"' if len(cell) > 24 else ""
    return f"<td{long}>{_inline(cell)}</td>"


def _inline(text: str) -> str:
    text = html.escape(text)
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]*)\*\*", r"<b>\1</b>", text)
    return re.sub(r"(https://[^\s<]+)", r'<a href="\1">\1</a>', text)
