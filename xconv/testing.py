"""The conformance suite: what every backend must pass, also those of other packages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import api, reference
from .backends.base import Backend
from .errors import MethodRefused
from .problem import BOUNDARIES

__all__ = ["Case", "Report", "cases", "check_backend"]

FLOATS = ("float32", "float64", "complex64", "complex128")
EVERY = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
    *FLOATS,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """One call: the operation, its operands and its keywords."""

    op: str
    x: np.ndarray
    k: np.ndarray
    keywords: Mapping[str, Any]

    def __str__(self) -> str:
        keywords = "".join(f", {name}={value!r}" for name, value in self.keywords.items())
        return (
            f"{self.op}(x {self.x.shape} {self.x.dtype}, k {self.k.shape} {self.k.dtype}{keywords})"
        )


@dataclass
class Report:
    """How many checks each method passed, and why it refused the others."""

    passed: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=dict)


def cases(dtypes: Sequence[str] = EVERY, count: int = 200, seed: int = 0) -> Iterator[Case]:
    """Every role, mode and boundary once on small arrays, then `count` random mixtures of them."""
    rng = np.random.default_rng(seed)
    for layout, kernel_layout, out_layout, groups in _ROLES:
        for op in ("convolve", "correlate"):
            keywords = {"layout": layout, "kernel_layout": kernel_layout, "groups": groups}
            if out_layout:
                keywords["out_layout"] = out_layout
            yield _random_case(rng, op, keywords, rng.choice(dtypes), rng.choice(dtypes))
    for boundary in BOUNDARIES:
        for mode in ("full", "same", "valid", "pairs"):
            for dtype in [d for d in ("float32", "complex128", "int16") if d in dtypes]:
                keywords = {"layout": "NHW", "kernel_layout": "HW", "boundary": boundary}
                yield _random_case(rng, "convolve", keywords, dtype, dtype, mode)
    for _ in range(count):
        layout, kernel_layout, out_layout, groups = _ROLES[rng.integers(len(_ROLES))]
        keywords = {"layout": layout, "kernel_layout": kernel_layout, "groups": groups}
        keywords["boundary"] = str(rng.choice(BOUNDARIES))
        spatial = sum(a not in "NBCIO" for a in layout.replace("...", ""))
        keywords["stride"] = tuple(int(n) for n in rng.integers(1, 4, spatial))
        keywords["dilation"] = tuple(int(n) for n in rng.integers(1, 3, spatial))
        if out_layout:
            keywords["out_layout"] = out_layout
        op = str(rng.choice(["convolve", "correlate"]))
        mode = str(rng.choice(["full", "same", "valid", "pairs"]))
        yield _random_case(rng, op, keywords, rng.choice(dtypes), rng.choice(dtypes), mode)


_ROLES: tuple[tuple[str, str, str | None, int], ...] = (
    ("NHW", "HW", None, 1),
    ("HWN", "WH", None, 1),
    ("BNL", "L", None, 1),
    ("...HW", "HW", None, 1),
    ("NCHW", "HW", None, 1),
    ("NHWC", "HWC", None, 1),
    ("NCHW", "CHW", None, 1),
    ("NHW", "OHW", None, 1),
    ("HWN", "HWO", None, 1),
    ("NHW", "HOW", "OWNH", 1),
    ("NHWC", "HWCO", None, 1),
    ("NHWC", "HWIO", None, 1),
    ("NCHW", "OIHW", "HWON", 1),
    ("NCHW", "OIHW", None, 2),
    ("CNL", "LIO", None, 3),
    ("NCHW", "IHW", None, 1),
    ("DNHW", "DHW", None, 1),
    ("NCDHW", "OIDHW", None, 1),
    ("TDHW", "WHDT", None, 1),
)
"""(layout, kernel_layout, out_layout, groups)"""


def _random_case(
    rng: np.random.Generator,
    op: str,
    keywords: dict[str, Any],
    x_dtype: str,
    k_dtype: str,
    mode: str = "same",
) -> Case:
    layout = keywords["layout"].replace("...", "." * int(rng.integers(0, 3)))
    groups = keywords["groups"] = keywords.get("groups", 1)
    sizes = {a: int(rng.integers(1, 4)) for a in "NB."}
    sizes |= {"C": 2 * groups, "I": 2, "O": 2 * groups}
    spatial = [a for a in layout if a not in "NBC."]
    room = {1: 40, 2: 14, 3: 7}.get(len(spatial), 4)
    # A "full" or "same" window may be wider than the image: borders then repeat.
    x_sizes = {a: int(rng.integers(1, room)) for a in spatial}
    k_sizes = {a: int(rng.integers(1, max(room // 2, 3))) for a in spatial}
    if mode == "valid":
        spread = keywords.get("dilation", (1,) * len(spatial))
        for a, d in zip(spatial, spread, strict=True):
            x_sizes[a] += (k_sizes[a] - 1) * d
    keywords["mode"] = mode
    if mode == "pairs":
        keywords["mode"] = tuple((k_sizes[a] * 2 - 1, int(rng.integers(0, room))) for a in spatial)
    x = _values(rng, [(x_sizes | sizes)[a] for a in layout], x_dtype)
    k = _values(rng, [(k_sizes | sizes)[a] for a in keywords["kernel_layout"]], k_dtype)
    if np.dtype(k_dtype).kind in "fc" and rng.random() < 0.5:  # of rank 1
        for axis, letter in enumerate(keywords["kernel_layout"]):
            if letter in spatial:
                k = k.take([0], axis) * _values(
                    rng, [n if i == axis else 1 for i, n in enumerate(k.shape)], k_dtype
                )
    if keywords.get("boundary", "constant") == "constant":
        keywords["cval"] = int(rng.integers(0, 2))
    return Case(op, _disordered(rng, x), k, keywords)


def _values(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> np.ndarray:
    target = np.dtype(dtype)
    if target.kind == "b":
        return rng.random(shape) < 0.4
    if target.kind in "iu":
        info = np.iinfo(target)
        return rng.integers(info.min, info.max, shape, target, endpoint=True)
    values = rng.standard_normal(shape)
    if target.kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return np.asarray(values).astype(target)


def _disordered(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """The same values in another memory order: transposed, reversed, or a slice of more."""
    choice = rng.integers(4)
    if choice == 0:
        return x
    if choice == 1:
        return np.asfortranarray(x)
    if choice == 2:
        return np.flip(np.ascontiguousarray(np.flip(x)))
    wide = np.zeros([2 * n for n in x.shape], x.dtype)
    part = wide[tuple(slice(None, None, 2) for _ in x.shape)]
    part[...] = x
    return part


def check_backend(
    backend: Backend,
    asarray: Callable[[np.ndarray], Any] = np.asarray,
    *,
    dtypes: Sequence[str] = EVERY,
    count: int = 200,
    seed: int = 0,
    in_place: bool = True,
) -> Report:
    """Run every method of a backend against the reference; raise AssertionError where it is wrong.

    `asarray` makes the backend's arrays from NumPy's; `dtypes` are those that it has; `in_place`
    says whether `out=` can be written.  Checked are shape, dtype, the error bound of SPEC §5,
    integers to the last bit, the place of NaN and inf, that the input is left as it was, and
    `out=` that is `x` itself.

    >>> from xconv.backends.cpu import CPUBackend
    >>> report = check_backend(CPUBackend(), count=10)
    >>> report.passed["direct"] > 50
    True
    """
    report, failures = Report(), []
    for case in cases(dtypes, count, seed):
        result = np.result_type(case.x.dtype, case.k.dtype)
        if result.name not in dtypes:
            continue
        wrong = _check(backend, asarray, case, report)
        failures += wrong
        if result.kind in "fc":
            failures += _check(backend, asarray, _spoilt(case), report)
    if in_place:
        failures += _check_in_place(backend, asarray, dtypes)
    for name in {method.name for method in backend.methods} - report.passed.keys():
        failures.append(f"{name}: refused every case: {dict(report.refused.get(name, {}))}")
    if failures:
        raise AssertionError(
            f"{len(failures)} checks of backend {backend.name!r} failed:\n"
            + "\n".join(failures[:20])
        )
    return report


def _check(
    backend: Backend, asarray: Callable[[np.ndarray], Any], case: Case, report: Report
) -> list[str]:
    """What is wrong with each method's answer to one case."""
    right = reference.expected(case.x, case.k, op=case.op, **case.keywords)
    failures = []
    for method in backend.methods:
        x = asarray(case.x.copy(order="K"))
        if isinstance(x, np.ndarray):
            x.flags.writeable = False
        try:
            y, c = _answer(backend, case, x, asarray(case.k), method.name)
        except MethodRefused as refusal:
            report.refused.setdefault(method.name, Counter())[str(refusal)] += 1
            continue
        wrong = right.disagreement(backend.to_numpy(y), c)
        if not np.array_equal(backend.to_numpy(x), case.x, equal_nan=case.x.dtype.kind in "fc"):
            wrong += "; the input was changed"
        if wrong:
            failures.append(f"{method.name}: {case}: {wrong}")
        else:
            report.passed[method.name] += 1
    return failures


