"""Print what pyproject.toml asks for, without our own code: for an image's slow layer.

    python requirements.py pyproject.toml api client

Standard library only: it runs in an empty image.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path


def requirements(pyproject: Path, extras: Sequence[str]) -> list[str]:
    """The base requirements, then those of `extras`."""
    project = tomllib.loads(pyproject.read_text())["project"]
    wanted: list[str] = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return wanted


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
