"""`python -m xconv.bench`: the command without the rest of the command line."""

import typer

from .command import bench

typer.run(bench)
