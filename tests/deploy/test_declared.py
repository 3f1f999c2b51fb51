"""Every package that our code imports is declared where that code is installed from."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# a folder, and the extras that install what it needs besides the base
FOLDERS = {
    "api": ["api"],
    "jobs": ["otel"],
    "worker": ["worker", "courier", "c2pa"],
    "client/printworks": ["client"],
}
OURS = {"api", "jobs", "worker", "printworks"}
# deploy/: the standard library until something is installed, then what it has installed itself


def imported(folder: Path) -> set[str]:
    """The top-level packages of others that the folder's files import."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - OURS


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_imported_is_declared(folder: str, root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in FOLDERS[folder] for line in extras[name])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions = packages_distributions()

    missing = {
        module
        for module in imported(root / folder)
        if not {canonicalize_name(name) for name in distributions.get(module, [module])} & declared
    }

    assert not missing
