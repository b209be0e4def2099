"""The targets that xconv sets itself, each with what a file of results says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .busy import ALONE, SUFFIX
from .cases import GPU, SEED
from .results import (
    Record,
    best_peer,
    bound,
    by_case,
    limits_of,
    median,
    named,
    of_kind,
    of_seed,
    seed_sizes,
)
from .run import BACKWARD, COPY

__all__ = ["TARGETS", "Prediction", "Target", "predictions", "verdicts"]

MIB = 1 << 20
Measure = Callable[[list[Record]], float | None]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that must be at least, or at most, a limit."""

    text: str
    sense: str
    """">=" or "<="."""
    limit: float
    measure: Measure
    unit: str = "x"

    def met(self, value: float) -> bool:
        return value >= self.limit if self.sense == ">=" else value <= self.limit


def verdicts(records: list[Record]) -> list[tuple[Target, float]]:
    """Every target that the records have figures for, with its figure."""
    values = ((target, target.measure(records)) for target in TARGETS)
    return [(target, value) for target, value in values if value is not None]


def lead(group: list[Record], rivals: str = "") -> float | None:
    """How many times faster than its best rival xconv is; of those so named, if given."""
    mine = named(group, "xconv")
    rival = best_peer(r for r in group if r["contender"].startswith(rivals))
    return median(rival) / median(mine) if mine and rival else None


def _leads(records: list[Record], rivals: str = "", **wanted: object) -> list[float]:
    """The leads in all cases that have the attributes wanted; K is the kernel's first size."""
    found = []
    for group in by_case(records):
        case = group[0]["case"]
        if all(_attribute(case, name) == value for name, value in wanted.items()):
            ratio = lead(group, rivals)
            if ratio:
                found.append(ratio)
    return found


def _attribute(case: Record, name: str) -> object:
    if name == "taps":
        return min(case["k"])
    value = case[name]
    return tuple(value) if isinstance(value, list) else value


def least(rivals: str = "", **wanted: object) -> Measure:
    """The smallest lead."""
    return lambda records: min(_leads(records, rivals, **wanted), default=None)


def mean(rivals: str = "", **wanted: object) -> Measure:
    """The geometric mean of the leads."""

    def measure(records: list[Record]) -> float | None:
        found = _leads(records, rivals, **wanted)
        return float(np.exp(np.mean(np.log(found)))) if found else None

    return measure


def _scipy_margin(records: list[Record]) -> float | None:
    """Time of auto over that of SciPy's best single call, at worst."""
    names = ("scipy.signal.fftconvolve", "scipy.signal.oaconvolve", "scipy.ndimage.convolve")
    worst = []
    for group in by_case(of_kind(records, "result", "seed")):
        mine = named(group, "xconv")
        rivals = [median(r) for n in names if (r := named(group, n))]
        if mine and rivals:
            worst.append(median(mine) / min(rivals))
    return max(worst, default=None)


def _scratch(records: list[Record]) -> float | None:
    found = [
        r["scratch"] / MIB
        for r in of_kind(records, "result")
        if r["ours"] and r["status"] == "ok" and r.get("scratch") is not None
    ]
    return max(found, default=None)


def _peak_share(records: list[Record]) -> float | None:
    """Least share of the measured multiply-add peak, direct, K >= 11, in the cache."""
    limits = of_kind(records, "roofline")
    if not limits:
        return None
    found = [
        r["flops"] / median(r) / limits[0]["flops"][r["case"]["dtype"]]
        for r in of_kind(records, "result", "seed")
        if r["contender"] == "xconv direct" and r["status"] == "ok"
        and min(r["case"]["k"]) >= 11 and r["bytes"] < 8 * MIB
    ]  # fmt: skip
    return min(found, default=None)


def _copy_share(records: list[Record]) -> float | None:
    found = []
    for group in by_case(of_kind(records, "result", "layouts")):
        copy = next((r for r in group if r["contender"] == COPY), None)
        planned = named(group, "xconv plan, out=")
        if copy and planned and min(group[0]["case"]["k"]) == 3:
            found.append(median(copy) / median(planned))
    return min(found, default=None)


def _border_cost(records: list[Record]) -> float | None:
    """Seconds per output with reflected borders over those without."""
    cost = {}
    for r in of_kind(records, "result", "layouts"):
        case = r["case"]
        same = case["k"] == [7, 7] and case["layout"] == "NHW" and case["dtype"] == "float32"
        if same and r["contender"] == "xconv" and r["status"] == "ok":
            cost[case["mode"], case["boundary"]] = median(r) / r["outputs"]
    both = ("same", "reflect"), ("valid", "constant")
    return cost[both[0]] / cost[both[1]] if all(b in cost for b in both) else None


