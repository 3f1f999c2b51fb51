"""Installation of packages into an environment, with its own pip, or with uv if it has none.

Owns the command lines of pip and uv, and the log of their output. Standard library only.
Invariants: every package of the lock is installed in the lock's version; on Linux without an NVIDIA
driver no CUDA library (2.5 GB of them) is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.narrator import Narrator
from deploy.progress import Progress
from deploy.requirements import ONE_MACHINE, group, requirements

LOCK = Path("deploy", "lock.txt")
CLIENT = Path("client")  # a distribution of its own
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index
BUILD = "build"  # the dependency group that builds the project itself
# exactly what is named, without a build environment into which pip would fetch the newest
ALONE = "--no-build-isolation"


class InstallFailed(Exception):
    """A failed installation; the message has the end of the output, and what to do next."""


@dataclass(frozen=True)
class Installer:
    """An installer of the project in `root` into the environment of `python`."""

    root: Path
    python: Path
    log: Path
    progress: Progress
    newest: bool = False  # of everything that pyproject.toml allows, instead of the lock's
    narrator: Narrator = field(default_factory=Narrator)

    def install(self, groups: Sequence[str]) -> None:
        """Install the project as editable, its extras, and dependency `groups`.

        Raises InstallFailed, with the installer's last lines.
        """
        command = self._pip() or self._uv()
        self.log.write_text("")
        pyproject = self.root / "pyproject.toml"
        self.run([*command, *group(pyproject, BUILD)])
        if command[0] == self.python and sys.platform == "linux" and not nvidia_driver():
            self._cpu_torch(command, pyproject)  # uv decides by itself: `torch-backend`
        tools = [line for name in groups for line in group(pyproject, name)]
        service = f"{self.root}[{','.join(ONE_MACHINE)}]"
        client = f"{self.root / CLIENT}[cli]"
        self.run([*command, ALONE, "-e", service, "-e", client, *tools])

    def _pip(self) -> list[str | Path] | None:
        """Return the start of pip's command line, or None where the environment has none."""
        look = [self.python, "-c", "import pip"]
        if subprocess.run(look, capture_output=True, check=False).returncode:
            return None
        pip = [self.python, "-m", "pip", "install", "--progress-bar", "off"]
        newest = ["--upgrade", "--upgrade-strategy", "eager"]
        return [*pip, "--disable-pip-version-check", *self._versions(newest)]

    def _uv(self) -> list[str | Path]:
        """Return the start of uv's command line. Raises InstallFailed where there is no uv."""
        uv = shutil.which("uv")
        if uv is None:
            raise InstallFailed(
                f"{self.python} has no pip, and no uv is on PATH to install with.\n"
                f"Install uv, or run: {self.python} -m ensurepip"
            )
        return [uv, "pip", "install", "--python", self.python, *self._versions(["--upgrade"])]

    def _versions(self, newest: list[str]) -> list[str | Path]:
        return [*newest] if self.newest else ["-c", self.root / LOCK]

    def _cpu_torch(self, pip: Sequence[str | Path], pyproject: Path) -> None:
        """Install torch alone, by its exact `+cpu` version: pip would prefer the CUDA build.

        One try at PyTorch's index: where that cannot be reached, pip's own sources may have it.
        """
        torch = next(r for r in requirements(pyproject, ["worker"]) if r.startswith("torch=="))
        source = ["--extra-index-url", CPU_WHEELS, "--retries", "1"]
        try:
            self.run([*pip, "--no-deps", *source, f"{torch}+cpu"])
        except InstallFailed:
            self.progress.say("No CPU build of torch found; installing PyPI's, with CUDA (3 GB).")

    def run(self, argv: Sequence[str | Path]) -> None:
        """Run one step of an installation, showing its progress. Raises InstallFailed."""
        started = time.monotonic()
        with (
            self.log.open("a") as out,
            subprocess.Popen(
                [str(part) for part in argv],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.root,  # where uv looks for its settings
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                out.write(line)
                if told := self.narrator.hear(line):
                    self.progress.show(f"installing: {told}", self.narrator.so_far)
            out.write(f"--- {time.monotonic() - started:.1f} s\n")
        if process.returncode:
            self.progress.clear()
            tail = "\n".join(self.log.read_text().splitlines()[-15:])
            raise InstallFailed(f"{tail}\n\n{_advice(tail)}The whole output: {self.log}")


def nvidia_driver() -> bool:
    """Return whether this machine has an NVIDIA driver (under WSL: that of Windows)."""
    marks = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")
    return any(Path(mark).exists() for mark in marks)


def _advice(tail: str) -> str:
    if "ensurepip" in tail:  # Debian and Ubuntu split venv off
        return "This Python has no venv: apt install python3-venv (Debian, Ubuntu).\n"
    if "conflicting dependencies" in tail or "ResolutionImpossible" in tail:
        return "pyproject.toml and deploy/lock.txt disagree: run python3 deploy lock\n"
    if "No matching distribution" in tail or "ConnectionError" in tail:
        return "pip could not fetch a package: check the network, the proxy and pip.conf.\n"
    return ""
