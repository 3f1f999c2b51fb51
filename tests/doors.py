"""Every door that a process has open, and what it says to a stranger and to a foreign page.

Owns the questions; the answers are judged by the tests. Invariant: nothing here shows a secret.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

FOREIGN = "https://evil.example"
PATHS = (  # of the filer, the master, the volumes, S3: what each would tell or do
    "/",
    "/buckets/?pretty=y",
    "/buckets/printworks/images/default/?pretty=y",
    "/printworks?list-type=2",
    "/printworks/images",
    "/dir/status",
    "/vol/status",
    "/cluster/status",
    "/ui/index.html",
    "/status",
    "/healthz",
    "/metrics",
    "/debug/pprof/",
)
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # as gRPC begins: SETTINGS
PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one HTTP request."""

    port: int
    asked: str
    status: int
    origin: str | None  # whose pages may read it, or send more
    body: bytes


def open_ports(processes: Iterable[psutil.Process]) -> set[tuple[str, int]]:
    """Address and port of every listening TCP socket of these processes."""
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def sockets_for_others(processes: Iterable[psutil.Process]) -> list[str]:
    """The Unix sockets of these processes that another user of the machine may write to."""
    names = {c.laddr for p in processes for c in p.net_connections("unix") if c.laddr}
    reached = [Path(name) for name in names if name.startswith("/") and Path(name).exists()]
    return [str(path) for path in reached if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)]


def answers(port: int) -> list[Answer]:
    """Return the answers to a stranger over HTTP; a connection that is just closed gives none."""
    asked = [(method, path) for path in PATHS for method in ("GET", "OPTIONS", "POST", "DELETE")]
    return [a for method, path in asked if (a := _answer(port, method, path))]


def _answer(port: int, method: str, path: str) -> Answer | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    headers = {"Origin": FOREIGN, "Accept": "application/json"}
    if method == "OPTIONS":
        headers["Access-Control-Request-Method"] = "DELETE"
    try:
        connection.request(method, path, b"x" if method == "POST" else None, headers)
        said = connection.getresponse()
        allowed = said.headers.get("Access-Control-Allow-Origin")
        return Answer(port, f"{method} {path}", said.status, allowed, said.read(4096))
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def raw(port: int, sent: bytes) -> bytes:
    """Return the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        try:
            connection.sendall(sent)
            return connection.recv(4096)
        except OSError:
            return b""


def talks_grpc(port: int) -> bool:
    """Return True if a stranger gets an HTTP/2 answer: a SETTINGS frame (type 4)."""
    return raw(port, HTTP2)[3:4] == b"\4"


def talks_tls(port: int) -> bool:
    """Return True if a request over TLS without a client certificate is answered."""
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    blind.set_alpn_protocols(["h2", "http/1.1"])
    try:
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain,
            blind.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            wrapped.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return bool(wrapped.recv(1))  # TLS 1.3 refuses a client after its handshake
    except OSError:
        return False
