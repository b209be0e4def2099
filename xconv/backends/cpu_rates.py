"""Rates of the CPU backend until `xconv calibrate` measures others: units per second of a thread.

They are those of two machines, told apart by the instruction set that the core uses: an AVX-512
one is the newer in all else too.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["cpu_rates"]

_DTYPES = ("float32", "float64", "complex64", "complex128", "float128", "complex256")

_SHARED: Mapping[str, float] = {
    "svd": 4e9,
    "fft.copies": 5e9,
    # One over what it takes to start a thread and to wait for its last block.
    "threads": 2.3e3,
    # Threads of Python wait for each other at every call of NumPy.
    "efficiency": 0.1,
    "native.efficiency": 0.8,
    "passes.efficiency": 0.6,
    "fft.efficiency": 0.85,
    "gather.efficiency": 0.85,
    "spectral.efficiency": 0.85,
}

_Table = Mapping[str, float | tuple[float, ...]]

_AVX2: _Table = {
    # Zen 3, two cores, NumPy 2.4, SciPy 1.17; the middle of six calibrations, 2026-11-25.  Runs and
    # borders are AVX-512's, for a slower clock; passes are AVX2's on the Zen 5, where these kernels
    # do all else in half the time.
    "calls": 7e4,
    "fft.calls": 5.5e3,
    "native.calls": 1e5,
    "native.bytes": 2e10,
    "native.runs": 3.5e7,
    "native.border": 1.3e8,
    "passes.bytes": 1.6e10,
    "passes.runs": 4e8,
    "passes.border": 1.2e9,
    "passes.calls": 2.2e4,
    "native": (3.5e10, 1.5e10, 7e9, 3.2e9, 1e9, 2e8),
    "passes": (3.3e10, 1.4e10, 9e9, 4e9, 1e9, 2e8),
    "direct": (1.5e9, 8e8, 7e8, 3.4e8, 4e7, 1e7),
    "fft": (2.9e9, 1.4e9, 1.8e9, 9e8, 7e7, 2e7),
    "fft.large": (2.2e9, 1.15e9, 1e9, 5e8, 5e7, 1.3e7),
    "spectral": (5e8, 3.4e8, 3.9e8, 2.8e8, 2.5e7, 6e6),
    "gather": (1.7e9, 8.5e8, 5.5e8, 3e8, 5e7, 1.3e7),
}

_AVX512: _Table = {
    # Zen 5, two cores, NumPy 2.4, SciPy 1.17: fitted to what single calls took in 300 random
    # problems (`xconv bench --suite regret`, 2026-11-26), transforms to 388 calls of those and of
    # larger images and signals, by one worker and two (and a fifth less: between others they find
    # emptied caches), passes to 217 Gaussians among 1,500; the rest from two calibrations.
    "calls": 7e4,
    "fft.calls": 7e4,
    "native.calls": 1.1e5,
    "native.bytes": 3e10,
    "native.runs": 1e8,
    "native.border": 9e8,
    "native.efficiency": 1.0,
    "passes.bytes": 2.2e10,
    "passes.runs": 5e8,
    "passes.border": 2.5e9,
    "passes.calls": 3.8e4,
    "passes.efficiency": 1.0,
    "native": (1e11, 4.5e10, 2.3e10, 1.15e10, 6e8, 1.2e8),
    "passes": (1.2e11, 4.8e10, 3.2e10, 1.2e10, 6e8, 1.2e8),
    "direct": (3.9e9, 2.2e9, 1.8e9, 9e8, 1.5e8, 3.8e7),
    "fft": (1.15e10, 7e9, 5.7e9, 3.4e9, 7e7, 2e7),
    "fft.large": (1.2e10, 7e9, 6e9, 3.5e9, 5e7, 1.3e7),
    "spectral": (8e8, 1.2e9, 8.5e8, 9e8, 1.3e7, 3e6),
    "gather": (7.6e8, 3e8, 3.9e8, 1.5e8, 2.8e7, 7.4e6),
}

_DUCC = {"fft": (1.75, 2.2), "fft.large": (1.35, 1.75)}
"""How many times SciPy's rates ducc0's are, in single and double precision (Zen 5, 2026-11-26)."""


def cpu_rates(isa: str | None, ducc: bool) -> dict[str, float]:
    """Default rates for an instruction set of the core, and transforms by SciPy or ducc0.

    >>> cpu_rates("avx512", True)["fft.float32"] > cpu_rates("avx2", False)["fft.float32"]
    True
    """
    rates = dict(_SHARED)
    for kind, values in (_AVX512 if isa == "avx512" else _AVX2).items():
        if not isinstance(values, tuple):
            rates[kind] = values
            continue
        for i, (dtype, rate) in enumerate(zip(_DTYPES, values, strict=True)):
            faster = _DUCC[kind][i % 2] if ducc and kind in _DUCC and i < 4 else 1.0
            rates[f"{kind}.{dtype}"] = rate * faster
    for bits, native, direct in (
        (8, 4.5e10, 6e9),
        (16, 3.3e10, 2.2e9),
        (32, 2e10, 1.6e9),
        (64, 4e9, 7.5e8),
    ):
        for sign in ("", "u"):
            rates |= {f"native.{sign}int{bits}": native, f"direct.{sign}int{bits}": direct}
    return rates | {"native.bool": 1e11, "direct.bool": 7e8}
