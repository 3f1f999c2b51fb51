"""Installation of the lock's packages into `.venv`, repeated only when the lock has changed.

Owns `.venv` and its marker. Standard library only: it runs before anything is installed.
Invariants: an interrupted installation is never taken for a finished one; an environment that
another installer filled (uv, conda) is used as it is if no package is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from deploy.installer import LOCK, Installer
from deploy.progress import Progress
from deploy.requirements import ONE_MACHINE

ROOT = Path(__file__).resolve().parent.parent
MARKER = "printworks-installed.json"
LOG = "install.log"


def ensure(*, dev: bool, root: Path = ROOT) -> Path:
    """Return the Python of `root`/.venv, with everything installed (`dev`: the tools of tests too).

    Raises InstallFailed.
    """
    venv = root / ".venv"
    python = venv / "bin" / "python"
    wanted = _fingerprint(root, python, dev=dev)
    if _installed(venv, wanted) or _by_others(root, python, dev=dev):
        return python
    progress = Progress()
    venv.mkdir(exist_ok=True)
    with _alone(venv, progress):
        if _installed(venv, _fingerprint(root, python, dev=dev)):
            return python  # by the installation that held the lock
        installer = make(venv, root, progress)
        installer.install(["dev"] if dev else [])
        _mark(venv, _fingerprint(root, python, dev=dev), dev=dev)
    said = installer.narrator
    size = f"{said.installed} packages, {said.megabytes:.0f} MB"
    progress.say(f"installed {size}, in {venv.name}  ({progress.seconds:.0f} s)")
    return python


def make(venv: Path, root: Path, progress: Progress, *, newest: bool = False) -> Installer:
    """Return the installer of `venv`, which is created if missing. Raises InstallFailed."""
    python, log = venv / "bin" / "python", venv / LOG
    venv.mkdir(exist_ok=True)
    installer = Installer(root, python, log, progress, newest=newest)
    if not python.exists():
        progress.show(f"creating {venv.name}")
        installer.run([sys.executable, "-m", "venv", venv])
    return installer


def _by_others(root: Path, python: Path, *, dev: bool) -> bool:
    """Return whether another installer filled the environment, and no package is missing."""
    if not python.exists() or (root / ".venv" / LOG).exists():
        return False  # made by this module, perhaps half done: only the marker proves it complete
    ask = [python, "-m", "deploy.installed", root, ",".join(ONE_MACHINE), "dev" if dev else ""]
    told = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=False)
    return told.returncode == 0 and not told.stdout


def _fingerprint(root: Path, python: Path, *, dev: bool) -> dict[str, str]:
    """Return a digest of all that an installation depends on, the folder included (editable)."""
    version = python.resolve().name if python.exists() else ""
    config = root / ".venv" / "pyvenv.cfg"
    text = (root / "pyproject.toml").read_bytes() + (root / LOCK).read_bytes()
    text += str(root).encode() + version.encode()
    text += config.read_bytes() if config.exists() else b""
    return {"dev" if dev else "base": hashlib.sha256(text).hexdigest()}


def _installed(venv: Path, wanted: dict[str, str]) -> bool:
    try:
        marked = json.loads((venv / MARKER).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return all(marked.get(name) == value for name, value in wanted.items())


def _mark(venv: Path, done: dict[str, str], *, dev: bool) -> None:
    """Write the marker of a finished installation; with the tools, the base is installed, too."""
    value = next(iter(done.values()))
    (venv / MARKER).write_text(json.dumps({"base": value, **({"dev": value} if dev else {})}))


@contextmanager
def _alone(venv: Path, progress: Progress) -> Generator[None]:
    """Hold the lock on installations; it is released when the process ends."""
    with (venv / ".installing").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.show("waiting for another installation to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
