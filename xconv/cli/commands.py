"""The commands and their options; what they do is in the module of each one's name."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer

from ..bench.command import bench
from ..errors import XconvError
from . import options as o

__all__ = ["app"]

app = typer.Typer(
    name="xconv",
    help="Convolve batches of signals, images and volumes, in any axis layout.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

P = ParamSpec("P")


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Register a command: mistakes of the user exit with 2, failures of the machine with 1."""

    @app.command()
    @functools.wraps(function)
    def reported(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except XconvError as error:
            code, message = 2, str(error)
        except BrokenPipeError:  # whoever read the output has gone; nothing is left to be said
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code, message = 1, ""
        except (OSError, MemoryError) as error:
            code, message = 1, str(error) or type(error).__name__
        except KeyboardInterrupt:
            code, message = 130, "interrupted"
        else:
            return
        if message:
            typer.echo(f"xconv: {message}", err=True)
        raise typer.Exit(code)

    return reported


@command
def info() -> None:
    """Print backends, versions, devices and threads, and the reason for each thing missing."""
    from .info import report

    typer.echo(report())


@command
def explain(
    shape: Annotated[str, typer.Option(help="Sizes of the input, such as 100x100x50.")],
    kernel: Annotated[str, typer.Option(help="Sizes of the kernel, such as 11x11, or its file.")],
    x_dtype: Annotated[str, typer.Option(help="Dtype of the input.")] = "float64",
    kernel_dtype: Annotated[str | None, typer.Option(help="That of x unless given.")] = None,
    layout: o.Layout = None,
    kernel_layout: o.KernelLayout = None,
    out_layout: o.OutLayout = None,
    axes: o.Axes = None,
    mode: o.Mode = "full",
    boundary: o.Boundary = "constant",
    cval: o.Cval = "0",
    stride: o.Stride = "1",
    dilation: o.Dilation = "1",
    groups: o.Groups = 1,
    method: o.Method = "auto",
    dtype: o.Dtype = None,
    correlate: o.Correlate = False,
    workers: o.Workers = None,
    max_memory: o.MaxMemory = "64M",
    backend: o.Backend = None,
) -> None:
    """Print what each method would cost on NumPy arrays, and which one would be taken."""
    from .explain import explanation

    options = o.Options(
        layout, kernel_layout, out_layout, axes, mode, boundary, cval, stride, dilation, groups,
        method, dtype, correlate, workers, max_memory, backend,
    )  # fmt: skip
    typer.echo(explanation(shape, x_dtype, kernel, kernel_dtype or x_dtype, options))


@command
def apply(
    input: Annotated[str, typer.Argument(help="A .npy, .npz, .tif, image, or folder of images.")],
    kernel: Annotated[str, typer.Argument(help="A file like the input, or [[0,1],[1,0]].")],
    output: Annotated[str, typer.Option("--output", "-o", help="The file, or folder/ of images.")],
    output_dtype: Annotated[
        str | None, typer.Option(help="Dtype of the file: rounded and clipped to it if integer.")
    ] = None,
    layout: o.Layout = None,
    kernel_layout: o.KernelLayout = None,
    out_layout: o.OutLayout = None,
    axes: o.Axes = None,
    mode: o.Mode = "full",
    boundary: o.Boundary = "constant",
    cval: o.Cval = "0",
    stride: o.Stride = "1",
    dilation: o.Dilation = "1",
    groups: o.Groups = 1,
    method: o.Method = "auto",
    dtype: o.Dtype = None,
    correlate: o.Correlate = False,
    workers: o.Workers = None,
    max_memory: o.MaxMemory = "64M",
    backend: o.Backend = None,
) -> None:
    """Convolve a file with a kernel, block by block, into another file."""
    from .apply import convolve_file

    options = o.Options(
        layout, kernel_layout, out_layout, axes, mode, boundary, cval, stride, dilation, groups,
        method, dtype, correlate, workers, max_memory, backend,
    )  # fmt: skip
    typer.echo(convolve_file(input, kernel, output, output_dtype, options))


@command
def demo(
    output: Annotated[
        str, typer.Option("--output", "-o", help="Where the contact sheet goes.")
    ] = "xconv-demo.png",
) -> None:
    """Filter photographs in three layouts by every backend and method, checked against SciPy."""
    from .demo import run

    if not run(output):
        raise typer.Exit(1)


@command
def calibrate(
    backend: Annotated[str, typer.Option(help="The backend whose methods are timed.")] = "cpu",
) -> None:
    """Time every method on this machine for some seconds, and keep its rates for later plans."""
    from .calibrate import calibrate as measured

    for line in measured(backend):
        typer.echo(line)


command(bench)
