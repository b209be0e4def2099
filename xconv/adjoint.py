"""Gradients of convolve and correlate: adjoints, computed as correlations themselves.

With the canonical form y[b, g, o, p] = sum xp[b, g, i, p*s + t*d] w[g, o, i, t]:

* the gradient by x sums gy[b, g, o, p] conj(w[g, o, i, t]) over all p*s + t*d = q.  For each
  residue of q modulo the stride that is a correlation of gy with every s-th tap, written to every
  s-th element of the result; what lies beyond the edge is folded back as the boundary says;
* the gradient by w is the correlation of xp with gy, with stride and dilation exchanged and the
  batch summed; a backend may have a faster way to these sums, `Backend.kernel_sums`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from . import api, registry
from .backends.base import Backend
from .errors import ArgumentError, ArgumentTypeError
from .layout import restored, view
from .methods.base import Limits, fold
from .plan import Plan, Spec
from .problem import Axis, Problem

__all__ = ["gradients", "input_gradient", "kernel_gradient", "transpose_convolve"]


def gradients(x: Any, k: Any, gy: Any, /, op: str = "convolve", **options: Any) -> tuple[Any, Any]:
    """(gx, gk): the gradients by `x` and by the kernel of a loss whose gradient by y is `gy`.

    `y = xconv.convolve(x, k, **options)`, or correlate; `options` are those of the call, without
    `out`.  gx has the shape and dtype of `x`, gk those of `k`; where they are complex, gradients
    are those of steepest descent, as in PyTorch (gx = A^H gy).

    Raises ArgumentError where the shape of `gy` is not that of the result, and
    ArgumentTypeError for integers.

    >>> import numpy as np, xconv
    >>> x, k = np.arange(5.0), np.array([1.0, 2.0])
    >>> gx, gk = xconv.gradients(x, k, np.ones(4), mode="valid")
    >>> gx
    array([2., 3., 3., 3., 1.])
    >>> gk
    array([10.,  6.])
    """
    forward = _forward(gy, x, k, op, options)
    return forward.by_input(gy, k), forward.by_kernel(gy, x)


def input_gradient(x: Any, k: Any, gy: Any, /, op: str = "convolve", **options: Any) -> Any:
    """The gradient by `x` alone; `x` may be a `Spec`, since its values do not matter.

    >>> import numpy as np, xconv
    >>> x = xconv.Spec((5,))
    >>> xconv.input_gradient(x, np.array([1.0, 2.0]), np.ones(4), mode="valid")
    array([2., 3., 3., 3., 1.])
    """
    return _forward(gy, x, k, op, options).by_input(gy, k)


def kernel_gradient(x: Any, k: Any, gy: Any, /, op: str = "convolve", **options: Any) -> Any:
    """The gradient by the kernel alone; `k` may be a `Spec`, since its values do not matter.

    >>> import numpy as np, xconv
    >>> xconv.kernel_gradient(np.arange(5.0), xconv.Spec((2,)), np.ones(4), mode="valid")
    array([10.,  6.])
    """
    return _forward(gy, x, k, op, options).by_kernel(gy, x)


def transpose_convolve(
    y: Any, k: Any, /, shape: Sequence[int], op: str = "convolve", **options: Any
) -> Any:
    """The adjoint of convolve (or correlate): an array of `shape` from one like its result.

    It is what CNN libraries call transposed convolution or deconvolution.  `shape` and `layout`
    are those of the array that comes back, `options` those of the call it transposes.

    >>> import numpy as np, xconv
    >>> xconv.transpose_convolve(np.ones(3), np.array([1.0, 2.0]), (6,), mode="valid", stride=2)
    array([2., 1., 2., 1., 2., 1.])
    """
    return input_gradient(Spec(tuple(shape), y.dtype), k, y, op, **options)


class _Phase(NamedTuple):
    """One of the correlations that make up the adjoint."""

    at: tuple[slice, ...]
    """Where its result goes."""
    crop: tuple[slice, ...]
    """The part of gy that it reads."""
    padding: tuple[tuple[int, int], ...]
    taps: tuple[slice, ...]
    dilation: tuple[int, ...]


class _Forward:
    """The call whose gradients are wanted."""

    def __init__(self, plan: Plan, method: str) -> None:
        self.problem, self.backend, self.limits = plan.problem, plan.backend, plan.limits
        self.method = "direct" if method == "direct" else "auto"

    def by_input(self, gy: Any, k: Any) -> Any:
        with self.backend.session(gy, gy) as (there, _):
            result = self._by_input(there, self.backend.accept_kernel(k, there))
            return self.backend.given_back(result, gy)

    def _by_input(self, gy: Any, k: Any) -> Any:
        p, backend = self.problem, self.backend
        weights = backend.weights(p, k, gy)
        source = view(gy, p.views[2], backend.namespace(gy))
        constant = p.boundary == "constant"
        before = tuple(low if constant else 0 for low, _ in p.padding)
        size = tuple(
            n if constant else n + low + high
            for n, (low, high) in zip(p.size, p.padding, strict=True)
        )
        phases = _phases(before, size, p.output, p.kernel, p.stride, p.dilation)
        everywhere = len(phases) == math.prod(map(min, p.stride, size))
        shape = (*p.batch, p.groups, p.inputs, *size)
        result = backend.full(shape, None if everywhere else 0, p.dtype, source)
        if backend.input_sums(p, weights, source, result, before, self.limits):
            phases = ()
        for at, crop, padding, taps, dilation in phases:
            kernel = weights[(..., *taps)]
            backwards = tuple(range(3, 3 + p.spatial))
            kernel = backend.flip(backend.swap(kernel, 1, 2), backwards)
            part = source[(..., *crop)]
            every: Any = (..., *at)
            plan = self._plan(part.shape, kernel.shape, padding, (1,) * p.spatial, dilation)
            if isinstance(result, np.ndarray):
                plan.compute(part, kernel, result[every])
            else:
                result = backend.assign(result, every, plan.compute(part, kernel, None))
        if not constant:
            result = fold(backend, p, result)
        return self._like(result, p.x_dtype, p.views[0], p.x_shape)

    def by_kernel(self, gy: Any, x: Any) -> Any:
        with self.backend.session(gy, self.backend.accept(x)) as (there, x_there):
            return self.backend.given_back(self._by_kernel(there, x_there), gy)

    def _by_kernel(self, gy: Any, x: Any) -> Any:
        p, backend = self.problem, self.backend
        xp = backend.namespace(x)
        image, target = view(x, p.views[0], xp), view(gy, p.views[2], xp)
        entries = p.batch[-1] if p.batch else 1
        plan = self._plan(
            (p.inputs, p.groups, entries, *p.size), (p.groups, p.outputs, entries, *p.output),
            p.padding, p.dilation, p.stride, p.boundary, p.cval,
        )  # fmt: skip
        weights = None
        if plan.method == "direct":
            weights = backend.kernel_sums(p, image, target, self.limits)
        if weights is None:
            weights = self._correlated(plan, image, target)
        if p.op == "convolve":
            weights = backend.flip(weights, tuple(range(3, 3 + p.spatial)))
            # The sums are of conjugated gy: conj(sum x conj(gy)) = sum conj(x) gy.
            weights = xp.conj(weights) if p.dtype.startswith("complex") else weights
        return self._like(weights, p.k_dtype, p.views[1], p.k_shape)

    def _correlated(self, plan: Plan, image: Any, target: Any) -> Any:
        """The sums of x conj(gy) for each tap, (G, O, I, taps...), by a plan that correlates them.

        The last batch axis is summed inside the correlation, the others here.
        """
        p, backend = self.problem, self.backend
        image = backend.convert(image, p.x_dtype, p.dtype)
        total = None
        for index in np.ndindex(*p.batch[:-1]):
            part, kernel = image[(*index, ...)], target[(*index, ...)]
            if not p.batch:
                part, kernel = backend.expand(part, 0), backend.expand(kernel, 0)
            # x as (i, g, b, spatial...), gy as (g, o, b, outputs...)
            part = backend.swap(part, 0, 2)
            kernel = backend.swap(backend.swap(kernel, 0, 1), 1, 2)
            one = plan.compute(part, kernel, None)
            total = one if total is None else backend.add(total, one)
        if total is None or 0 in p.batch:
            shape = (p.inputs, p.groups, p.outputs, *p.kernel)
            total = backend.full(shape, 0, p.dtype, target)
        total = total[(..., *(slice(0, n) for n in p.kernel))]
        return backend.swap(backend.swap(total, 0, 1), 1, 2)

    def _plan(
        self,
        x_shape: Sequence[int],
        k_shape: Sequence[int],
        padding: Sequence[tuple[int, int]],
        stride: Sequence[int],
        dilation: Sequence[int],
        boundary: str = "constant",
        cval: complex = 0,
    ) -> Plan:
        """Of a canonical correlation of canonical arrays; it conjugates a complex kernel."""
        return _plan(
            self.backend, self.method, self.limits, self.problem.dtype, tuple(x_shape),
            tuple(k_shape), tuple(padding), tuple(stride), tuple(dilation), boundary, repr(cval),
        )  # fmt: skip

    def _like(self, canonical: Any, dtype: str, how: Any, shape: tuple[int, ...]) -> Any:
        """The canonical array in the user's layout, as the dtype named if that is no integer."""
        xp = self.backend.namespace(canonical)
        result = restored(canonical, how, shape, xp)
        source = self.problem.dtype
        if np.dtype(dtype).kind not in "fc":
            return result
        if source.startswith("complex") and not dtype.startswith("complex"):
            result, source = xp.real(result), {"complex64": "float32"}.get(source, "float64")
        return self.backend.convert(result, source, dtype)


