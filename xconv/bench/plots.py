"""The report's plots, each drawn from records to SVG text; None where there is nothing to draw."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from .cases import GPU
from .results import (
    Record,
    by_case,
    cell,
    families,
    limits_of,
    median,
    named,
    of_kind,
    of_seed,
    published,
)
from .targets import predictions

__all__ = ["PLOTS", "drawn"]

Plot = Callable[[list[Record]], str | None]

COLOURS = {
    "xconv": "#d6336c",
    "xconv direct": "#e8853a",
    "xconv fft": "#8a5cd6",
    "xconv separable": "#2b8a3e",
    "SciPy fftconvolve": "#1c7ed6",
    "SciPy oaconvolve": "#4dabf7",
    "SciPy ndimage": "#0b7285",
    "SciPy convolve": "#74c0fc",
    "OpenCV filter2D": "#5c7c2f",
    "OpenCV sepFilter2D": "#94d82d",
    "PyTorch": "#a0522d",
    "dask-image": "#868e96",
    "Python loop": "#212529",
    "cupyx signal": "#1c7ed6",
    "cupyx ndimage": "#0b7285",
}
MARKERS = "osD^vP*X<>hd8"
SIZE = (4.4, 3.7)
"""Inches: an SVG of this width is still legible when a phone shows it 360 pixels wide."""


@contextmanager
def _figure(height: float = SIZE[1]) -> Iterator[tuple[Any, Any, list[str]]]:
    """A figure and its axes; the SVG's text is appended to the list at the end."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    canvas: Any = FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=9)
    drawn: list[str] = []
    yield figure, axes, drawn
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False
        )
    out = io.StringIO()
    # Text stays text: small, and found by a search; the same plot has the same ids.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "xconv"}):
        canvas.print_svg(out, metadata={"Date": None, "Creator": None})
    drawn.append(out.getvalue())


def _inline(svg: str, name: str) -> str:
    """The <svg> element alone, as wide as its box, its ids made the plot's own on the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\b(id="|url\(#|xlink:href="#|href="#)', rf"\1{name}-", svg)
    head, rest = svg.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", head) + ">" + rest


def _style(name: str) -> dict[str, Any]:
    names = list(COLOURS)
    order = names.index(name) if name in names else len(names)
    ours = name.startswith("xconv")
    return {
        "label": name,
        "color": COLOURS.get(name, "#495057"),
        "marker": MARKERS[order % len(MARKERS)],
        "markersize": 5 if name == "xconv" else 3.5,
        "linewidth": 2.4 if name == "xconv" else 1.2,
        "linestyle": "--" if ours and name != "xconv" else "-",
        "zorder": 5 if name == "xconv" else 4 if ours else 3,
    }


def seed_ratios(records: list[Record]) -> str | None:
    """Times of the first table's three calls, and of xconv, over that of ndimage.convolve."""
    base = "scipy.ndimage.convolve"
    cells = []
    for group in by_case(of_kind(records, "result", "seed")):
        found = {r["contender"]: median(r) for r in group if r["status"] == "ok"}
        if group[0]["case"]["layout"] == "HWN" and base in found:  # the question's layout
            cells.append((group[0]["case"], {name: t / found[base] for name, t in found.items()}))
    shades = {
        "scipy.signal.convolve": "SciPy convolve",
        "scipy.signal.fftconvolve": "SciPy fftconvolve",
        base: "SciPy ndimage",
        "xconv": "xconv",
    }
    if not cells:
        return None
    with _figure(1.6 + 0.21 * len(cells)) as (_, axes, drawn):
        for name, shade in shades.items():
            points = [(found[name], i) for i, (_, found) in enumerate(cells) if name in found]
            if points:
                axes.scatter(*zip(*points, strict=True), s=34, label=name.removeprefix("scipy."),
                             zorder=4, color=COLOURS[shade])  # fmt: skip
            then = [(t[name] / t[base], i) for i, (case, _) in enumerate(cells)
                    if name in (t := published(case))]  # fmt: skip
            if then:
                axes.scatter(*zip(*then, strict=True), s=90, facecolor="none", linewidth=1.6,
                             zorder=3, color=COLOURS[shade])  # fmt: skip
        if any(published(case) for case, _ in cells):
            axes.scatter([], [], s=90, facecolor="none", color="#495057", label="published in 2016")
        _rows(axes, [case for case, _ in cells])
        axes.set_xlabel("time / time of ndimage.convolve", fontsize=9)
    return drawn[0]


