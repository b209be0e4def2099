"""Random convolutions that reach every letter role, mode, boundary, dtype and memory order.

`random_case(rng)` draws one from a NumPy generator, `problems()` is a hypothesis strategy; both
make the same choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

import xconv
from xconv import reference
from xconv.tolerance import Expected

T = TypeVar("T")
FLOATS = ("f2", "f4", "f8", "c8", "c16")
INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
DTYPES = ("?", *INTEGERS, *FLOATS)
BOUNDARIES = {
    "constant": ("constant", "fill"),
    "reflect": ("reflect", "symmetric"),
    "mirror": ("mirror", "reflect_101"),
    "nearest": ("nearest", "edge", "replicate"),
    "wrap": ("wrap", "circular", "periodic"),
}
ROLES = ("plain", "default", "axes", "channel", "bank", "multiplier", "summed", "dropped")
ORDERS = ("C", "F", "shuffled", "negative", "sliced", "swapped", "unaligned", "readonly")


@dataclass(frozen=True, eq=False)
class Case:
    """A call of `xconv.convolve` or `xconv.correlate`, as `op` says."""

    op: str
    x: Any
    k: Any
    keywords: dict[str, Any] = field(default_factory=dict)

    def run(self, **more: Any) -> Any:
        return getattr(xconv, self.op)(self.x, self.k, **self.keywords, **more)

    def plan(self, **more: Any) -> xconv.Plan:
        return xconv.plan(self.x, self.k, self.op, **self.keywords, **more)

    def expected(self) -> Expected:
        return reference.expected(self.x, self.k, op=self.op, **self.keywords)

    def __repr__(self) -> str:
        keywords = "".join(f", {name}={value!r}" for name, value in self.keywords.items())
        x, k = (
            f"{np.shape(a)} {a.dtype} strides {a.strides}" if hasattr(a, "dtype") else repr(a)
            for a in (self.x, self.k)
        )
        return f"{self.op}({x}, {k}{keywords})"


def random_case(rng: np.random.Generator, dtypes: Sequence[str] = DTYPES) -> Case:
    """One case; float images now and then hold NaN, inf or an extreme range."""
    return _Maker(lambda low, high: int(rng.integers(low, high + 1)), dtypes).case()


@st.composite
def problems(draw: st.DrawFn, dtypes: Sequence[str] = DTYPES) -> Case:
    return _Maker(lambda low, high: draw(st.integers(low, high)), dtypes).case()


def constant(plan: xconv.Plan) -> float:
    """The c that the plan's method states for its error bound."""
    rows = [m for m in plan.backend.methods if m.name == plan.method]
    return max(method.rounding(plan.problem) for method in rows)


def stored(values: np.ndarray, order: str, seed: int = 0) -> np.ndarray:
    """The same values in another memory order, one of ORDERS."""
    match order:
        case "F":
            return np.asfortranarray(values)
        case "shuffled":
            axes = np.random.default_rng(seed).permutation(values.ndim)
            return np.ascontiguousarray(values.transpose(axes)).transpose(np.argsort(axes))
        case "negative":
            return np.flip(np.flip(values).copy())
        case "sliced":
            wide = np.zeros([2 * n + 1 for n in values.shape], values.dtype)
            part = wide[tuple(slice(1, None, 2) for _ in values.shape)]
            part[...] = values
            return part
        case "swapped":
            return values.astype(values.dtype.newbyteorder())
        case "unaligned":
            memory = np.zeros(values.nbytes + 1, np.uint8)[1:]
            part = memory.view(values.dtype).reshape(values.shape)
            part[...] = values
            return part
        case "readonly":
            frozen = values.copy()
            frozen.flags.writeable = False
            return frozen
    return np.ascontiguousarray(values)


