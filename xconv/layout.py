"""Letters of axes → the canonical form's axes; arrays → strided views of it, never copies."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ArgumentError
from .problem import Axis, Problem

__all__ = [
    "Letters", "canonical_axes", "correlation_form", "from_axes", "from_layout",
    "in_order_of", "restored", "view",
]  # fmt: skip

_NOT_SPATIAL = frozenset("NBCIOG")
_NOT_IN_X = frozenset("OIG")
_NOT_IN_K = frozenset("NBG")
_ELLIPSIS = "..."


@dataclass(frozen=True, slots=True)
class Letters:
    """One label per axis of `x`, the kernel and the result.

    Labels are single letters; the axes behind `...` are labelled ".0", ".1" and so on, and
    axes given by number "#0", "#1".
    """

    x: tuple[str, ...]
    k: tuple[str, ...]
    y: tuple[str, ...]

    @property
    def spatial(self) -> tuple[str, ...]:
        """Labels of the convolved axes, in `x`'s order."""
        return tuple(a for a in self.x if a in self.k and a != "C")

    @property
    def batch(self) -> tuple[str, ...]:
        """Labels of the axes along which every entry is filtered alike, in `x`'s order."""
        shared = "C" in self.k or "I" in self.k
        spatial = self.spatial
        return tuple(a for a in self.x if a not in spatial and not (a == "C" and shared))


def from_axes(x_ndim: int, k_ndim: int, axes: Sequence[int] | None) -> Letters:
    """Letters for convolved axes given by number; None means the last `k_ndim`.

    >>> from_axes(3, 2, (0, 1)).k
    ('#0', '#1')
    """
    if k_ndim == 0:
        raise ArgumentError(
            "kernel has no axes; pass a kernel with one axis per convolved axis of x"
        )
    if axes is None:
        if k_ndim > x_ndim:
            raise ArgumentError(
                f"kernel has {k_ndim} axes but x has {x_ndim}; the last axes of x are convolved "
                "where neither layout= nor axes= is given, so pass a kernel with at most "
                f"{x_ndim} axes, or name the axes with layout= and kernel_layout="
            )
        axes = range(x_ndim - k_ndim, x_ndim)
    if len(axes) != k_ndim:
        raise ArgumentError(
            f"axes={tuple(axes)} names {len(axes)} axes but the kernel has {k_ndim}; "
            "give one axis of x for each axis of the kernel"
        )
    chosen = []
    for axis in axes:
        if not -x_ndim <= axis < x_ndim:
            raise ArgumentError(
                f"axes={tuple(axes)} has {axis}, but x has {x_ndim} axes; "
                f"give numbers from {-x_ndim} to {x_ndim - 1}"
            )
        chosen.append(axis % x_ndim)
    if len(set(chosen)) != len(chosen):
        raise ArgumentError(f"axes={tuple(axes)} names an axis twice; each axis may stand once")
    x = tuple(f"#{i}" if i in chosen else f".{i}" for i in range(x_ndim))
    return Letters(x, tuple(f"#{i}" for i in chosen), x)


def from_layout(
    x_ndim: int, k_ndim: int, layout: str, kernel_layout: str | None, out_layout: str | None
) -> Letters:
    """Letters from the user's strings, with every default filled in and every rule checked.

    >>> from_layout(4, 4, "NHWC", "HWIO", None).y
    ('N', 'H', 'W', 'O')
    >>> from_layout(3, 3, "NHW", "OHW", None).y
    ('N', 'O', 'H', 'W')
    """
    x = _expand("layout", layout, x_ndim, "x", _NOT_IN_X)
    spatial = tuple(a for a in x if len(a) == 1 and a not in _NOT_SPATIAL)
    if not spatial:
        raise ArgumentError(
            f'layout "{layout}" has no spatial letter; N, B and C are batch or channel axes, '
            'so name the axes to convolve with other letters, as in "NHW"'
        )
    if kernel_layout is None:
        kernel_layout = "".join(spatial)
        if k_ndim != len(spatial):
            raise ArgumentError(
                f'kernel has {k_ndim} axes but layout "{layout}" has {len(spatial)} spatial '
                f"axes ({', '.join(spatial)}); pass a kernel of shape "
                f"({', '.join('k' + a.lower() for a in spatial)}{',' * (len(spatial) == 1)}), "
                "or name its axes with kernel_layout="
            )
    if "..." in kernel_layout:
        raise ArgumentError(
            f'kernel_layout "{kernel_layout}" holds "..."; every axis of a kernel has a role, '
            "so name each with a letter"
        )
    k = _expand("kernel_layout", kernel_layout, k_ndim, "the kernel", _NOT_IN_K)
    _check_roles(layout, kernel_layout, x, k, spatial)
    return Letters(x, k, _output(layout, kernel_layout, out_layout, x, k, spatial))


