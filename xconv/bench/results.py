"""Records as JSON lines: one for the machine, one for its limits, one for each time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from .cases import GPU, PUBLISHED, Case

__all__ = [
    "Record", "best_peer", "bound", "by_case", "cell", "differing", "families", "family",
    "limits_of", "load", "median", "merged", "named", "of_kind", "of_seed", "on_gpu", "published",
    "save", "seed_sizes", "suites",
]  # fmt: skip

Record = dict[str, Any]
LIMITS = ("roofline", "gpu roofline")
"""Kinds of the records of measured limits: of the CPU and of the GPU."""
DEFAULTS = {f.name: f.default for f in fields(Case) if f.default is not MISSING}


def save(path: Path, records: Iterable[Record]) -> None:
    """Write the records; an interrupted run leaves the old file or none.

    What a case has by default is left out, and filled in by `load`.
    """
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w") as file:
        for record in records:
            if "case" in record:
                told = {n: v for n, v in record["case"].items() if DEFAULTS.get(n, ...) != v}
                record = record | {"case": told}
            file.write(json.dumps(record, separators=(",", ":")) + "\n")
    os.replace(temporary, path)


def load(path: Path) -> list[Record]:
    """The records of a file; ValueError, naming file and line, if it is not one of ours."""
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            record["kind"]
            if "case" in record:
                record["case"] = DEFAULTS | record["case"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number} is no record of xconv bench ({error!r}); "
                "pass a .jsonl file that it wrote"
            ) from error
        records.append(record)
    if not records:
        raise ValueError(f"{path} is empty; pass a .jsonl file that xconv bench wrote")
    return records


SAME = ("system", "cpu", "cpu_family", "cpus", "workers", "python", "packages", "native")
"""What runs must have in common if their results are to stand in one file."""


def differing(before: Iterable[Record], machine: Record) -> list[str]:
    """In what the machine of earlier records is another one, in words."""
    found = []
    for m in of_kind(before, "machine"):
        old, new = ({n: r[n] for n in SAME} | {"gpu": (r["gpu"] or {}).get("name")}
                    for r in (m, machine))  # fmt: skip
        found += [f"{n} was {old[n]}, is {new[n]}" for n in old if old[n] != new[n]]
    return found


def merged(before: list[Record], after: list[Record]) -> list[Record]:
    """Two runs on one machine as one: suites of the later run replace those of the earlier.

    The machine's records say which suites are of which run; of the limits the highest count.
    """
    new = {_suite(r) for r in after} - {""}
    machines = [
        m | {"suites": [s for s in m.get("suites", suites(before)) if s not in new]}
        for m in of_kind(before, "machine")
    ]
    machines += [m | {"suites": suites(after)} for m in of_kind(after, "machine")]
    machines = [m for m in machines if m["suites"]] or machines[-1:]
    both = [r for r in before if _suite(r) not in new] + after
    limits = [_highest(r) for kind in LIMITS if (r := of_kind(both, kind))]
    return [*machines, *limits, *(r for r in both if _suite(r))]


def _highest(limits: list[Record]) -> Record:
    flops = {dtype: max(r["flops"][dtype] for r in limits) for dtype in limits[-1]["flops"]}
    return limits[-1] | {"flops": flops, "copy": max(r["copy"] for r in limits)}


def suites(records: Iterable[Record]) -> list[str]:
    """The suites that were run."""
    return list(dict.fromkeys(r["case"]["suite"] for r in records if "case" in r))


def _suite(record: Record) -> str:
    """The suite that a record is of, be it that it was not run; "" for machine and limits."""
    return str(record.get("suite") or record.get("case", {}).get("suite", ""))


def of_kind(records: Iterable[Record], kind: str, suite: str | None = None) -> list[Record]:
    """The records of one kind, of one suite if it is named."""
    return [
        r for r in records if r["kind"] == kind and suite in (None, r.get("case", {}).get("suite"))
    ]


def on_gpu(record: Record) -> bool:
    return bool(record["case"]["suite"] == GPU)


def of_seed(record: Record) -> bool:
    """Whether it is of square images and kernels, sizes, layouts and all, like the first table."""
    case = record["case"]
    plain = not (case["k_dtype"] or case["series"] or case["host"]) and case["mode"] == "valid"
    return plain and case["kernel_layout"] == "HW" and sorted(case["layout"]) == ["H", "N", "W"]


def seed_sizes(case: Record) -> tuple[int, int, int]:
    """S, N and K of a case like those of the first table."""
    sizes = dict(zip(case["layout"], case["x"], strict=True))
    return sizes["H"], sizes["N"], case["k"][0]


def cell(case: Record) -> str:
    """S, N and K of a case of the first table, its layout and its dtype, in short."""
    kind = {"float32": "f32", "float64": "f64"}.get(case["dtype"], case["dtype"])
    return f"{', '.join(map(str, seed_sizes(case)))} {case['layout']} {kind}"


def published(case: Record) -> dict[str, float]:
    """Seconds of contenders that were published for a case of the first table, if any were."""
    if (case["suite"], case["layout"], case["dtype"]) != ("seed", "HWN", "float64"):
        return {}
    return PUBLISHED.get(seed_sizes(case), {})


def limits_of(records: Iterable[Record], gpu: bool) -> Record | None:
    """The measured limits of the GPU, or of the CPU."""
    return next(iter(of_kind(records, LIMITS[gpu])), None)


def bound(record: Record, limit: Record) -> float | None:
    """Least seconds that the direct method needs at measured limits; None where they say
    nothing of it."""
    case = record["case"]
    dtype = np.result_type(case["dtype"], case["k_dtype"] or case["dtype"]).name
    if dtype not in limit["flops"] or case["host"]:
        return None
    return float(max(record["flops"] / limit["flops"][dtype], record["bytes"] / limit["copy"]))


def median(record: Record) -> float:
    """Median seconds of a result that is right."""
    return float(record["seconds"]["median"])


def by_case(records: Iterable[Record]) -> list[list[Record]]:
    """The results of each case, at one number of workers, together; in the order they were run."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in of_kind(records, "result"):
        groups.setdefault((record["case"]["name"], record["workers"]), []).append(record)
    return list(groups.values())


