"""The command `xconv`."""

from __future__ import annotations

import importlib
import sys

__all__ = ["main"]

NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line of this process; what it needs beyond xconv is imported here."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            sys.exit(
                f"xconv: the command line needs {name}, which is not installed; "
                "pip install 'xconv[cli]'"
            )
    from .commands import app

    app()