def _expand(
    name: str, text: object, ndim: int, owner: str, banned: frozenset[str]
) -> tuple[str, ...]:
    """Labels of `text`, with `...` replaced by as many batch labels as `ndim` leaves."""
    if not isinstance(text, str):
        raise ArgumentError(f'{name} must be a string such as "NHWC", not {text!r}')
    if text.count(_ELLIPSIS) > 1:
        raise ArgumentError(f'{name} "{text}" holds "..." twice; it may stand once')
    before, dots, after = text.partition(_ELLIPSIS)
    letters = before + after
    for letter in letters:
        if letter not in string.ascii_uppercase:
            raise ArgumentError(
                f'{name} "{text}" holds {letter!r}; use the letters A to Z, '
                'and "..." once for batch axes'
            )
        if letter in banned:
            raise ArgumentError(
                f'{name} "{text}" holds {letter}, which cannot stand for an axis of {owner}; '
                + (
                    "O is a bank of kernels and I the summed channels (kernel only), G is reserved"
                    if owner == "x"
                    else "N and B are batch axes of x only, G is reserved"
                )
            )
        if letters.count(letter) > 1:
            raise ArgumentError(f'{name} "{text}" holds {letter} twice; each letter may stand once')
    extra = ndim - len(letters)
    if extra < 0 or (extra and not dots):
        given = f"{len(letters)}{' or more' if dots else ''}"
        raise ArgumentError(
            f'{name} "{text}" names {given} axes but {owner} has {ndim}; give one letter per axis'
            + (', or "..." once for any number of batch axes' if owner == "x" else "")
        )
    return (*before, *(f".{i}" for i in range(extra)), *after)


def _check_roles(
    layout: str,
    kernel_layout: str,
    x: tuple[str, ...],
    k: tuple[str, ...],
    spatial: tuple[str, ...],
) -> None:
    missing = [a for a in spatial if a not in k]
    unknown = [a for a in k if a not in spatial and a not in "CIO"]
    if missing or unknown:
        raise ArgumentError(
            f'kernel_layout "{kernel_layout}" '
            + " and ".join(
                [f"lacks {', '.join(missing)}"] * bool(missing)
                + [f"has {', '.join(unknown)}, unknown to x"] * bool(unknown)
            )
            + f'; its spatial letters must be those of layout "{layout}": {", ".join(spatial)}'
        )
    if "I" in k and "C" in k:
        raise ArgumentError(
            f'kernel_layout "{kernel_layout}" holds both I and C; use I to sum over the channels '
            "of x, or C for a kernel per channel"
        )
    for letter in "IC":
        if letter in k and "C" not in x:
            raise ArgumentError(
                f'kernel_layout "{kernel_layout}" holds {letter} but layout "{layout}" has no '
                "channel axis; name it C in layout="
            )


def _output(
    layout: str,
    kernel_layout: str,
    out_layout: str | None,
    x: tuple[str, ...],
    k: tuple[str, ...],
    spatial: tuple[str, ...],
) -> tuple[str, ...]:
    """Labels of the result: `x`'s, with O in C's place, or where it stands in the kernel."""
    y = list(x)
    middle = False
    if "I" in k:
        y = [("O" if a == "C" else a) for a in y if a != "C" or "O" in k]
    elif "O" in k:
        middle = k[0] != "O" != k[-1]
        y.insert(min(y.index(a) for a in spatial) if k[0] == "O" else len(y), "O")
    if out_layout is None:
        if middle:
            raise ArgumentError(
                f'kernel_layout "{kernel_layout}" has O in the middle, so its place in the result '
                "is not clear; give out_layout="
            )
        return tuple(y)
    if (_ELLIPSIS in layout) != (isinstance(out_layout, str) and _ELLIPSIS in out_layout):
        raise ArgumentError(
            f'out_layout "{out_layout}" and layout "{layout}" must both hold "..." or neither; '
            "it stands for the same batch axes in both"
        )
    given = _expand("out_layout", out_layout, len(y), "the result", frozenset("IG"))
    if sorted(given) != sorted(y):
        wanted = "".join(a for a in y if len(a) == 1)
        raise ArgumentError(
            f'out_layout "{out_layout}" must hold each axis of the result once: the letters '
            f"{', '.join(wanted)}, in any order"
        )
    return given


