"""The embedded servers keep what they acknowledged, and nothing of theirs is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from redis import Redis

from deploy import servers
from deploy.service import Service, ServiceError, free_port
from jobs.blobs.s3 import BlobsUnavailable, S3Blobs
from jobs.settings import RoleSettings
from tests.helpers import gone, wait_until


def test_valkey_keeps_an_acknowledged_write_over_a_sigkill(
    valkey_server: servers.Valkey, redis: Redis
) -> None:
    redis.set("kept", "yes", ex=60)

    valkey_server.kill()
    valkey_server.start()
    valkey_server.wait_ready()

    assert redis.get("kept") == b"yes"


def test_valkey_refuses_a_stranger(valkey_server: servers.Valkey) -> None:
    port = int(valkey_server.url.rsplit(":", 1)[1].split("/")[0])

    assert not servers.redis_ping(port, "guess")
    assert servers.redis_ping(port, valkey_server.url.split("@")[0].rsplit(":", 1)[1])


def test_seaweedfs_stores_a_picture_and_refuses_a_wrong_secret(
    blobs: S3Blobs, s3_settings: dict[str, str]
) -> None:
    blobs.put("a/b.png", b"pixels", "image/png")
    stranger = S3Blobs(RoleSettings.model_validate({**s3_settings, "s3_secret_key": "guess"}))

    stored = blobs.open("a/b.png")

    assert (b"".join(stored.chunks()), stored.content_type) == (b"pixels", "image/png")
    with pytest.raises(BlobsUnavailable, match="refuses"):
        stranger.open("a/b.png")


def test_seaweedfs_leaves_no_socket_behind(tmp_path: Path) -> None:
    server = servers.seaweedfs(tmp_path / "s3", access_key="k", secret_key="s")
    server.start()
    server.wait_ready()

    server.kill()

    ports = {str(p + extra) for p in server.ports.values() for extra in (0, servers.GRPC_OFFSET)}
    left = Path(tempfile.gettempdir()).glob("seaweedfs-*.sock")
    assert not [path for path in left if path.stem.rsplit("-", 1)[1] in ports]


def test_a_service_that_ends_at_once_is_reported_with_what_it_printed(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no such port')"]
    service = Service(name="broken", argv=argv, log=tmp_path / "log", ready=lambda: False)

    service.start()

    with pytest.raises(ServiceError, match="broken ended with 1:\nno such port"):
        service.wait_ready()


def test_a_service_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print('up', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    service = Service(
        name="stubborn",
        argv=[sys.executable, "-c", stubborn],
        log=log,
        ready=lambda: "up" in log.read_text(),
        stop_s=0.1,
    )
    service.start()
    service.wait_ready()
    family = [psutil.Process(service.pid), *psutil.Process(service.pid).children()]

    service.stop()

    assert len(family) == 2
    wait_until(lambda: all(map(gone, family)), "the whole family is gone")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_no_service_survives_a_sigkill_of_the_process_that_started_it(tmp_path: Path) -> None:
    parent = (
        "import sys, time; from pathlib import Path; from deploy.service import Service;"
        "s = Service(name='child', argv=[sys.executable, '-c', 'import time; time.sleep(60)'],"
        f"log=Path({str(tmp_path / 'log')!r}), ready=lambda: True); s.start();"
        "print(s.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))

        os.kill(process.pid, signal.SIGKILL)

        wait_until(lambda: gone(child), "the child is gone")


def test_free_ports_are_never_handed_out_twice() -> None:
    ports = [free_port(servers.GRPC_OFFSET) for _ in range(20)]

    assert len(set(ports)) == 20
