"""Work and rates → seconds: pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from .problem import Work

__all__ = ["seconds"]


def seconds(work: Work, rates: Mapping[str, float], workers: int) -> float:
    """Predicted time of the work, in seconds, on a machine with these rates.

    A rate is units per second of one worker; `rates["native.efficiency"]` is the share of a second,
    third, ... worker that arrives as speed (1 would be a perfect speedup) for the rates
    "native.float32", "native.bytes", ...; `rates["efficiency"]` that of others.

    >>> seconds(Work((("direct", 4e9),)), {"direct": 1e9, "efficiency": 1.0}, workers=2)
    2.0
    """

    def speedup(kind: str) -> float:
        efficiency = rates.get(f"{kind}.efficiency", rates.get("efficiency", 1.0))
        return 1 + (workers - 1) * efficiency

    shared = sum(n / rates[name] / speedup(name.partition(".")[0]) for name, n in work.amounts)
    return shared + sum(amount / rates[name] for name, amount in work.serial)
