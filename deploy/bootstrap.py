"""Make `.venv` and install what pyproject.toml asks for: again only when that has changed.

Owns `.venv` and its marker. Standard library only: it runs before anything is installed.
Invariants: an interrupted installation is never taken for a finished one; on Linux without an
NVIDIA driver no CUDA library (2.5 GB of them) is fetched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "api,worker,courier,client,local"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index
MARKER = "printworks-installed.json"
_TELLING = re.compile(
    r"^\s*(Collecting|Downloading|Installing collected|Building|Using cached) ?(\S*)"
)


class InstallFailed(Exception):
    """pip or venv failed; the message has the end of what it said."""


def ensure(*, dev: bool, root: Path = ROOT) -> Path:
    """The Python of `root`/.venv, with everything installed (`dev`: the tools of tests too)."""
    venv = root / ".venv"
    python = venv / "bin" / "python"
    wanted = _fingerprint(root, python, dev=dev)
    if _installed(venv, wanted):
        return python
    progress = Progress()
    venv.mkdir(exist_ok=True)
    with _alone(venv, progress):
        if _installed(venv, _fingerprint(root, python, dev=dev)):
            return python  # by the one we waited for
        log = venv / "install.log"
        log.write_text("")
        if not python.exists():
            progress.show("making .venv")
            _run([sys.executable, "-m", "venv", venv], log, progress)
        _install(root, python, log, progress, dev=dev)
        _mark(venv, _fingerprint(root, python, dev=dev), dev=dev)
    progress.say(f"installed in .venv  ({progress.seconds:.0f} s)")
    return python


def _install(root: Path, python: Path, log: Path, progress: Progress, *, dev: bool) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    pip = [python, "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check"]
    torch = next(r for r in project["project"]["optional-dependencies"]["worker"] if "torch==" in r)
    if sys.platform == "linux" and not nvidia_driver():
        _install_cpu_torch(pip, torch, log, progress)
    tools: list[str] = project["dependency-groups"]["dev"] if dev else []
    # `pip --group` came with pip 25.1; a fresh venv of Python 3.11 has 23
    _run([*pip, "-e", f"{root}[{EXTRAS}]", *tools], log, progress)


def _install_cpu_torch(
    pip: Sequence[str | Path], torch: str, log: Path, progress: Progress
) -> None:
    """torch alone first, by its exact `+cpu` version, so that pip cannot prefer the CUDA build.

    One try at PyTorch's index: where it cannot be reached, pip's own sources may have the wheel.
    """
    source = ["--extra-index-url", CPU_WHEELS, "--retries", "1"]
    try:
        _run([*pip, "--no-deps", *source, f"{torch}+cpu"], log, progress)
    except InstallFailed:
        progress.say("No CPU build of torch to be had; taking PyPI's, with CUDA (3 GB).")


def nvidia_driver() -> bool:
    """Whether this machine can run CUDA (under WSL the driver is Windows' own)."""
    marks = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")
    return any(Path(mark).exists() for mark in marks)


def _fingerprint(root: Path, python: Path, *, dev: bool) -> dict[str, str]:
    """What an installation depends on; the folder too, since it is an editable one."""
    version = python.resolve().name if python.exists() else ""
    config = root / ".venv" / "pyvenv.cfg"
    text = (root / "pyproject.toml").read_bytes() + str(root).encode() + version.encode()
    text += config.read_bytes() if config.exists() else b""
    return {"dev" if dev else "base": hashlib.sha256(text).hexdigest()}


def _installed(venv: Path, wanted: dict[str, str]) -> bool:
    try:
        marked = json.loads((venv / MARKER).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return all(marked.get(name) == value for name, value in wanted.items())


def _mark(venv: Path, done: dict[str, str], *, dev: bool) -> None:
    """Note what is installed; with the tools, the base is there as well."""
    value = next(iter(done.values()))
    (venv / MARKER).write_text(json.dumps({"base": value, **({"dev": value} if dev else {})}))


@contextmanager
def _alone(venv: Path, progress: Progress) -> Generator[None]:
    """One installation at a time; the lock goes with the process."""
    with (venv / ".installing").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.show("waiting for another installation to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(argv: Sequence[str | Path], log: Path, progress: Progress) -> None:
    """Run one step of the installation, showing what it is at. Raises InstallFailed."""
    started = time.monotonic()
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (
        log.open("a") as out,
        subprocess.Popen(
            [str(part) for part in argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            out.write(line)
            if telling := _TELLING.match(line):
                package = telling[2].rsplit("/", 1)[-1].split("-")[0]
                progress.show(f"installing: {telling[1].lower()} {package}".rstrip())
        out.write(f"--- {time.monotonic() - started:.1f} s\n")
    if process.returncode:
        progress.clear()
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise InstallFailed(f"{tail}\n\n{_advice(tail)}The whole output: {log}")


def _advice(tail: str) -> str:
    if "ensurepip" in tail:  # Debian and Ubuntu split venv off
        return "This Python has no venv: apt install python3-venv (Debian, Ubuntu).\n"
    if "No matching distribution" in tail or "ConnectionError" in tail:
        return "pip could not fetch a package: is there a network, a proxy, a pip.conf?\n"
    return ""
