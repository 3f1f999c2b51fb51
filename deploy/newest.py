"""Tests with the newest versions that pyproject.toml allows, in an environment of their own.

    python3 deploy newest [arguments of pytest]

So a refresh of the lock is a decision and no accident: the tests show beforehand what would break.
Owns `.venv-newest`, which no other module uses.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from deploy.bootstrap import make
from deploy.installer import LOCK
from deploy.lock import pins
from deploy.progress import Progress

VENV = ".venv-newest"
# Tests that depend on other packages' internals: RQ's private keys, diffusers' and transformers'
# pipelines, peft, and the whole API on its web framework; and images from a real `up`.
TELLING = (
    "tests/contract",
    "tests/unit",
    "tests/api",
    "tests/client",
    "tests/engine/test_families.py",
    "tests/engine/test_loras.py",
    "tests/engine/test_controlnet.py",
    "tests/engine/test_samplers.py",
    "tests/engine/test_models_command.py",
    "tests/e2e/test_loras.py",
)


def install(root: Path) -> Path:
    """Install the newest of everything; return the Python that has it. Raises InstallFailed."""
    progress = Progress()
    installer = make(root / VENV, root, progress, newest=True)
    installer.install(["dev"])
    newer = differences(root, installer.python)
    progress.say(f"packages of {VENV} with another version than the lock's: {len(newer)}")
    for line in newer:
        print(f"  {line}", flush=True)
    return installer.python


def differences(root: Path, python: Path) -> list[str]:
    """Return packages with another version than the lock's, as `name: lock -> here`."""
    ask = "import json; from importlib.metadata import distributions as d"
    ask += "; print(json.dumps({x.name: x.version for x in d()}))"
    told = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
    here = {n.lower().replace("_", "-").replace(".", "-"): v for n, v in json.loads(told).items()}
    locked = pins((root / LOCK).read_text(encoding="utf-8"))
    return [
        f"{name}: {', '.join(version for version, _ in said)} -> {here[name]}"
        for name, said in locked.items()
        if name in here and here[name].split("+")[0] not in {version for version, _ in said}
    ]
