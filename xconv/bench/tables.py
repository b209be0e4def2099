"""Results as Markdown: machine, targets, tables by suite, and where xconv loses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from .cases import GPU, QUESTION
from .results import (
    Record,
    best_peer,
    bound,
    by_case,
    cell,
    family,
    limits_of,
    median,
    named,
    of_kind,
    of_seed,
    on_gpu,
    published,
    seed_sizes,
    suites,
)
from .targets import predictions, verdicts

__all__ = [
    "gpu_table", "losses", "machine", "markdown", "milliseconds", "planner", "seed_table",
    "suite_tables", "summary",
]  # fmt: skip


NO_GPU = "none, so nothing was run on one"


def markdown(records: list[Record]) -> str:
    """The whole report as Markdown."""
    parts = ["# xconv bench", machine(records), *_skipped(records)]
    if of_kind(records, "result", "seed"):
        parts += ["## The first table", seed_table(records)]
    if of_kind(records, "result", GPU):
        parts += ["## The first table on the GPU", gpu_table(records)]
    parts += ["## When does xconv lose?", losses(records)]
    if verdicts(records):
        parts += ["## Targets", targets(records)]
    if predictions(records):
        parts += ["## Does the planner know what it costs?", planner(records)]
    for suite, table in suite_tables(records):
        parts += [f"## Suite {suite}", table]
    return "\n\n".join(parts) + "\n"


def summary(records: list[Record], folder: str) -> str:
    """The README's section: the machine, the first table, and where xconv loses."""
    met = [target.met(value) for target, value in verdicts(records)]
    return "\n\n".join([
        "## Benchmarks",
        f"Made by `xconv bench` (suites {', '.join(suites(records))}); every figure, with spread, "
        f"scratch memory and error, is in [{folder}]({folder}/results.md), as a page with plots in "
        f"[results.html]({folder}/results.html). Run it on your own machine: `xconv bench`.",
        machine(records),
        seed_table(records),
        f"Of the {len(met)} targets that this run has figures for, {sum(met)} are met; "
        f"[the list]({folder}/results.md#targets) says which are not.",
        "### When does xconv lose?",
        losses(records, 12),
    ])  # fmt: skip


def machine(records: list[Record]) -> str:
    """The machine, its runs and its limits, one line each."""
    runs, limits = of_kind(records, "machine"), limits_of(records, gpu=True)
    lines = []
    for m in runs[:1]:
        memory = f"{m['memory'] / 2**30:.0f} GiB" if m["memory"] else "memory unknown"
        virtual = ", virtual machine" if m["virtual"] else ""
        versions = ", ".join(f"{name} {version}" for name, version in m["packages"].items())
        card = limits["card"] if limits and limits["card"] else m["gpu"]
        lines += [
            f"- {m['cpu']} (family/model/stepping {m['cpu_family']}{virtual}), {m['cpus']} CPUs, "
            f"{m['workers']} threads for every library, {', '.join(m['caches'])}, {memory}",
            f"- {m['system']}, instructions {' '.join(m['instructions'])}, "
            f"governor {m['governor'] or 'not readable'}",
            f"- Python {m['python']}, {versions}",
            "- GPU: "
            + (_card(card) if card else limits["device 0"] if limits else NO_GPU),
        ]  # fmt: skip
    for m in runs:
        native = f"compiled for {m['native']}" if m["native"] else "not compiled"
        load = f", load at the start {m['load'][0]:.2f}" if m["load"] else ""
        which = f"suites {', '.join(m['suites'])}: " if "suites" in m else ""
        lines.append(
            f"- {which}xconv {m['xconv']} ({m['commit'] or 'installed'}), {native}; {m['date']}, "
            f"clock {m['mhz'] or 'unknown'} MHz{load}"
        )
    for r in of_kind(records, "roofline"):
        lines.append(_limits(r, " of the CPU" if limits else ""))
    if limits:
        lines.append(_limits(limits, " of the GPU"))
        found = (f"{name} {limits[name]}" for name in ("driver", "runtime") if name in limits)
        lines[-1] += f"; {', '.join(found)}"
    return "\n".join(lines)


def _limits(r: Record, of: str) -> str:
    flops = ", ".join(f"{f / 1e9:.0f} GFLOP/s {name}" for name, f in r["flops"].items())
    return (
        f"- measured limits{of}: {flops} ({r['how']}), memory {r['copy'] / 1e9:.1f} GB/s by copying"
    )


