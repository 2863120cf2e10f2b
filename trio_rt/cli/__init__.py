"""The command `trio-rt`. It needs the extra `cli`: click and rich."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit."""
    try:
        from ._commands import command

        command(prog_name="trio-rt")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("click", "rich"):
            raise
        sys.exit(f"trio-rt: {package} is missing; install it with: pip install 'trio-rt[cli]'")
