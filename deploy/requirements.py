"""Requirements of pyproject.toml, by extra and by dependency group.

    python requirements.py pyproject.toml api courier      # for an image's slow layer

Standard library only: it runs in an empty image. Knows no version of the lock.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ONE_MACHINE = ("api", "worker", "courier", "client", "local")  # the extras that `up` needs


def requirements(pyproject: Path, extras: Sequence[str]) -> list[str]:
    """Return the base requirements, then those of `extras`."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    wanted: list[str] = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return wanted


def group(pyproject: Path, name: str) -> list[str]:
    """Return the requirements of one dependency group."""
    wanted: list[str] = tomllib.loads(pyproject.read_text(encoding="utf-8"))["dependency-groups"][
        name
    ]
    return wanted


def everything(pyproject: Path) -> list[str]:
    """Return the requirements of every extra and every group, each once."""
    read = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    extras, groups = read["project"]["optional-dependencies"], read["dependency-groups"]
    wanted = requirements(pyproject, list(extras))
    wanted += [line for name in groups for line in group(pyproject, name)]
    return sorted(set(wanted))


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