def canonical_axes(
    letters: Letters,
    x_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
    output: tuple[int, ...],
    groups: int,
) -> tuple[tuple[Axis, ...], tuple[Axis, ...], tuple[Axis, ...], tuple[int, ...]]:
    """Axes of `x`, the kernel and the result in canonical order, and the result's shape.

    `output` holds the result's spatial sizes in `x`'s order.
    """
    x, k, y = letters.x, letters.k, letters.y
    none = Axis(1, -1)

    def axis(shape: tuple[int, ...], labels: tuple[str, ...], label: str) -> Axis:
        return Axis(shape[labels.index(label)], labels.index(label)) if label in labels else none

    depthwise, summed = "C" in k, "I" in k
    sizes = dict(zip(letters.spatial, output, strict=True))
    sizes["O"] = axis(k_shape, k, "O").size
    y_shape = tuple(sizes[a] if a in sizes else x_shape[x.index(a)] for a in y)

    channels = axis(x_shape, x, "C") if depthwise or summed else none
    bank_k, bank_y = axis(k_shape, k, "O"), axis(y_shape, y, "O")
    if depthwise:
        x_group, x_input = channels, none
        k_group, k_output, k_input = axis(k_shape, k, "C"), bank_k, none
        y_group, y_output = axis(y_shape, y, "C"), bank_y
    else:
        # Each group owns consecutive channels: C = (G, C/G) and O = (G, O/G).
        x_group, x_input = _split(channels, groups)
        k_group, k_output = _split(bank_k, groups)
        k_input = axis(k_shape, k, "I")
        y_group, y_output = _split(bank_y, groups)
    spatial = letters.spatial
    x_axes = [axis(x_shape, x, a) for a in letters.batch]
    y_axes = [axis(y_shape, y, a) for a in letters.batch]
    return (
        (*x_axes, x_group, x_input, *(axis(x_shape, x, a) for a in spatial)),
        (k_group, k_output, k_input, *(axis(k_shape, k, a) for a in spatial)),
        (*y_axes, y_group, y_output, *(axis(y_shape, y, a) for a in spatial)),
        y_shape,
    )


def _split(axis: Axis, groups: int) -> tuple[Axis, Axis]:
    """The axis as (groups, members of one group)."""
    members = axis.size // groups
    return Axis(groups, axis.of if groups > 1 else -1, members), Axis(members, axis.of)


View = tuple[tuple[int, ...], tuple[int, ...]]
"""Order of the user's axes, then the canonical shape: what `Problem.views` holds."""


def view(array: Any, how: View, xp: Any) -> Any:
    """The array with its axes in canonical order: a view of the same memory."""
    order, shape = how
    return xp.reshape(xp.permute_dims(array, order), shape)


def correlation_form(problem: Problem, kernel: Any) -> Any:
    """A kernel of NumPy or CuPy as canonical weights: turned around if `op` is "convolve", else
    conjugated if it is complex."""
    order, shape = problem.views[1]
    weights = kernel.transpose(order).reshape(shape)
    if problem.op == "convolve":
        backwards: Any = (..., *(slice(None, None, -1),) * problem.spatial)
        return weights[backwards]
    return weights.conj() if problem.k_dtype.startswith("complex") else weights


def in_order_of(like: Any, flat: Any, shape: Sequence[int]) -> Any:
    """The first elements of a flat array as one of `shape` in the memory order of `like`."""
    order = sorted(range(len(shape)), key=lambda a: -abs(like.strides[a]))
    back = sorted(range(len(shape)), key=order.__getitem__)
    return flat[: math.prod(shape)].reshape([shape[a] for a in order]).transpose(back)


def restored(array: Any, how: View, shape: tuple[int, ...], xp: Any) -> Any:
    """The inverse of `view`: an array in canonical order → the user's order and shape."""
    order, _ = how
    merged = xp.reshape(array, tuple(shape[a] for a in order))
    return xp.permute_dims(merged, tuple(order.index(a) for a in range(len(order))))
