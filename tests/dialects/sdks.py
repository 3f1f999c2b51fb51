"""Environments of other services' SDKs, as their users install them: from PyPI and npm.

Owns making each once and running scripts in it. An SDK is kept apart from the service, because its
dependencies are (and a client has none of the service's). Invariant: an environment is whole or
absent; two processes that want the same one make it once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers import tool_missing

CACHE = Path.home() / ".cache" / "printworks-sdks"
INSTALL_S = 600.0
SCRIPT_S = 120.0
NOTHING: Mapping[str, str] = {}


def python_with(*requirements: str) -> Path:
    """The Python of an environment that has `requirements` (`openai==3.57.0`) and nothing else."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is None:
        tool_missing("no uv: `.venv/bin/python -m pip install -c deploy/lock.txt uv`")

    def make(folder: Path) -> None:
        _run([uv, "venv", "--python", sys.executable, "--relocatable", folder])
        _run([uv, "pip", "install", "--python", folder / "bin" / "python", *requirements])

    return _made("python", requirements, make) / "bin" / "python"


def node_with(*packages: str) -> Path:
    """A folder whose node_modules has `packages` (`openai@6.9.0`)."""
    npm = shutil.which("npm")
    if npm is None:
        tool_missing("no npm: `apt install nodejs npm`")

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        _run([npm, "install", "--no-audit", "--no-fund", "--prefix", folder, *packages])

    return _made("node", packages, make)


def run_python(
    python: Path, script: str, *arguments: str, environ: Mapping[str, str] = NOTHING
) -> Any:
    """Run `script` in an environment; returns the JSON of its last line of output."""
    return _script([str(python), "-c", script, *arguments], Path(tempfile.gettempdir()), environ)


def run_node(
    folder: Path, script: str, *arguments: str, environ: Mapping[str, str] = NOTHING
) -> Any:
    """Run `script`, an ES module, in a folder; returns the JSON of its last line of output."""
    # a module is found from where the script lies: each has a file of its own
    with tempfile.NamedTemporaryFile("w", suffix=".mjs", dir=folder) as file:
        file.write(script)
        file.flush()
        return _script(["node", file.name, *arguments], folder, environ)


def _script(argv: list[str], cwd: Path, environ: Mapping[str, str]) -> Any:
    own = {n: os.environ[n] for n in ("PATH", "HOME", "LANG") if n in os.environ}
    done = subprocess.run(
        argv,
        check=False,
        cwd=cwd,
        env=own | dict(environ),
        capture_output=True,
        text=True,
        timeout=SCRIPT_S,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def _made(kind: str, wanted: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    name = hashlib.sha256(f"{sys.version} {wanted}".encode()).hexdigest()[:16]
    folder = CACHE / f"{kind}-{name}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not folder.exists():
            half = Path(tempfile.mkdtemp(dir=CACHE)) / folder.name
            make(half)
            half.rename(folder)
            half.parent.rmdir()
    return folder


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(argv: list[str | Path]) -> None:
    done = subprocess.run(
        [str(a) for a in argv], check=False, capture_output=True, text=True, timeout=INSTALL_S
    )
    if done.returncode:
        tool_missing(f"no packages from the registry: {done.stderr.strip()[-500:]}")
