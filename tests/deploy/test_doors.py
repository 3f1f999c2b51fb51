"""A1: what the embedded servers open is closed to strangers and to foreign pages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import servers
from tests import doors

NOT_S3 = "master", "volume", "filer", "admin"


@pytest.fixture(scope="module")
def stored(seaweedfs_server: servers.SeaweedFS) -> psutil.Process:
    """The process of a SeaweedFS."""
    return psutil.Process(seaweedfs_server.pid)


@pytest.fixture(scope="module")
def beside_s3(seaweedfs_server: servers.SeaweedFS, stored: psutil.Process) -> set[int]:
    """Every port that SeaweedFS opens beside the one that we use."""
    ports = {port for _, port in doors.open_ports([stored])}
    assert seaweedfs_server.ports["s3"] in ports
    assert len(ports) >= 8  # master, volume, filer, their gRPC, and that of S3 and of admin
    return ports - {seaweedfs_server.ports["s3"]}


def test_only_loopback_is_listened_on(
    stored: psutil.Process, valkey_server: servers.Valkey
) -> None:
    found = doors.open_ports([stored, psutil.Process(valkey_server.pid)])

    assert {address for address, _ in found} == {"127.0.0.1"}


def test_no_port_beside_s3_answers_without_a_certificate(beside_s3: set[int]) -> None:
    told = [answer for port in beside_s3 for answer in doors.answers(port)]

    # Go's server says in plain HTTP that it wants TLS, and nothing else
    assert {(a.status, a.origin) for a in told} <= {(400, None)}, told
    assert all(b"HTTPS server" in answer.body for answer in told)
    assert not [port for port in beside_s3 if doors.talks_grpc(port)]
    assert not [port for port in beside_s3 if doors.talks_tls(port)]


def test_s3_tells_a_stranger_and_a_foreign_page_nothing(
    seaweedfs_server: servers.SeaweedFS,
) -> None:
    told = doors.answers(seaweedfs_server.ports["s3"])

    allowed = [answer for answer in told if answer.status < 400]
    assert {a.asked for a in allowed} <= {"GET /healthz", "GET /status"}, allowed
    assert not any(answer.body for answer in allowed)
    # SeaweedFS's own constant `*`: outside of buckets, on refusals and on what is empty
    readable = [answer for answer in told if answer.origin]
    assert not [a for a in readable if "printworks" in a.asked and a.status != 405], readable
    assert not [a for a in readable if a.body and a.status < 400]
    # so a page cannot send a key, or anything else that a browser asks about before
    assert not [a for a in readable if a.asked.startswith("OPTIONS")]
    assert not doors.talks_tls(seaweedfs_server.ports["s3"])


def test_valkey_tells_a_stranger_nothing(valkey_server: servers.Valkey) -> None:
    port = int(valkey_server.url.rsplit(":", 1)[1].split("/")[0])

    for sent in (b"PING\r\n", b"KEYS *\r\n", b"*1\r\n$4\r\nINFO\r\n", b"CONFIG GET *\r\n"):
        assert doors.raw(port, sent).startswith(b"-NOAUTH")
    assert not doors.answers(port)


@pytest.fixture
def careless() -> Iterator[None]:
    """A terminal whose umask gives everything to everybody."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("careless")
def test_no_unix_socket_and_no_key_is_for_other_users(tmp_path: Path) -> None:
    server = servers.seaweedfs(tmp_path / "s3", access_key="k", secret_key="s")
    server.start()
    try:
        server.wait_ready()
        found = doors.sockets_for_others([psutil.Process(server.pid)])
    finally:
        server.kill()

    assert not found
    key = tmp_path / "s3" / "certificates" / "key.pem"
    assert key.stat().st_mode & 0o077 == 0