FAMILIES = (
    ("scipy.signal.fftconvolve", "SciPy fftconvolve"),
    ("scipy.signal.oaconvolve", "SciPy oaconvolve"),
    ("scipy.signal.convolve", "SciPy convolve"),
    ("scipy.ndimage", "SciPy ndimage"),
    ("cv2.sepFilter2D", "OpenCV sepFilter2D"),
    ("cv2.", "OpenCV filter2D"),
    ("torch", "PyTorch"),
    ("dask", "dask-image"),
    ("loop", "Python loop"),
    ("cupyx.scipy.signal", "cupyx signal"),
    ("cupyx.scipy.ndimage", "cupyx ndimage"),
)
"""Beginnings of contenders' names, and what a plot calls the fastest of those."""


def family(contender: str) -> str:
    """
    >>> family("cv2.filter2D, batch as channels"), family("xconv fft")
    ('OpenCV filter2D', 'xconv fft')
    """
    return next((name for start, name in FAMILIES if contender.startswith(start)), contender)


def families(group: Iterable[Record]) -> dict[str, Record]:
    """The fastest right answer of each family in the results of one case."""
    best: dict[str, Record] = {}
    for record in group:
        name = family(record["contender"])
        if record["status"] == "ok" and (name not in best or median(record) < median(best[name])):
            best[name] = record
    return best


def best_peer(group: Iterable[Record]) -> Record | None:
    """The fastest right answer that is not xconv's."""
    peers = [r for r in group if r["status"] == "ok" and not r["ours"]]
    return min(peers, key=median, default=None)


def named(group: Iterable[Record], contender: str) -> Record | None:
    """The right answer of one contender."""
    return next((r for r in group if r["contender"] == contender and r["status"] == "ok"), None)
