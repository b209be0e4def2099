"""A Problem, a backend and a choice of method, bound together and callable."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import planner
from .arguments import dtype_name
from .backends.base import Backend
from .errors import ArgumentError, ArgumentTypeError, MemoryLimitError
from .layout import restored, view
from .methods.base import Limits, Method
from .problem import Problem, part_of_batch

__all__ = ["Plan", "Spec"]


@dataclass(frozen=True, slots=True)
class Spec:
    """Shape and dtype in place of an array, for planning without one."""

    shape: tuple[int, ...]
    dtype: Any = "float64"


@dataclass(slots=True)
class _Known:
    """What was found out about a kernel's values, and the row that was chosen for them."""

    values: bytes
    facts: dict[Method, Any] = field(default_factory=dict)
    chosen: planner.Row | None = None


class Plan:
    """A convolution that was planned once and can run many times.

    `plan(x, k, out=...)` runs it, and returns the result in the plan's layout; `k` may be left
    out where the plan was made with a kernel's values.  `x` and `k` must have the shapes and
    dtypes that the plan was made for.  Made by `xconv.plan`; safe to use from several threads.
    """

    def __init__(
        self,
        problem: Problem,
        backend: Backend,
        method: str,
        limits: Limits,
        kernel: Any = None,
        like: Any = None,
        times: planner.Times = planner.NO_TIMES,
    ) -> None:
        """`kernel` is kept, prepared for images that are arrays like `like`; of methods with
        measured `times` the fastest is taken."""
        self.problem = problem
        self.backend = backend
        self.limits = limits
        self.wanted = method
        self._times = times
        self._x_dtype = np.dtype(problem.x_dtype)
        self._dtype = np.dtype(problem.dtype)
        self._rows = planner.price(problem, backend.methods, backend.rates, limits)
        cheapest = self._rows[0]
        self._settled = (
            cheapest
            if cheapest.refusal is None
            and method in ("auto", cheapest.method.name)
            and type(cheapest.method).examine is Method.examine
            and not times
            else None
        )
        self._known = _Known(b"")
        self._bound: tuple[planner.Row, Any] | None = None
        if kernel is not None:  # and whoever gave it may write to it later
            kernel = kernel.copy() if isinstance(kernel, np.ndarray) else backend.copy(kernel)
        self._kernel = kernel
        if kernel is not None:
            self._bound = self._prepared(kernel, like)

    @functools.cached_property
    def rows(self) -> tuple[planner.Row, ...]:
        """All methods with what is known of the kernel that the plan was made with, if any."""
        return self._rows if self._kernel is None else self._examined(self._kernel)

    @property
    def method(self) -> str:
        """Name of the method that runs, or would for a kernel of which nothing is known."""
        return (self._settled or self._choice()[0]).method.name

    @property
    def candidates(self) -> tuple[planner.Candidate, ...]:
        """The lines of `explain` as records: every method, the cheapest prediction first."""
        return planner.candidates(*self._choice(), self._times)

    def explain(self) -> str:
        """The method chosen, what each candidate would cost, and why the others were refused.

        Predicted seconds, measured ones where the plan was tuned, scratch bytes (all workers
        together), and bytes that the plan keeps.
        """
        return planner.table(self.candidates, self.problem, self.limits)

    def __repr__(self) -> str:
        p = self.problem
        return f"<xconv.Plan: {p.op} {p.x_shape} with {p.k_shape} by {self.method}>"

    def __call__(self, x: Any, k: Any = None, /, *, out: Any = None) -> Any:
        x = self.backend.accept(x)
        self._check_fits("x", x, self.problem.x_shape, self.problem.x_dtype)
        if k is not None:
            k = self.backend.accept_kernel(k, x)
            self._check_fits("kernel", k, self.problem.k_shape, self.problem.k_dtype)
            return self.execute(x, *self._prepared(k, x), out)
        if self._bound is None:
            raise ArgumentError(
                "this plan was made without a kernel's values; pass the kernel too: plan(x, k)"
            )
        return self.execute(x, *self._bound, out)

    def compute(self, x: Any, kernel: Any, out: Any) -> Any:
        """The result for an array and a kernel that are known to fit."""
        return self.execute(x, *self._prepared(kernel, x), out)

    def execute(self, x: Any, chosen: planner.Row, state: Any, out: Any) -> Any:
        """The result of a method that has been chosen and prepared."""
        if out is not None:
            self._check_out(out, x)
        y = self.backend.new(self.problem.y_shape, self.problem.dtype, x) if out is None else out
        lent = self.backend.lent(x, y)
        if lent is None:
            return self._executed(x, chosen, state, out)
        with lent as (source, target):
            if y is None:
                return self.backend.given_back(self._executed(source, chosen, state, None), x)
            if out is None:
                self._run(self.problem, source, target, chosen.method, state, self.limits)
            else:
                self._executed(source, chosen, state, target)
            return y

    def _executed(self, x: Any, chosen: planner.Row, state: Any, out: Any) -> Any:
        if out is None:
            y = self.backend.empty(self.problem.y_shape, self.problem.dtype, x)
            return self._run(self.problem, x, y, chosen.method, state, self.limits)
        if not self.backend.overlaps(out, x):
            return self._run(self.problem, x, out, chosen.method, state, self.limits)
        limits = replace(self.limits, max_memory=self.limits.max_memory // 2)
        for problem, part, at in self._copied_parts(x, out, limits.max_memory):
            self._run(problem, part, out[at], chosen.method, state, limits)
        return out

    def _run(
        self, problem: Problem, x: Any, y: Any, method: Method, state: Any, limits: Limits
    ) -> Any:
        """`y` with the result in it; another array where arrays cannot be written."""
        if method.on_user_axes:
            return method.run(self.backend, problem, state, x, y, limits)
        xp = self.backend.namespace(x)
        source, target = view(x, problem.views[0], xp), view(y, problem.views[2], xp)
        result = method.run(self.backend, problem, state, source, target, limits)
        return y if result is target else restored(result, problem.views[2], problem.y_shape, xp)

    def _choice(self) -> tuple[planner.Row, tuple[planner.Row, ...]]:
        """The row that runs, and all of them."""
        return self._choose(self.rows, None)

    def _choose(
        self, rows: tuple[planner.Row, ...], examine: Any
    ) -> tuple[planner.Row, tuple[planner.Row, ...]]:
        return planner.choose(
            rows, self.wanted, self.problem, self.backend.rates, self.limits, examine, self._times
        )

    def _examine(self, kernel: Any) -> tuple[_Known, Callable[[Method], Any]]:
        """What is known of a kernel, and how methods find out more; of the same values once."""
        host = self.backend.to_numpy(kernel)
        values = host.tobytes()
        known = self._known
        if known.values != values:
            known = self._known = _Known(values)

        def examine(method: Method) -> Any:
            if method not in known.facts:
                canonical = view(host, self.problem.views[1], np)
                known.facts[method] = method.examine(self.problem, canonical)
            return known.facts[method]

        return known, examine

    def _examined(self, kernel: Any) -> tuple[planner.Row, ...]:
        """All rows with what the kernel's values tell."""
        (_, examine), rates = self._examine(kernel), self.backend.rates
        return tuple(
            planner.examined(row, self.problem, rates, self.limits, examine) for row in self._rows
        )

    def _prepared(self, kernel: Any, like: Any) -> tuple[planner.Row, Any]:
        """The method for this kernel, and what it keeps of it."""
        chosen = self._settled
        if chosen is None and self._times:  # times are those of methods that know the kernel
            chosen = self._choose(self._examined(kernel), None)[0]
        elif chosen is None:
            known, examine = self._examine(kernel)
            if known.chosen is None:
                known.chosen = self._choose(self._rows, examine)[0]
            chosen = known.chosen
        return chosen, self.prepare(chosen, kernel, like)

    def prepare(self, row: planner.Row, kernel: Any, like: Any) -> Any:
        """What the method of the row keeps of the kernel, for images that are like `like`."""
        lasting = kernel is self._kernel
        bind = self.backend.bound if lasting else self.backend.bound_once
        weights = bind(self.problem, kernel, like)
        return row.method.prepare(self.backend, self.problem, weights, row.facts, self.limits)

    def _check_fits(self, subject: str, array: Any, shape: tuple[int, ...], dtype: str) -> None:
        if array.shape == shape and array.dtype is np.dtype(dtype):
            return
        given = dtype_name(array.dtype, f"{subject} of dtype")
        if tuple(array.shape) != shape or given != dtype:
            raise ArgumentError(
                f"{subject} has shape {tuple(array.shape)} and dtype {given}, but the plan was "
                f"made for shape {shape} and dtype {dtype}; make another plan for it"
            )

    def _check_out(self, out: Any, x: Any) -> None:
        if (
            type(out) is np.ndarray is type(x)
            and out.shape == self.problem.y_shape
            and out.dtype is self._dtype
            and out.flags.writeable
        ):
            return
        wrong = self.backend.check_out(out, self.problem, x)
        if wrong:
            raise ArgumentTypeError(f"out {wrong}; leave it out to have a new array")
        if out.shape == self.problem.y_shape and out.dtype is self._dtype:
            return
        shape, dtype = tuple(out.shape), self.backend.dtype_of_out(out)
        if shape != self.problem.y_shape:
            raise ArgumentError(
                f"out has shape {shape}, but the result has shape {self.problem.y_shape}"
            )
        if dtype != self.problem.dtype:
            raise ArgumentTypeError(
                f"out has dtype {dtype}, but the result has {self.problem.dtype}; "
                "pass dtype= to have another result, or another out"
            )

    def _copied_parts(
        self, x: Any, out: Any, room: int
    ) -> Iterator[tuple[Problem, Any, tuple[Any, ...]]]:
        """(problem, copy of a part of `x`, index of its result) for an `out` that overlaps `x`.

        One part if `x` fits into `room` bytes, which is half the memory allowed; else, where
        `out` lies on `x` entry by entry, as many entries of a batch axis at a time as fit.
        """
        problem = self.problem
        nbytes = math.prod(problem.x_shape) * self._x_dtype.itemsize
        if nbytes <= room:
            yield problem, self.backend.copy(x), (...,)
            return
        axis = max(range(len(problem.batch)), key=lambda a: problem.batch[a], default=None)
        entries = problem.batch[axis] if axis is not None and self._entrywise(x, out) else 1
        if nbytes // entries > room or axis is None:
            raise MemoryLimitError(
                f"out overlaps x, and the copy of x that this needs takes {nbytes // entries} "
                f"bytes of the half of max_memory={self.limits.max_memory} that is kept for it; "
                f"pass an out that does not overlap, or max_memory={2 * (nbytes // entries)}"
            )
        at, step = problem.x_axes[axis].of, room * entries // nbytes
        for start in range(0, entries, step):
            index = (slice(None),) * at + (slice(start, min(start + step, entries)),)
            part = part_of_batch(problem, axis, index[-1].stop - start)
            yield part, self.backend.copy(x[index]), index

    def _entrywise(self, x: Any, out: Any) -> bool:
        """Whether each entry of the batch in `out` lies exactly on the same entry in `x`."""
        p = self.problem
        same_axes = [a.of for a in p.x_axes] == [a.of for a in p.y_axes]
        return same_axes and self.backend.same_memory(x, out)