def _gpu_share(records: list[Record]) -> float | None:
    """Least share of the bound that the direct method reaches on large images."""
    limit = limits_of(records, gpu=True)
    shares = [
        least / median(r)
        for r in filter(of_seed, of_kind(records, "result", GPU))
        if limit and r["contender"] == "xconv direct" and r["status"] == "ok"
        and sorted(r["case"]["x"]) == [50, 1000, 1000] and 3 <= r["case"]["k"][0] <= 15
        and (least := bound(r, limit))
    ]  # fmt: skip
    return min(shares, default=None)


def _gpu_lead(ours: str, rivals: str) -> Measure:
    """Least times that one of ours is faster than the rivals on the seed's cases on the GPU."""

    def measure(records: list[Record]) -> float | None:
        found = []
        for group in by_case(filter(of_seed, of_kind(records, "result", GPU))):
            mine = named(group, ours)
            rival = best_peer(r for r in group if r["contender"].startswith(rivals))
            if mine and rival and seed_sizes(group[0]["case"]) in SEED:
                found.append(median(rival) / median(mine))
        return min(found, default=None)

    return measure


def _gpu_host(records: list[Record]) -> float | None:
    """Microseconds of the host for a small call of convolve, at worst."""
    found = [
        median(r) * 1e6
        for r in of_kind(records, "result", GPU)
        if r["case"]["host"] and r["contender"] == "xconv" and r["status"] == "ok"
    ]
    return max(found, default=None)


def _overhead(contender: str) -> Measure:
    def measure(records: list[Record]) -> float | None:
        found = [
            median(r) * 1e6
            for r in of_kind(records, "result", "overhead")
            if r["contender"] == contender and r["status"] == "ok"
        ]
        return max(found, default=None)

    return measure


def _busy(one: str, other: str) -> Measure:
    """Time of one of xconv's contenders over another's in the busy suite, at worst."""

    def measure(records: list[Record]) -> float | None:
        found = []
        for group in by_case(of_kind(records, "result", "busy")):
            a, b = named(group, one), named(group, other)
            if a and b:
                found.append(median(a) / median(b))
        return max(found, default=None)

    return measure


def _backward(records: list[Record]) -> float | None:
    """Time of both gradients over the forward pass's, at worst."""
    found = []
    for group in by_case(of_kind(records, "result", "cnn")):
        forward = named(group, "xconv")
        backward = next((r for r in group if r["contender"] == BACKWARD), None)
        if forward and backward and "seconds" in backward:
            found.append(median(backward) / median(forward))
    return max(found, default=None)


def regrets(records: Iterable[Record], percentile: float) -> float | None:
    found = [r["regret"] for r in of_kind(records, "regret")]
    return float(np.percentile(found, percentile)) if found else None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the planner said of one method that its suite timed."""

    case: str
    method: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured

    @property
    def right(self) -> bool:
        """Whether it is within a factor of 2."""
        return 0.5 <= self.ratio <= 2


def predictions(records: Iterable[Record]) -> list[Prediction]:
    """Predicted and measured seconds of every method that the planner's suite timed."""
    return [
        Prediction(r["case"]["name"], name, r["predicted"][name], timing["median"])
        for r in of_kind(records, "regret")
        for name, timing in r["seconds"].items()
        if name != "auto"
    ]


def _within_two(records: list[Record]) -> float | None:
    found = predictions(records)
    return float(np.mean([p.right for p in found])) if found else None