def _forward(gy: Any, x: Any, k: Any, op: str, options: dict[str, Any]) -> _Forward:
    """As `api` does, those of arrays and options seen before are found without looking at each."""
    if not type(gy) is type(x) is type(k) is np.ndarray or not api.are_simple(options.values()):
        return _new_forward(gy, x, k, op, options)
    key = (op, gy.shape, x.shape, x.dtype, k.shape, k.dtype, *options.items())
    forward = _recent.get(key)
    if forward is None:
        if len(_recent) >= 256:
            _recent.clear()
        forward = _recent[key] = _new_forward(gy, x, k, op, options)
    return forward


_recent: dict[tuple[Any, ...], _Forward] = {}


def _new_forward(gy: Any, x: Any, k: Any, op: str, options: dict[str, Any]) -> _Forward:
    options = options.copy()
    backend = registry.find(gy, options.pop("backend", None))
    plan = api.plan_on(backend, op, _spec(x), _spec(k), **options)
    problem = plan.problem
    if np.dtype(problem.dtype).kind not in "fc":
        raise ArgumentTypeError(
            f"a result of dtype {problem.dtype} has no gradient; convert x and the kernel to a "
            "float or complex dtype"
        )
    if tuple(gy.shape) != problem.y_shape:
        raise ArgumentError(
            f"gy has shape {tuple(gy.shape)}, but the result of {op} has {problem.y_shape}; "
            "pass the gradient by every element of the result"
        )
    return _Forward(plan, options.get("method", "auto"))


