"""Entry point of the command `printworks`; the command line itself needs the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say how to install it."""
    try:
        from printworks.cli import main as run  # noqa: PLC0415 - the client works without its needs
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("printworks"):
            raise
        sys.exit(
            f"printworks: the command line needs {missing.name}: pip install 'printworks[cli]'"
        )
    run()
