"""The machine of a run: commit, device, driver, libraries, and versions that differ from the pins.

Owns the reading of it. Needs the standard library alone until `device_facts`, so that a machine
on which nothing of ours is installed is told what it lacks.
"""

from __future__ import annotations

import platform
import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_NAME = re.compile(r"^[A-Za-z0-9_.-]+")


def wanted() -> dict[str, str]:
    """Name and version specifier of what the engine runs on, as pyproject.toml pins it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for line in project["dependencies"] if line.startswith("pydantic")]
    lines += project["optional-dependencies"]["worker"]
    names = [(match[0], line[match.end() :]) for line in lines if (match := _NAME.match(line))]
    return dict(names)


def differing() -> dict[str, str]:
    """Of what is wanted, what is not there, or is there in another version."""
    found: dict[str, str] = {}
    for name, specifier in wanted().items():
        try:
            there = version(name)
        except PackageNotFoundError:
            found[name] = f"missing (wanted {specifier})"
            continue
        if not _agrees(there, specifier):
            found[name] = f"is {there} (wanted {specifier})"
    return found


def _agrees(there: str, specifier: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # nearly everything brings it; without it: only what is pinned can be told
        return not specifier.startswith("==") or there.split("+")[0] == specifier[2:]
    return SpecifierSet(specifier).contains(there.split("+")[0], prereleases=True)


def commit() -> str:
    """Return the commit of the clone, and whether files differ from the commit."""
    head = said("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not head:
        return "unknown: no git, or no clone"
    changed = said("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{head}{' with changes' if changed else ''}"


def said(*argv: str) -> str:
    """Return a program's output; empty if the program is missing or fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def device_facts(device: Any) -> dict[str, Any]:
    """Return the device, its libraries, and the switches that change its bits."""
    import torch

    facts: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if device.type != "cuda":
        return facts | {"device": f"CPU, {torch.get_num_threads()} threads", **_versions()}
    card = torch.cuda.get_device_properties(device)
    query = "--query-gpu=driver_version,power.limit,clocks.max.sm"
    return facts | {
        "device": card.name,
        "capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count,
        "memory_gib": round(card.total_memory / 2**30, 1),
        "driver": said("nvidia-smi", query, "--format=csv,noheader") or "no nvidia-smi",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": {
            "matmul": torch.backends.cuda.matmul.allow_tf32,
            "cudnn": torch.backends.cudnn.allow_tf32,
        },
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        **_versions(),
    }


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("diffusers", "transformers", "greenlet", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
