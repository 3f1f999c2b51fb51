"""Requirements of pyproject.toml that an environment lacks, listed by the environment's own Python.

    .venv/bin/python -m deploy.installed FOLDER EXTRAS GROUPS      # lists separated by commas

Prints one line for each missing requirement; no line: all are installed, by any installer (uv,
conda, a person). Owns no installation. `packaging` comes with torch's dependencies: without
`packaging`, they are missing, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from deploy.requirements import group, requirements

PROJECTS = {"printworks-service": ".", "printworks": "client"}  # ours, and where each lies


def missing(root: Path, extras: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Return requirements that are missing or have a wrong version, indirect ones too, sorted."""
    try:
        from packaging.requirements import Requirement  # noqa: PLC0415 - it may be what is missing
    except ModuleNotFoundError:
        return ["packaging"]
    lacking = set(_project(root))
    pyproject = root / "pyproject.toml"
    named = requirements(pyproject, extras) + [r for name in groups for r in group(pyproject, name)]
    waiting = [Requirement(line) for line in named]
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        seen.add(str(wanted))
        found = _distribution(wanted.name)
        if found is None or not wanted.specifier.contains(found.version, prereleases=True):
            lacking.add(str(wanted))
            continue
        for line in found.requires or ():
            inner = Requirement(line)
            with_extras = [{"extra": extra} for extra in (*wanted.extras, "")]
            if not inner.marker or any(map(inner.marker.evaluate, with_extras)):
                inner.marker = None  # it applies: its extra is not asked again
                waiting.append(inner)
    return sorted(lacking)


def _project(root: Path) -> Iterator[str]:
    """Yield the project itself and its client, unless installed as editable from `root`."""
    for name, folder in PROJECTS.items():
        found, wanted = _distribution(name), root / folder
        origin = json.loads((found and found.read_text("direct_url.json")) or "{}")
        if origin.get("url") != wanted.as_uri() or not origin.get("dir_info", {}).get("editable"):
            yield f"{name} (editable, from {wanted})"


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Print the missing requirements of the extras and groups on the command line."""
    root, extras, groups = sys.argv[1:4]
    for line in missing(Path(root), _list(extras), _list(groups)):
        print(line)


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


if __name__ == "__main__":
    main()
