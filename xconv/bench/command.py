"""`xconv bench`: the command line of the benchmarks.

`bench` is a typer command: `app.command("bench")(bench)` adds it to a program, and
`python -m xconv.bench` runs it alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["bench", "compare_files", "write"]

ALL = "all"


def bench(
    suite: Annotated[
        str,
        typer.Option(
            help="seed, layouts, kernels, cnn, hostile, overhead, threads, busy, "
            "regret, gpu or all; several with commas."
        ),
    ] = "seed",
    quick: Annotated[
        bool, typer.Option("--quick", help="At most 90 seconds: fewer cases.")
    ] = False,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for results.jsonl, .md and .html.")
    ] = Path("xconv-bench"),
    workers: Annotated[
        int, typer.Option(min=0, help="Threads for every library; 0: all CPUs.")
    ] = 0,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Keep the results of other suites that the folder has from this machine."
        ),
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="A.jsonl B.jsonl",
            help="Say what became slower from A to B; exit status 1 if anything did.",
        ),
    ] = None,
) -> None:
    """Time xconv and its peers on this machine: which is fastest for which sizes, how far from
    the limit; or compare two runs."""
    if compare is not None:
        raise typer.Exit(compare_files(*compare))
    from . import machine, results, suites

    wanted = list(suites.NAMES) if suite == ALL else [s.strip() for s in suite.split(",")]
    unknown = [name for name in wanted if name not in suites.NAMES]
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r} is unknown; use {', '.join(suites.NAMES)} or all", param_hint="--suite"
        )
    tainted = [name for name in machine.TAINTED if name in os.environ]
    if tainted:  # a BLAS reads them as it is loaded, so only a new process is without them
        raise typer.Exit(_again(tainted, suite, quick, output, workers, keep))
    output.mkdir(parents=True, exist_ok=True)
    threads = workers or machine.cpus()
    kept = output / "results.jsonl"
    before = results.load(kept) if keep and kept.exists() else []
    other = results.differing(before, machine.fingerprint(threads))
    if other:
        raise typer.BadParameter(
            f"{kept} is from another machine ({'; '.join(other)}); name another folder, "
            "or leave --keep out to replace it",
            param_hint="--keep",
        )
    total = sum(1 for _ in suites.steps(wanted, threads, quick))
    records: list[dict[str, Any]] = []
    try:
        for record in _shown(wanted, threads, quick, total):
            records.append(record)
    finally:  # an interrupted run keeps what it has measured
        if before:
            records = results.merged(before, records)
        for path in write(records, output):
            typer.echo(path)


def _again(
    tainted: list[str], suite: str, quick: bool, output: Path, workers: int, keep: bool
) -> int:
    clean = {name: value for name, value in os.environ.items() if name not in tainted}
    command = [sys.executable, "-m", "xconv.bench", "--suite", suite, "-o", str(output)]
    command += ["--workers", str(workers), *(["--quick"] if quick else [])]
    command += ["--keep"] if keep else []
    return subprocess.run(command, env=clean).returncode


def _shown(names: list[str], workers: int, quick: bool, total: int) -> Iterator[dict[str, Any]]:
    """The records as they come, with a progress bar above and a table of the case at hand."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from . import suites

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )
    task = bar.add_task("measuring the limits", total=total)
    current: list[dict[str, Any]] = []
    with Live(Group(bar), console=console, auto_refresh=False) as live:

        def tell(step: suites.Step) -> None:
            bar.update(task, description=step.label[-60:])
            live.update(Group(_table(current), bar), refresh=True)
            current.clear()

        last = None
        for record in suites.run(names, workers, quick, tell):
            yield record
            if record["kind"] == "result":
                current.append(record)
            name = record.get("case", {}).get("name"), record["kind"]
            if name != last:
                bar.advance(task, 1 if last and record["kind"] != "skipped" else 0)
                last = name
        bar.update(task, completed=total, description="done")
        live.update(Group(_table(current), bar), refresh=True)


def _table(records: list[dict[str, Any]]) -> Any:
    """The last case's contenders, fastest first."""
    from rich.table import Table

    from .results import median
    from .tables import milliseconds

    table = Table(title=records[0]["case"]["name"] if records else None, title_justify="left")
    for heading in ("contender", "ms", "spread", "error"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for r in sorted((r for r in records if r["status"] == "ok"), key=median):
        s = r["seconds"]
        spread = f"{(s['high'] - s['low']) / 2 / s['median']:.0%}"
        cells = r["contender"], milliseconds(r), spread, f"{r.get('error') or 0:.2g}"
        table.add_row(*cells, style="bold" if r["ours"] else "")
    for r in records:
        if r["status"] in ("wrong", "failed"):
            table.add_row(r["contender"], r["status"], "", "", style="dim")
    return table


def write(records: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Write results.jsonl, results.md and results.html; their paths."""
    from . import report, results, tables

    paths = [folder / f"results.{ending}" for ending in ("jsonl", "md", "html")]
    results.save(paths[0], records)
    paths[1].write_text(tables.markdown(records))
    paths[2].write_text(report.page(records))
    return paths


def compare_files(before: Path, after: Path) -> int:
    """Print what changed; 1 if anything became slower or stopped working, 2 for bad files."""
    from . import compare, results

    try:
        text, bad = compare.text(results.load(before), results.load(after))
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    typer.echo(text)
    return int(bad)
