"""What became slower between two files of results, beyond what their spread explains."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .results import Record, median, of_kind

__all__ = ["Change", "changes", "text"]

LEAST = 0.10
"""Changes below this share are not called regressions, however small the spread."""
SPREADS = 3.0
"""Times the joint spread that a change must exceed."""


@dataclass(frozen=True, slots=True)
class Change:
    """One contender of one case in both files."""

    name: str
    before: float
    after: float
    threshold: float
    """Ratio of the times above which the change is a regression."""

    @property
    def ratio(self) -> float:
        return self.after / self.before

    @property
    def slower(self) -> bool:
        return self.ratio > self.threshold

    @property
    def faster(self) -> bool:
        return self.ratio < 1 / self.threshold


def changes(before: Iterable[Record], after: Iterable[Record]) -> list[Change]:
    """xconv's own figures that both files have, the worst change first."""
    old, new = _own(before), _own(after)
    found = [
        Change(" ".join(map(str, key)), median(old[key]), median(new[key]),
               1 + max(LEAST, SPREADS * math.hypot(_spread(old[key]), _spread(new[key]))))
        for key in old.keys() & new.keys()
    ]  # fmt: skip
    return sorted(found, key=lambda c: -c.ratio)


def broken(before: Iterable[Record], after: Iterable[Record]) -> list[str]:
    """What was right before and is not any more: failed, wrong or refused."""
    old = _own(before)
    bad = {_key(r): r for r in of_kind(after, "result") if r["ours"] and r["status"] != "ok"}
    return [f"{' '.join(map(str, key))}: {bad[key]['reason']}" for key in old.keys() & bad.keys()]


def _own(records: Iterable[Record]) -> dict[tuple[str, str, int], Record]:
    return {_key(r): r for r in of_kind(records, "result") if r["ours"] and r["status"] == "ok"}


def _key(record: Record) -> tuple[str, str, int]:
    return record["case"]["name"], record["contender"], record["workers"]


def _spread(record: Record) -> float:
    """Half the distance between the quartiles, as a share of the median."""
    seconds = record["seconds"]
    return float((seconds["high"] - seconds["low"]) / 2 / seconds["median"])


def text(before: list[Record], after: list[Record]) -> tuple[str, bool]:
    """What changed, in words, and whether anything became slower or stopped working."""
    found, lost = changes(before, after), broken(before, after)
    lines = []
    machines = [of_kind(r, "machine")[0] if of_kind(r, "machine") else {} for r in (before, after)]
    differing = [
        f for f in ("cpu", "workers", "native") if machines[0].get(f) != machines[1].get(f)
    ]
    if differing:
        lines.append(f"note: the files differ in {', '.join(differing)}: machines are compared too")
    slower, faster = [c for c in found if c.slower], [c for c in found if c.faster]
    for title, group in (("slower", slower), ("faster", reversed(faster))):
        lines += [
            f"{title}: {c.name}: {c.before * 1e3:.3f} -> {c.after * 1e3:.3f} ms, "
            f"{c.ratio:.2f} times (threshold {c.threshold:.2f})"
            for c in group
        ]
    lines += [f"no longer right: {name}" for name in lost]
    lines.append(
        f"{len(found)} figures compared: {len(slower)} slower, {len(faster)} faster, "
        f"{len(lost)} no longer right"
    )
    if not found and not lost:
        lines.append("the files have no figure in common; run the same suite for both")
    return "\n".join(lines), bool(slower or lost or not found)