def _card(card: dict[str, str]) -> str:
    """
    >>> _card({"name": "Made-up", "driver_version": "1.2", "memory.total": "9 MiB",
    ...        "clocks.sm": "700 MHz", "clocks.max.sm": "900 MHz", "power.limit": "50 W"})
    'Made-up, driver 1.2, 9 MiB, SM clock 700 MHz of 900 MHz, power limit 50 W'
    """
    known = {"driver_version": "driver", "clocks.sm": "SM clock", "clocks.mem": "memory clock",
             "power.limit": "power limit"}  # fmt: skip
    most = {name: card.get(name.replace("clocks", "clocks.max")) for name in card}
    return ", ".join(
        " ".join(filter(None, (known.get(name), value)))
        + (f" of {most[name]}" if most[name] and "clocks" in name else "")
        for name, value in card.items()
        if ".max." not in name
    )


def _skipped(records: list[Record]) -> list[str]:
    lines = [f"- suite {r['suite']}: {r['reason']}" for r in of_kind(records, "skipped")]
    return ["Not run:\n\n" + "\n".join(lines)] if lines else []


def seed_table(records: list[Record]) -> str:
    """The seed's table: milliseconds of its three calls, of the best peer and of xconv."""
    calls = ("scipy.signal.convolve", "scipy.signal.fftconvolve", "scipy.ndimage.convolve")
    records = of_kind(records, "result", "seed")
    return "\n\n".join([_first_table(records, calls), *_published(records)])


def _published(records: list[Record]) -> Iterator[str]:
    """One paragraph for each case with published times: the ratios of then and of now."""
    for group in by_case(records):
        then = published(group[0]["case"])
        now = {name: median(r) for name in then if (r := named(group, name))}
        if then and now.keys() == then.keys():
            ratios = (
                " : ".join(f"{t / min(times.values()):.3g}" for t in times.values())
                for times in (then, now)
            )
            yield (
                f"Published in 2016 ({QUESTION}) for {cell(group[0]['case'])}, as ratios of "
                f"{', '.join(f'`{name}`' for name in then)}: {next(ratios)}; here: {next(ratios)}. "
                "Then `convolve` was always direct, and `fftconvolve` transformed the axis of the "
                "images too; the answer's other cells could not be consulted."
            )


def gpu_table(records: list[Record]) -> str:
    """The seed's cases on the device, the large images with more kernels."""
    calls = ("cupyx.scipy.signal.fftconvolve", "cupyx.scipy.ndimage.convolve", "torch conv2d",
             "xconv direct", "xconv fft")  # fmt: skip
    return _first_table(filter(of_seed, of_kind(records, "result", GPU)), calls)


def _first_table(records: Iterable[Record], calls: tuple[str, ...]) -> str:
    shown = [f"`{name.removeprefix('scipy.')}`" for name in calls]
    head = ["S, N, K", "layout", "dtype", *shown, "best peer", "xconv", "best peer / xconv"]
    rows = []
    for group in by_case(records):
        case = group[0]["case"]
        mine, peer = named(group, "xconv"), best_peer(group)
        today = [_cell(named(group, name), group, name) for name in calls]
        rows.append(
            [", ".join(map(str, seed_sizes(case))), case["layout"], case["dtype"], *today,
             f"{milliseconds(peer)} {family(peer['contender'])}" if peer else "",
             f"**{milliseconds(mine)}**" if mine else "failed",
             f"{median(peer) / median(mine):.2f}" if peer and mine else ""]
        )  # fmt: skip
    return "Milliseconds, medians.\n\n" + _table(head, rows)


def losses(records: list[Record], most: int = 1000) -> str:
    """Cases in which a peer is faster than xconv, or gives what xconv cannot, worst first."""
    lost: list[tuple[float, list[Record], str, Record]] = []
    compared: Counter[str] = Counter()
    for group in by_case(r for r in records if r.get("case", {}).get("suite") != "busy"):
        mine, peer = named(group, "xconv"), best_peer(group)
        if not peer:
            continue
        compared[group[0]["case"]["suite"]] += 1
        if not mine:
            failed = next(r for r in group if r["contender"] == "xconv")
            reason = f"xconv {failed['status']}: {failed['reason']}"
            lost.append((float("inf"), group, reason, peer))
        elif median(mine) > median(peer):
            lost.append((median(mine) / median(peer), group, milliseconds(mine), peer))
    if not compared:
        return "No case was run against a peer."
    if not lost:
        return f"In none of the {compared.total()} cases run: xconv was the fastest in each."
    rows = [
        [f"`{group[0]['case']['name']}`", _threads(group[0]), mine,
         f"{milliseconds(peer)} {peer['contender']}", f"{ratio:.2f}"]
        for ratio, group, mine, peer in sorted(lost, key=lambda item: -item[0])[:most]
    ]  # fmt: skip
    head = ["case", "threads", "xconv ms", "fastest peer ms", "xconv / peer"]
    which = "the worst first" if len(lost) <= most else f"the {most} worst"
    by_suite = Counter(group[0]["case"]["suite"] for _, group, _, _ in lost)
    each = ", ".join(f"{name} {by_suite[name]} of {count}" for name, count in compared.items())
    return (
        f"In {len(lost)} of the {compared.total()} cases run ({each}), {which}:\n\n"
        + _table(head, rows)
    )  # fmt: skip


