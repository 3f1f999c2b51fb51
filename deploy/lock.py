"""The lock: one version of every package, direct and indirect, for every extra and group.

    python3 deploy lock                    match pyproject.toml; versions that still fit are kept
    python3 deploy lock --upgrade [NAME]   take the newest of everything, or of one package

One file serves every extra, Python from 3.11 on, Linux and macOS: differences have markers, and
installers take the lock as constraints (`-c deploy/lock.txt`), so it adds no requirement.
The lock has versions and no hashes, since torch 2.13.0 has two builds (PyPI's, with CUDA, and
`+cpu`). Owns deploy/lock.txt. Standard library only; uv resolves.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.installer import LOCK, InstallFailed
from deploy.requirements import everything

HEADER = """\
# One version of every package, direct and indirect, for every platform: constraints for pip, uv.
# Made of pyproject.toml by `python3 deploy lock`, and not by hand: CONTRIBUTING.md, Dependencies.
"""
ASKED = "pyproject.toml"  # in the lock's `via`: a direct requirement
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;]+)(?: ; (?P<marker>[^#]*\S))?")


def refresh(root: Path, upgrade: list[str] | None) -> list[str]:
    """Resolve anew, write the lock, and return its changes, one line each.

    `upgrade`: None keeps every version that still fits; [] takes the newest of everything, a
    list of names the newest of these packages. Raises InstallFailed, with the resolver's output.
    """
    lock = root / LOCK
    before = lock.read_text(encoding="utf-8") if lock.exists() else ""
    with TemporaryDirectory() as made:
        folder = Path(made)
        asked, out = folder / ASKED, folder / "lock.txt"
        # not the file itself: its uv settings are those of one machine, and the lock is everyone's
        asked.with_suffix(".in").write_text("\n".join(everything(root / "pyproject.toml")))
        out.write_text(before)  # what uv keeps to
        argv = [*_uv(root, folder), "pip", "compile", asked.with_suffix(".in").name]
        argv += ["-o", out.name, "--universal", "--python-version", _oldest_python(root)]
        argv += ["--no-emit-index-url", "--no-header", "--annotation-style", "line", "--quiet"]
        argv += _upgrades(upgrade)
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InstallFailed(f"{done.stderr.strip()}\n\nThe lock is unchanged.")
        after = HEADER + out.read_text(encoding="utf-8").replace("-r pyproject.in", ASKED)
    lock.write_text(after, encoding="utf-8")
    return changes(pins(before), pins(after))


def pins(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the (version, marker) pairs of each package in a lock; no marker is ""."""
    said: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if pin := _PIN.match(line):
            said.setdefault(pin["name"], []).append((pin["version"], pin["marker"] or ""))
    return said


def changes(
    before: dict[str, list[tuple[str, str]]], after: dict[str, list[tuple[str, str]]]
) -> list[str]:
    """Return a line for each package that was added, removed or has another version."""
    versions = [
        {n: ", ".join(v for v, _ in p) for n, p in side.items()} for side in (before, after)
    ]
    old, new = versions
    return [
        f"{name}: {old.get(name, 'new')} -> {new.get(name, 'gone')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _upgrades(upgrade: list[str] | None) -> list[str]:
    if upgrade is None:
        return []
    return [f"--upgrade-package={name}" for name in upgrade] or ["--upgrade"]


def _oldest_python(root: Path) -> str:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["requires-python"].removeprefix(">=")


def _uv(root: Path, folder: Path) -> list[str | Path]:
    """Return uv's command: of `.venv`, of PATH, or downloaded into `folder`."""
    here = shutil.which("uv", path=root / ".venv" / "bin") or shutil.which("uv")
    if here:
        return [here]
    venv = folder / "venv"
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "uv"]
    for argv in ([sys.executable, "-m", "venv", venv], pip):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InstallFailed(f"uv, which makes the lock, cannot be downloaded: {done.stderr}")
    return [venv / "bin" / "uv"]