def _rows(axes: Any, cases: list[Record]) -> None:
    """One row for each case of the first table, from the top, over a logarithmic abscissa."""
    axes.set_yticks(range(len(cases)), [cell(case) for case in cases])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    _logarithmic(axes, "x")


def _logarithmic(axes: Any, *names: str) -> None:
    """Logarithmic scales for "x" or "y", with plain numbers, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        low, high = axis.get_view_interval()
        subs = (1, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 100 * low else (1,)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
        axis.set_minor_formatter(NullFormatter())


def seed_lead(records: list[Record], suite: str = "seed") -> str | None:
    """How many times faster than each library xconv is, on the first table's cases."""
    groups = by_case(filter(of_seed, of_kind(records, "result", suite)))
    rows = [(g[0]["case"], families(g), mine) for g in groups if (mine := named(g, "xconv"))]
    if not rows:
        return None
    shown = ("SciPy fftconvolve", "SciPy oaconvolve", "SciPy ndimage", "OpenCV filter2D", "PyTorch",
             "cupyx signal", "cupyx ndimage")  # fmt: skip
    with _figure(1.7 + 0.21 * len(rows)) as (_, axes, drawn):
        for name in shown:
            points = [
                (i, median(found[name]) / median(mine))
                for i, (_, found, mine) in enumerate(rows)
                if name in found
            ]
            if points:
                y, x = zip(*points, strict=True)
                axes.scatter(x, y, s=26, label=name, color=COLOURS[name], zorder=4)
        axes.axvline(1, color=COLOURS["xconv"], linewidth=1.6)
        _rows(axes, [case for case, _, _ in rows])
        axes.set_xlabel("time / xconv's: right of the line xconv is faster", fontsize=9)
    return drawn[0]