def _answer(
    backend: Backend, case: Case, x: Any, k: Any, method: str, out: Any = None
) -> tuple[Any, float]:
    """The backend's result, and the constant of the error bound it must keep."""
    plan = api.plan_on(backend, case.op, x, k, method=method, **case.keywords)
    c = max(m.rounding(plan.problem) for m in backend.methods if m.name == method)
    return plan(x, k, out=out), c


def _spoilt(case: Case) -> Case:
    """The case with a NaN in the middle of the image and an inf at its end, where it is float."""
    if case.x.dtype.kind not in "fc" or case.x.size < 2:
        return case
    x = case.x.copy()
    x.flat[x.size // 2] = np.nan
    x.flat[x.size - 1] = np.inf
    return Case(case.op, x, case.k, case.keywords)


def _check_in_place(
    backend: Backend, asarray: Callable[[np.ndarray], Any], dtypes: Sequence[str]
) -> list[str]:
    rng = np.random.default_rng(1)
    failures = []
    for dtype in dtypes:
        x, k = _values(rng, (3, 12, 13), dtype), _values(rng, (3, 4), dtype)
        case = Case("convolve", x, k, {"mode": "same", "boundary": "reflect"})
        right = reference.expected(x, k, **case.keywords)
        array = asarray(x.copy())
        y, c = _answer(backend, case, array, asarray(k), "direct", out=array)
        wrong = right.disagreement(backend.to_numpy(array), c)
        if wrong or y is not array:
            failures.append(f"direct: {case} with out=x: {wrong or 'returned another array'}")
    return failures