BIG, GAUSSIAN = (8, 1000, 1000), (50, 1000, 1000)
TARGETS = (
    Target(
        "seed: time of auto / best of fftconvolve, oaconvolve, ndimage, worst",
        "<=",
        1.1,
        _scipy_margin,
    ),
    Target("seed: faster than the best peer, geometric mean", ">=", 2.5, mean(suite="seed")),
    Target("seed: faster than the best peer, least", ">=", 1.5, least(suite="seed")),
    Target(
        "seed: share of the multiply-add peak, K >= 11 in cache, least", ">=", 0.8, _peak_share, ""
    ),
    Target("1000x1000x50, K = 3: speed / that of numpy.copyto, least", ">=", 0.7, _copy_share, ""),
    Target(
        "1000x1000x50, K = 3 and 5: faster than OpenCV, least",
        ">=",
        1.5,
        lambda r: min(
            _leads(r, "cv2", suite="layouts", x=(50, 1000, 1000))
            + _leads(r, "cv2", suite="layouts", x=(1000, 1000, 50)),
            default=None,
        ),
    ),
    Target(
        "28x28x10000: faster than the best peer, least",
        ">=",
        4.0,
        lambda r: min(
            _leads(r, suite="layouts", x=(10000, 28, 28))
            + _leads(r, suite="layouts", x=(28, 28, 10000)),
            default=None,
        ),
    ),
    Target(
        "32x32x3 NHWC: faster than the best peer",
        ">=",
        4.0,
        least(suite="layouts", x=(2000, 32, 32, 3)),
    ),
    Target('"same" with reflected borders / "valid", per output', "<=", 1.15, _border_cost),
    Target(
        "uint8 images, float32 kernel: faster than OpenCV",
        ">=",
        1.3,
        least("cv2", suite="layouts", dtype="uint8", k_dtype="float32"),
    ),
    Target(
        "128x128x128x4 volumes, K = 5: faster than ndimage",
        ">=",
        5.0,
        least("scipy.ndimage", suite="kernels", x=(4, 128, 128, 128), dtype="float32"),
    ),
    Target(
        "128x128x128x4 volumes, K = 5: faster than PyTorch",
        ">=",
        1.0,
        least("torch", suite="kernels", x=(4, 128, 128, 128), dtype="float32"),
    ),
    Target("8x8 image, 3x3 kernel: a call of convolve", "<=", 15.0, _overhead("xconv"), " us"),
    Target(
        "8x8 image, 3x3 kernel: a call of a plan with out=",
        "<=",
        5.0,
        _overhead("xconv plan, out="),
        " us",
    ),
    Target(
        "one core kept busy: time / quiet time, worst", "<=", 2.5, _busy("xconv" + SUFFIX, "xconv")
    ),
    Target(
        "in turn with other libraries' threads: time / time alone, worst",
        "<=",
        1.2,
        _busy("xconv", "xconv" + ALONE),
    ),
    Target("CNN layers: time of both gradients / of the layer, worst", "<=", 2.5, _backward),
    Target(
        "1000x1000x8, K = 63 and 127, float32: faster than OpenCV, least",
        ">=",
        2.0,
        least("cv2", suite="kernels", x=BIG, dtype="float32"),
    ),
    Target(
        "1000x1000x8, K = 63 and 127, float32: faster than fftconvolve, least",
        ">=",
        2.0,
        least("scipy.signal.fftconvolve", suite="kernels", x=BIG, dtype="float32"),
    ),
    Target(
        "1000x1000x8, K = 63 and 127, float64: faster than OpenCV, least",
        ">=",
        1.5,
        least("cv2", suite="kernels", x=BIG, dtype="float64"),
    ),
    Target(
        "1000x1000x8, K = 63 and 127, float64: faster than fftconvolve, least",
        ">=",
        1.5,
        least("scipy.signal.fftconvolve", suite="kernels", x=BIG, dtype="float64"),
    ),
    Target(
        "100 signals of 1,000,000, 10,001 taps: faster than oaconvolve",
        ">=",
        2.0,
        least("scipy.signal.oaconvolve", suite="kernels", taps=10001),
    ),
    Target(
        "31x31 Gaussian on 1000x1000x50: faster than sepFilter2D by hand",
        ">=",
        2.0,
        least("cv2.sep", suite="kernels", x=GAUSSIAN, values="gaussian"),
    ),
    Target(
        "31x31 Gaussian on 1000x1000x50: faster than filter2D",
        ">=",
        8.0,
        least("cv2.filter2D", suite="kernels", x=GAUSSIAN, values="gaussian"),
    ),
    Target("peak scratch of xconv in all cases", "<=", 64.0, _scratch, " MiB"),
    Target("planner: time of auto / best method, median", "<=", 1.05, lambda r: regrets(r, 50)),
    Target(
        "planner: time of auto / best method, 99th percentile", "<=", 1.3, lambda r: regrets(r, 99)
    ),
    Target("planner: share of predictions within a factor of 2", ">=", 0.9, _within_two, ""),
    Target(
        "CNN layers, float32: speed / PyTorch's, geometric mean",
        ">=",
        0.9,
        mean("torch", suite="cnn", dtype="float32"),
    ),
    Target(
        "CNN layers, float32: speed / PyTorch's, least",
        ">=",
        0.6,
        least("torch", suite="cnn", dtype="float32"),
    ),
    Target(
        "CNN layers, float64: speed / PyTorch's, geometric mean",
        ">=",
        2.0,
        mean("torch", suite="cnn", dtype="float64"),
    ),
    Target(
        "CNN layers, float64: speed / PyTorch's, least",
        ">=",
        1.0,
        least("torch", suite="cnn", dtype="float64"),
    ),
    Target(
        "GPU, 1000x1000x50, K = 3 to 15: direct, share of its bound, least",
        ">=",
        0.6,
        _gpu_share,
        "",
    ),
    Target(
        "GPU, seed's cases: faster than cupyx.scipy.ndimage, least",
        ">=",
        8.0,
        _gpu_lead("xconv", "cupyx.scipy.ndimage"),
    ),
    Target(
        "GPU, seed's cases: faster than torch conv2d, least", ">=", 3.0, _gpu_lead("xconv", "torch")
    ),
    Target(
        "GPU, seed's cases: fft faster than cupyx.scipy.signal.fftconvolve, least",
        ">=",
        2.0,
        _gpu_lead("xconv fft", "cupyx.scipy.signal.fftconvolve"),
    ),
    Target("GPU, 8x8 image, 3x3 kernel: the host's time of a call", "<=", 30.0, _gpu_host, " us"),
)