def _curves(records: list[Record], series: str) -> dict[str, list[tuple[float, float]]]:
    """(abscissa, seconds) of each family in the cases of a series."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for group in by_case(r for r in records if r.get("case", {}).get("series") == series):
        at = group[0]["case"]["at"] or group[0]["workers"]
        for name, record in families(group).items():
            curves.setdefault(name, []).append((at, median(record)))
    return {name: sorted(points) for name, points in curves.items()}


def crossover(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> float | None:
    """Abscissa where the second curve becomes the lower one, interpolated on log scales.

    >>> round(crossover([(1, 1.0), (4, 16.0)], [(1, 4.0), (4, 4.0)]), 6)
    2.0
    """
    shared = sorted({x for x, _ in a} & {x for x, _ in b})
    gaps = [np.log(dict(a)[x] / dict(b)[x]) for x in shared]
    for (x0, g0), (x1, g1) in pairwise(zip(shared, gaps, strict=True)):
        if g0 < 0 <= g1:
            return float(np.exp(np.log(x0) + (np.log(x1) - np.log(x0)) * -g0 / (g1 - g0)))
    return None


def _lines(records: list[Record], series: str, abscissa: str) -> str | None:
    curves = _curves(records, series)
    if max((len(points) for points in curves.values()), default=0) < 2:
        return None
    with _figure(4.3) as (_, axes, drawn):
        for name in sorted(curves, key=lambda n: list(COLOURS).index(n) if n in COLOURS else 99):
            x, y = zip(*curves[name], strict=True)
            axes.plot(x, np.multiply(y, 1e3), **_style(name))
        crossing = crossover(curves.get("xconv direct", []), curves.get("xconv fft", []))
        if crossing:
            axes.axvline(crossing, color="#adb5bd", linestyle=":", linewidth=1.2)
            axes.annotate(f"fft from {crossing:.0f}", (crossing, 0.02), fontsize=8.5, rotation=90,
                          xycoords=("data", "axes fraction"), ha="right")  # fmt: skip
        axes.set_xscale("log")
        _logarithmic(axes, "y")
        ticks = sorted({x for points in curves.values() for x, _ in points})
        ticks = ticks[:: max(1, len(ticks) // 7)]
        axes.set_xticks(ticks, [f"{t:,g}" for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel(abscissa, fontsize=9)
        axes.set_ylabel("milliseconds", fontsize=9)
    return drawn[0]


def roofline(records: list[Record], gpu: bool = False) -> str | None:
    """Flop/s of the direct method against flops per byte, under the machine's limits."""
    limit = limits_of(records, gpu)
    # Small kernels, for which the other methods are not timed, are direct by "auto" too.
    direct = (
        {GPU: "xconv direct"}
        if gpu
        else dict.fromkeys(("seed", "kernels"), "xconv direct")
        | dict.fromkeys(("layouts", "cnn"), "xconv")
    )
    points = [
        (r["flops"] / r["bytes"], r["flops"] / median(r), r["case"]["dtype"])
        for r in of_kind(records, "result")
        if r["status"] == "ok" and r["case"]["dtype"] in ("float32", "float64")
        and r["contender"] == direct.get(r["case"]["suite"]) and not r["case"]["host"]
    ]  # fmt: skip
    if not limit or not points:
        return None
    with _figure() as (_, axes, drawn):
        reach = np.geomspace(min(p[0] for p in points) / 2, max(p[0] for p in points) * 2, 64)
        for dtype, colour, marker in (("float32", "#d6336c", "o"), ("float64", "#1c7ed6", "s")):
            roof = np.minimum(reach * limit["copy"], limit["flops"][dtype])
            axes.plot(reach, roof / 1e9, color=colour, linewidth=1.2)
            mine = [(i, f / 1e9) for i, f, d in points if d == dtype]
            if mine:
                axes.scatter(*zip(*mine, strict=True), s=16, color=colour, marker=marker,
                             label=f"{dtype}, and its limit", alpha=0.75)  # fmt: skip
        _logarithmic(axes, "x", "y")
        axes.set_xlabel("operations of the direct method per byte", fontsize=9)
        axes.set_ylabel("GFLOP/s", fontsize=9)
    return drawn[0]


def regret(records: list[Record]) -> str | None:
    """Share of random problems whose regret is at most x."""
    found = np.sort([r["regret"] for r in of_kind(records, "regret")])
    if not len(found):
        return None
    with _figure() as (_, axes, drawn):
        ratios, shares = np.maximum(found, 0.9), np.arange(len(found) + 1) / len(found) * 100
        axes.step([ratios[0], *ratios], shares, where="post", color=COLOURS["xconv"],
                  linewidth=2)  # fmt: skip
        for share in (50, 99):
            axes.axhline(share, color="#adb5bd", linestyle=":", linewidth=1)
        _logarithmic(axes, "x")
        if ratios[-1] < 4:
            ticks = [t for t in (0.9, 1, 1.1, 1.3, 1.5, 2, 3) if t < ratios[-1] * 1.1]
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xlabel("time of auto / time of the best method", fontsize=9)
        axes.set_ylabel(f"% of {len(found)} random problems", fontsize=9)
    return drawn[0]


