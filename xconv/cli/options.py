"""Options that several commands share, and the text of options → arguments of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..errors import ArgumentError

__all__ = [
    "Axes", "Backend", "Boundary", "Correlate", "Cval", "Dilation", "Dtype", "Groups",
    "KernelLayout", "Layout", "MaxMemory", "Method", "Mode", "Options", "OutLayout", "Stride",
    "Workers", "read_bytes", "read_shape",
]  # fmt: skip

Text = str | None

Layout = Annotated[Text, typer.Option(help="A letter per axis of the input, such as NHWC.")]
KernelLayout = Annotated[Text, typer.Option(help="A letter per axis of the kernel, such as HWIO.")]
OutLayout = Annotated[Text, typer.Option(help="A letter per axis of the result.")]
Axes = Annotated[Text, typer.Option(help="Axes to convolve, such as 0,1, in place of --layout.")]
Mode = Annotated[
    str, typer.Option(help="full, same, valid, or padding low:high per axis, such as 1:2,0:0.")
]
Boundary = Annotated[str, typer.Option(help="constant, reflect, mirror, nearest or wrap.")]
Cval = Annotated[str, typer.Option(help="The value of the boundary constant.")]
Stride = Annotated[str, typer.Option(help="A number, or one per convolved axis, such as 2,1.")]
Dilation = Annotated[str, typer.Option(help="A number, or one per convolved axis.")]
Groups = Annotated[int, typer.Option(help="Groups of channels, with I and O in the kernel.")]
Method = Annotated[str, typer.Option(help="auto, direct, fft or separable.")]
Dtype = Annotated[Text, typer.Option(help="Both operands are converted to it first.")]
Correlate = Annotated[bool, typer.Option("--correlate", help="Do not reverse the kernel.")]
Workers = Annotated[int | None, typer.Option(help="Threads; all CPUs unless given.")]
MaxMemory = Annotated[str, typer.Option(help="Most bytes of scratch, such as 64M or 1G.")]
Backend = Annotated[Text, typer.Option(help="cuda sends the arrays through the GPU.")]


@dataclass(frozen=True)
class Options:
    """What the user wrote, and the keywords of `xconv.plan` that it means."""

    layout: str | None
    kernel_layout: str | None
    out_layout: str | None
    axes: str | None
    mode: str
    boundary: str
    cval: str
    stride: str
    dilation: str
    groups: int
    method: str
    dtype: str | None
    correlate: bool
    workers: int | None
    max_memory: str
    backend: str | None

    @property
    def op(self) -> str:
        return "correlate" if self.correlate else "convolve"

    def keywords(self) -> dict[str, Any]:
        return {
            "layout": self.layout,
            "kernel_layout": self.kernel_layout,
            "out_layout": self.out_layout,
            "axes": None if self.axes is None else _ints("--axes", self.axes),
            "mode": _mode(self.mode),
            "boundary": self.boundary,
            "cval": _number(self.cval),
            "stride": _one_or_more("--stride", self.stride),
            "dilation": _one_or_more("--dilation", self.dilation),
            "groups": self.groups,
            "method": self.method,
            "dtype": self.dtype,
            "workers": self.workers,
            "max_memory": read_bytes(self.max_memory),
            "backend": self.backend,
        }


def read_shape(option: str, text: str) -> tuple[int, ...]:
    """Sizes written as 100x100x50.

    >>> read_shape("--shape", "100x100x50")
    (100, 100, 50)
    """
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = (-1,)
    if min(shape) < 0:
        raise ArgumentError(f"{option}={text!r} is no shape; write sizes as 100x100x50")
    return shape


def read_bytes(text: str) -> int:
    """Bytes written as 1000, 64M, 64MiB or 1G; units are powers of 1024.

    >>> read_bytes("64M")
    67108864
    """
    units = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in units else ""
    try:
        return int(float(number.removesuffix(unit)) * 2 ** units[unit])
    except (ValueError, OverflowError):
        raise ArgumentError(
            f"--max-memory={text!r} is no amount of memory; write bytes, or 64M or 1G"
        ) from None


def _ints(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(
            f"{option}={text!r} is no list of integers; write them as 0,1"
        ) from None


def _one_or_more(option: str, text: str) -> int | tuple[int, ...]:
    numbers = _ints(option, text)
    return numbers[0] if len(numbers) == 1 else numbers


def _mode(text: str) -> str | tuple[tuple[int, ...], ...]:
    if ":" not in text:
        return text
    try:
        return tuple(tuple(int(n) for n in pair.split(":")) for pair in text.split(","))
    except ValueError:
        raise ArgumentError(
            f"--mode={text!r} is no padding; write low:high for each convolved axis, as in 1:2,0:0"
        ) from None


def _number(text: str) -> int | float | complex:
    for kind in (int, float, complex):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ArgumentError(f"--cval={text!r} is no number; write one, such as 0.5, nan or 1+2j")
