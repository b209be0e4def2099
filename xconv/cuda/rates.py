"""What a card does in a second, from its data sheet, until `xconv calibrate` has measured it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["CARDS", "rates"]

CARDS: dict[str, tuple[float, float, float]] = {
    "H200": (4.8e12, 67e12, 34e12),
    "H100": (3.35e12, 67e12, 34e12),
    "A100": (1.94e12, 19.5e12, 9.7e12),
    "L40": (0.864e12, 90.5e12, 1.41e12),
    "L4": (0.3e12, 30.3e12, 0.47e12),
    "T4": (0.32e12, 8.1e12, 0.25e12),
}
"""Bytes of memory, float32 and float64 operations per second, by a part of the card's name:
NVIDIA's data sheets (SXM for H100 and H200, PCIe 80 GB for A100); of L40, L4 and T4 the float64
figure is 1/64 and 1/32 of the float32 one."""

_REACHED = 0.6
"""Share of the sheet's figures that a kernel is taken to reach.  This, and what is derived from the
figures below, is about what was measured on an H200 and an H100 (2026-11-26)."""


def rates(card: str) -> Mapping[str, float]:
    """Units per second by the names that the methods' Work uses, for a card of this name.

    An unknown card is taken for an A100.

    >>> rates("NVIDIA H100 80GB HBM3")["memory"] > rates("Tesla T4")["memory"]
    True
    """
    known = (figures for name, figures in CARDS.items() if name in card)
    memory, single, double = (_REACHED * n for n in next(known, CARDS["A100"]))
    found = {
        "memory": memory,
        "transfer": _REACHED * 32e9,
        "calls": 1e5,
        "svd": 4e9,
        "efficiency": 1.0,
    }
    # Multiply-adds per second (two operations each), and bytes of one element.
    kinds = {
        "float32": (single / 2, 4),
        "float64": (double / 2, 8),
        "complex64": (single / 8, 8),
        "complex128": (double / 8, 16),
        "bool": (single / 4, 1),
    }
    for sign in ("int", "uint"):
        kinds |= {f"{sign}{8 * n}": (single / 4, n) for n in (1, 2, 4)}
        kinds[f"{sign}64"] = (single / 16, 8)
    for dtype, (products, size) in kinds.items():
        found[f"direct.{dtype}"] = products
        found[f"layer.{dtype}"] = 1.5 * products  # instructions, most of them products
        found[f"any.{dtype}"] = single / 96  # address arithmetic for each product
        found[f"array.{dtype}"] = memory / (1.5 * size)
        found[f"fft.{dtype}"] = memory / (2.1 * size)  # elements times axes
    return found