class _Maker:
    """Builds a case from nothing but integers between two bounds."""

    def __init__(self, integer: Callable[[int, int], int], dtypes: Sequence[str]) -> None:
        self.integer = integer
        self.dtypes = dtypes

    def choose(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def once_in(self, n: int) -> bool:
        return self.integer(1, n) == n

    def shuffled(self, items: Sequence[T]) -> list[T]:
        rest, order = list(items), []
        while rest:
            order.append(rest.pop(self.integer(0, len(rest) - 1)))
        return order

    def case(self) -> Case:
        dims = self.choose((1, 1, 2, 2, 2, 3, 4))
        role = self.choose(ROLES)
        x_labels, k_labels, keywords = self.letters(role, dims)
        spatial = [a for a in x_labels if a in k_labels and a not in "COI"]
        sizes = {a: self.integer(1, 3) for a in x_labels if a not in spatial}
        if any(a not in k_labels for a in sizes) and self.once_in(12):
            sizes[self.choose([a for a in sizes if a not in k_labels and a != "C"] or ["-"])] = 0
        groups = self.choose((1, 1, 2, 3)) if role == "summed" else 1
        sizes["I"], sizes["O"] = self.integer(1, 3), groups * self.integer(1, 3)
        if "I" in k_labels:
            sizes["C"] = groups * sizes["I"]
        taps, window = self.window(dims)
        extents = dict(zip(spatial, window.pop("sizes"), strict=True))
        op = self.choose(("convolve", "correlate"))
        x_dtype, k_dtype = self.choose(self.dtypes), self.choose(self.dtypes)
        k_sizes = dict(zip(spatial, taps, strict=True)) | sizes
        k: Any = self.values([k_sizes[a] for a in k_labels], k_dtype)
        if k_dtype in FLOATS and self.once_in(2):  # of rank 1
            for a in spatial:
                axis = k_labels.index(a)
                shape = [k_sizes[b] if b == a else 1 for b in k_labels]
                k = k.take([0], axis) * self.values(shape, k_dtype)
        x = self.values([(extents | sizes)[a] for a in x_labels], x_dtype, extremes=True)
        result = np.result_type(x.dtype, k.dtype)
        if self.once_in(6) and k.dtype.kind in "bf" and k.dtype.itemsize in (1, 8):
            k = k.tolist()
            result = np.result_type(x.dtype, 0.0 if k_dtype == "f8" else False)
        elif self.once_in(4):
            wider = {"b": "?i8", "i": "i2", "u": "u4", "f": "f4", "c": "c8"}[result.kind]
            result = np.dtype(self.choose([wider[-2:], "c16"]))
            keywords["dtype"] = self.choose((result, result.name))
        if groups != 1:
            keywords["groups"] = groups
        keywords |= window | self.border(result)
        x = stored(x, self.choose(ORDERS), self.integer(0, 9))
        k = stored(k, self.choose(ORDERS), self.integer(0, 9)) if hasattr(k, "dtype") else k
        return Case(op, x, k, keywords)

    def letters(self, role: str, dims: int) -> tuple[list[str], list[str], dict[str, Any]]:
        """Labels of image and kernel, one character an axis, and the keywords that say so."""
        spatial = self.shuffled("HWLDTZ")[:dims]
        if role in ("axes", "default"):
            batch = list("abc"[: self.integer(0, 3 if dims < 4 else 1)])
            if role == "default":
                return batch + spatial, spatial, {}
            x = self.shuffled(batch + spatial)
            k = self.shuffled(spatial)
            axes = [x.index(a) - len(x) * self.integer(0, 1) for a in k]
            return x, k, {"axes": self.choose((tuple(axes), axes))}
        batch = self.shuffled("NB")[: self.integer(0, 2)]
        channel = ["C"] if role in ("channel", "multiplier", "summed", "dropped") else []
        channel = channel or ["C"] * self.integer(0, 1)
        x = self.shuffled(batch + channel + spatial)
        extra = {"channel": "C", "bank": "O", "multiplier": "CO", "summed": "OI", "dropped": "I"}
        k = self.shuffled([*extra.get(role, ""), *spatial])
        hidden = "ab"[: self.integer(0, 2)] if self.once_in(3) and dims < 4 else None
        layout = x.copy()
        if hidden is not None:
            at = self.integer(0, len(x))
            x[at:at], layout[at:at] = list(hidden), ["..."]
        keywords = {"layout": "".join(layout), "kernel_layout": "".join(k)}
        if k == [a for a in x if a in spatial] and self.once_in(2):
            del keywords["kernel_layout"]
        middle = "O" in k and k[0] != "O" != k[-1]
        if middle or self.once_in(3):
            y = [a for a in layout if not (a == "C" and "I" in k)] + ["O"] * ("O" in k)
            keywords["out_layout"] = "".join(self.shuffled(y))
        return x, k, keywords

    def window(self, dims: int) -> tuple[list[int], dict[str, Any]]:
        """Taps per axis; and the image's sizes, mode, stride and dilation."""
        room = {1: 24, 2: 9, 3: 5, 4: 3}[dims]
        taps = [self.integer(1, {1: 9, 2: 5, 3: 3, 4: 2}[dims]) for _ in range(dims)]
        gaps = [self.integer(1, 3) if self.once_in(3) else 1 for _ in range(dims)]
        steps = [self.integer(1, 4) if self.once_in(3) else 1 for _ in range(dims)]
        extents = [(k - 1) * d + 1 for k, d in zip(taps, gaps, strict=True)]
        sizes = [self.integer(1, room) for _ in range(dims)]
        mode: Any = self.choose(("full", "same", "valid", "pairs"))
        if mode == "valid":
            sizes = [n + e - 1 for n, e in zip(sizes, extents, strict=True)]
        if mode == "pairs":
            lows = [self.integer(0, room) for _ in range(dims)]
            mode = [
                (low, max(self.integer(0, room), e - n - low))
                for low, n, e in zip(lows, sizes, extents, strict=True)
            ]
        keywords = {"sizes": sizes, "mode": mode}
        for name, value in (("stride", steps), ("dilation", gaps)):
            if value != [1] * dims:
                one = len(set(value)) == 1
                keywords[name] = value[0] if one else self.choose((value, tuple(value)))
        return taps, keywords

    def border(self, dtype: np.dtype[Any]) -> dict[str, Any]:
        """Boundary and cval."""
        name = self.choose((*BOUNDARIES, "constant"))
        keywords: dict[str, Any] = {"boundary": self.choose(BOUNDARIES[name])}
        if name == "constant" and self.once_in(2):
            values = {"b": [True], "u": [7], "i": [-3], "f": [2.5, -1], "c": [1 - 2j, 3.0]}
            values["f"] += [np.nan] * self.once_in(6)
            keywords["cval"] = self.choose(values[dtype.kind])
        return keywords

    def values(self, shape: Sequence[int], name: str, extremes: bool = False) -> np.ndarray:
        dtype = np.dtype(name)
        rng = np.random.default_rng(self.integer(0, 2**16))
        if dtype.kind == "b":
            return rng.random(shape) < 0.4
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        values = rng.normal(size=shape)
        values = np.asarray(values + 1j * rng.normal(size=shape) if dtype.kind == "c" else values)
        if extremes and values.size and self.once_in(4):
            limits = np.finfo(dtype)
            where = rng.random(shape) < 0.2
            match self.choose(("nonfinite", "wide", "tiny", "huge")):
                case "nonfinite":
                    values[where] = self.choose((np.nan, np.inf, -np.inf))
                case "wide":
                    values *= 10.0 ** rng.integers(-4, 4, shape)
                case "tiny":
                    values *= float(limits.smallest_subnormal) * 50
                case "huge":
                    values *= float(limits.max) / 500
        return values.astype(dtype)