def prediction(records: list[Record]) -> str | None:
    """Predicted against measured milliseconds of every method that was timed."""
    found = predictions(records)
    if not found:
        return None
    with _figure() as (_, axes, drawn):
        for name in dict.fromkeys(p.method for p in found):
            points = [(p.measured * 1e3, p.predicted * 1e3) for p in found if p.method == name]
            axes.scatter(*zip(*points, strict=True), s=12, alpha=0.7, label=name,
                         color=COLOURS[f"xconv {name}"])  # fmt: skip
        every = [s * 1e3 for p in found for s in (p.measured, p.predicted)]
        ends = np.array([min(every), max(every)])
        axes.plot(ends, ends, color="#212529", linewidth=1)
        for factor in (0.5, 2):
            axes.plot(ends, ends * factor, color="#adb5bd", linestyle=":", linewidth=1)
        _logarithmic(axes, "x", "y")
        axes.set_xlabel("measured milliseconds", fontsize=9)
        axes.set_ylabel("predicted milliseconds", fontsize=9)
    return drawn[0]


def _series(series: str, abscissa: str) -> Plot:
    return lambda records: _lines(records, series, abscissa)


PLOTS: dict[str, tuple[str, str, Plot]] = {
    "seed": (
        "The three calls of the first table",
        "Image size, number of images, kernel size; images in the last axis. Circles: what the "
        "answer of 2016 measured, where that could be consulted.",
        seed_ratios,
    ),
    "lead": (
        "Against each library at its best",
        "Times over xconv's on the first table's cases, layouts and dtypes.",
        seed_lead,
    ),
    "kernel32": (
        "Kernel size, float32",
        "16 images of 256 x 256, same size out. The dotted line: from here on fft beats direct.",
        _series("kernel, float32", "kernel size K (K x K taps)"),
    ),
    "kernel64": (
        "Kernel size, float64",
        "16 images of 256 x 256, same size out.",
        _series("kernel, float64", "kernel size K (K x K taps)"),
    ),
    "size": (
        "Image size",
        "16 images, 11 x 11 kernel, float32.",
        _series("image size", "image size S (S x S pixels)"),
    ),
    "count": (
        "Number of images",
        "100 x 100 pixels, 11 x 11 kernel, float32, images in the last axis.",
        _series("number of images", "number of images N"),
    ),
    "threads11": (
        "Threads, compute-bound",
        "32 images of 256 x 256, 11 x 11 kernel, float32.",
        _series("threads, K = 11", "threads"),
    ),
    "threads3": (
        "Threads, memory-bound",
        "32 images of 512 x 512, 3 x 3 kernel, float32.",
        _series("threads, K = 3", "threads"),
    ),
    "threads63": (
        "Threads, large kernel",
        "16 images of 512 x 512, 63 x 63 kernel, float32.",
        _series("threads, K = 63", "threads"),
    ),
    "roofline": (
        "How far from what the hardware can do",
        "Each point is a case; lines are the measured limits of memory and arithmetic.",
        roofline,
    ),
    "gpuroofline": (
        "How far from what the GPU can do",
        "The direct method; lines are the card's measured limits of memory and arithmetic.",
        partial(roofline, gpu=True),
    ),
    "regret": (
        "Does the planner choose well?",
        "Time of auto over that of the best method; 1 is a perfect choice, noise goes below.",
        regret,
    ),
    "prediction": (
        "Does the planner know what it costs?",
        "Predicted against measured times; dotted lines are a factor of 2.",
        prediction,
    ),
    "gpulead": (
        "On the GPU, against each library at its best",
        "Times over xconv's on the first table's cases, and on more kernels for large images.",
        partial(seed_lead, suite=GPU),
    ),
    "gpu": (
        "Kernel size on the GPU",
        "64 images of 1024 x 1024, float32.",
        _series("kernel, float32, GPU", "kernel size K (K x K taps)"),
    ),
}  # fmt: skip
"""Title, caption and drawing of each plot, in the report's order."""


def drawn(records: Iterable[Record]) -> dict[str, tuple[str, str, str]]:
    """Title, caption and SVG of every plot that the records have figures for."""
    records = list(records)
    found = {name: (title, text, draw(records)) for name, (title, text, draw) in PLOTS.items()}
    return {
        name: (title, text, _inline(svg, name)) for name, (title, text, svg) in found.items() if svg
    }