def targets(records: list[Record]) -> str:
    rows = [
        [target.text, f"{target.sense} {target.limit:g}{target.unit}", f"{value:.3g}{target.unit}",
         "met" if target.met(value) else "**missed**"]
        for target, value in verdicts(records)
    ]  # fmt: skip
    return _table(["target", "limit", "measured", ""], rows)


def planner(records: list[Record], most: int = 10) -> str:
    """Predicted against measured seconds by method, and the predictions that are furthest off."""
    found = predictions(records)
    rows = []
    for name in dict.fromkeys(p.method for p in found):
        ratios = np.array([p.ratio for p in found if p.method == name])
        right = np.mean([p.right for p in found if p.method == name])
        rows.append([name, str(len(ratios)), f"{np.median(ratios):.2f}", f"{right:.0%}",
                     f"{ratios.min():.2f} to {ratios.max():.2f}"])  # fmt: skip
    head = ["method", "timed", "predicted / measured, median", "within a factor of 2", "range"]
    worst = sorted(found, key=lambda p: -abs(math.log(p.ratio)))[:most]
    furthest = [
        [f"`{p.case}`", p.method, *(f"{s * 1e3:.3g}" for s in (p.predicted, p.measured)),
         f"{p.ratio:.2f}"]
        for p in worst
    ]  # fmt: skip
    cases = len({p.case for p in found})
    return (
        f"Predicted against measured seconds of {cases} random problems.\n\n{_table(head, rows)}"
        f"\n\nThe {len(worst)} furthest off:\n\n"
        + _table(["case", "method", "predicted ms", "measured ms", "ratio"], furthest)
    )


def suite_tables(records: list[Record]) -> Iterable[tuple[str, str]]:
    """A table per suite: every contender of every case, with spread, scratch and error."""
    head = ["case", "threads", "contender", "ms", "spread", "layout copy ms", "GFLOP/s",
            "% of limit", "scratch MiB", "error"]  # fmt: skip
    suites = dict.fromkeys(r["case"]["suite"] for r in of_kind(records, "result"))
    for suite in suites:
        rows = []
        for group in by_case(of_kind(records, "result", suite)):
            right = sorted((r for r in group if "seconds" in r), key=median)
            others = [r for r in group if "seconds" not in r and r["status"] != "refused"]
            for r in [*right, *others]:
                rows.append([f"`{r['case']['name']}`", _threads(r), r["contender"],
                             *_figures(r, limits_of(records, on_gpu(r)))])  # fmt: skip
        yield suite, _table(head, rows) + _refused(of_kind(records, "result", suite))


def _threads(record: Record) -> str:
    return "GPU" if on_gpu(record) else str(record["workers"])


def _refused(group: list[Record]) -> str:
    """Who refused how many of a suite's cases, and why."""
    counts = Counter((r["contender"], r["reason"]) for r in group if r["status"] == "refused")
    rows = [[name, reason, str(count)] for (name, reason), count in counts.items()]
    return "\n\nRefused:\n\n" + _table(["contender", "reason", "cases"], rows) if rows else ""


def _figures(r: Record, limit: Record | None) -> list[str]:
    if "seconds" not in r:
        return [f"{r['status']}: {r['reason']}", "", "", "", "", "", ""]
    s = r["seconds"]
    spread = f"{(s['high'] - s['low']) / 2 / s['median']:.0%}" if s["samples"] > 1 else "one run"
    rate = r["flops"] / s["median"]
    scratch, copied, error = r.get("scratch"), r.get("copy_seconds"), r.get("error")
    least = bound(r, limit) if limit else None
    return [
        milliseconds(r),
        spread,
        f"{copied * 1e3:.3g}" if copied else "",
        f"{rate / 1e9:.1f}",
        f"{least / s['median']:.0%}" if least else "",
        "" if scratch is None else f"{scratch / 2**20:.1f}",
        "" if error is None else f"{error:.2g}",
    ]


def milliseconds(record: Record) -> str:
    """
    >>> milliseconds({"seconds": {"median": 0.0123456}})
    '12.3'
    """
    value = median(record) * 1e3
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def _cell(record: Record | None, group: list[Record], name: str) -> str:
    if record:
        return milliseconds(record)
    other = next((r for r in group if r["contender"] == name), None)
    return other["status"] if other else ""


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "/") for c in row) + " |" for row in lines)
