"""The command `xconv`."""

from __future__ import annotations

import sys

__all__ = ["main"]

NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line of this process; what it needs beyond xconv is imported here."""
    try:
        from .commands import app
    except ModuleNotFoundError as missing:
        if missing.name not in NEEDED:
            raise
        sys.exit(
            f"xconv: the command line needs {missing.name}, which is not installed; "
            "pip install 'xconv[cli]'"
        )
    app()