def _spec(array: Any) -> Spec:
    if isinstance(array, Spec):
        return array
    array = array if hasattr(array, "dtype") else np.asarray(array)
    return Spec(tuple(array.shape), array.dtype)


@lru_cache(256)
def _plan(
    backend: Backend,
    method: str,
    limits: Limits,
    dtype: str,
    x_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    boundary: str,
    cval: str,
) -> Plan:
    """The plan of a correlation of canonical x (batch..., G, I, spatial...) and kernel."""
    spatial = len(stride)
    output = [
        (n + low + high - (k - 1) * d - 1) // s + 1
        for n, (low, high), k, d, s in zip(
            x_shape[-spatial:], padding, k_shape[3:], dilation, stride, strict=True
        )
    ]
    y_shape = (*x_shape[: -spatial - 1], k_shape[1], *output)

    def axes(shape: Sequence[int]) -> tuple[Axis, ...]:
        return tuple(Axis(size, of) for of, size in enumerate(shape))

    problem = Problem(
        op="correlate", x_shape=x_shape, k_shape=k_shape, y_shape=y_shape, x_dtype=dtype,
        k_dtype=dtype, dtype=dtype, x_axes=axes(x_shape), k_axes=axes(k_shape),
        y_axes=axes(y_shape), spatial=spatial, padding=padding, boundary=boundary,
        cval=complex(cval) if dtype.startswith("complex") else float(cval), stride=stride,
        dilation=dilation,
    )  # fmt: skip
    return Plan(problem, backend, method, limits)


@lru_cache(256)
def _phases(
    before: tuple[int, ...],
    size: tuple[int, ...],
    outputs: tuple[int, ...],
    taps: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[_Phase, ...]:
    """The correlations that make up the adjoint, one for each residue modulo the stride."""
    arguments = zip(before, size, outputs, taps, stride, dilation, strict=True)
    per_axis = [list(_axis_phases(*of_axis)) for of_axis in arguments]
    return tuple(_Phase(*zip(*phase, strict=True)) for phase in product(*per_axis))


def _axis_phases(
    before: int, size: int, outputs: int, taps: int, stride: int, dilation: int
) -> Iterator[tuple[slice, slice, tuple[int, int], slice, int]]:
    """`_phases` of one axis: element m of the result gets gy[(m + before - t*d) / s] w[t]."""
    common = math.gcd(stride, dilation)
    every, gap = stride // common, dilation // common
    for first in range(min(stride, size)):
        # Taps that meet an output: t = t0, t0 + every, ...
        t0 = next(
            (t for t in range(min(every, taps)) if (first + before - t * dilation) % stride == 0),
            None,
        )
        if t0 is None:
            continue
        count, used = -(-(size - first) // stride), -(-(taps - t0) // every)
        start = (first + before - t0 * dilation) // stride - (used - 1) * gap
        stop = start + count + (used - 1) * gap
        low, high = max(start, 0), min(stop, outputs)
        if low >= high:
            continue
        yield (
            slice(first, None, stride),
            slice(low, high),
            (low - start, stop - high),
            slice(t0, None, every),
            gap,
        )
