"""A proxy before the picture store that fails in the ways S3 fails, on command.

It passes requests on untouched (signatures cover the Host header, which stays the client's own),
unless its mode says otherwise: an error's name; "half": every second request is told to slow down;
"reset", "hang"; "truncate", "corrupt": the store gets half of the bytes, or one that is wrong;
"wrong_etag": the client is told of other bytes, and is given them when it looks; "cut": the client
gets half of an answer; "opaque_etag": the ETag is no MD5, as where a KMS encrypts. Counts what it
saw. A `rule` says which single requests are refused, as other stores than ours do; with a
certificate it speaks TLS.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ERRORS = {
    "slow_down": (503, "SlowDown"),
    "internal": (500, "InternalError"),
    "denied": (403, "AccessDenied"),
    "expired": (403, "ExpiredToken"),
    "skewed": (403, "RequestTimeTooSkewed"),
    "no_bucket": (404, "NoSuchBucket"),
    "error_in_200": (200, "InternalError"),
}
OTHER_ETAG = f'"{"0" * 32}"'
MODES = (*ERRORS, "reset", "truncate", "corrupt", "wrong_etag", "hang")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, as it came."""

    method: str
    path: str  # with its query
    headers: Mapping[str, str]
    body: bytes

    @property
    def deletes_many(self) -> bool:
        return self.method == "POST" and self.path.endswith("?delete")


Answer = tuple[int, str]  # status, and the code of S3's error or, of a 200, the whole body
Rule = Callable[[Asked], Answer | None]


class S3Proxy(ThreadingHTTPServer):
    """`mode` may be changed at any time; "ok" passes everything on that `rule` does not refuse."""

    daemon_threads = True

    def __init__(
        self, upstream: str, *, rule: Rule | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rule = rule or (lambda _asked: None)
        self.asked: list[Asked] = []
        self._scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.upstream = urlsplit(upstream).netloc
        self.mode = "ok"
        self.seen = 0
        self.cuts = 0  # answers that were cut
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_port}"

    def set(self, mode: str) -> None:
        self.mode = mode
        if mode == "ok":
            self.released.set()
        else:
            self.released.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Proxy

    def _any(self) -> None:
        self.server.seen += 1
        mode = self.server.mode
        if mode == "hang":
            self.server.released.wait(60)
            mode = "reset"
        if mode == "reset":
            # no linger: the kernel sends RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        body = self._body()
        asked = Asked(method=self.command, path=self.path, headers=self.headers, body=body)
        self.server.asked.append(asked)
        if refused := self.server.rule(asked):
            self._refuse(*refused)
            return
        if mode == "half":
            mode = "slow_down" if self.server.seen % 2 else "ok"
        if mode == "corrupt":
            middle = len(body) // 2
            body = (
                body[:middle] + bytes(b ^ 1 for b in body[middle : middle + 1]) + body[middle + 1 :]
            )
        if mode in ERRORS:
            self._refuse(*ERRORS[mode])
        else:
            self._pass_on(body[: len(body) // 2] if mode == "truncate" else body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815 - the base class's names

    def _body(self) -> bytes:
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refuse(self, status: int, code: str) -> None:
        said = f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode()
        if code.startswith("<"):
            said = code.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    def _pass_on(self, body: bytes) -> None:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=10)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body)
        if len(body) < int(self.headers.get("Content-Length", 0)):
            upstream.close()  # the store sees half a picture and a closed connection
            self.close_connection = True
            self.connection.close()
            return
        answer = upstream.getresponse()
        data = answer.read()
        lies = self.server.mode == "wrong_etag" and self.command in {"PUT", "GET"}
        if lies:
            data = bytes(b ^ 1 for b in data)
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() == "etag" and (lies or self.server.mode == "opaque_etag"):
                self.send_header(name, OTHER_ETAG)
            elif name.lower() not in {"transfer-encoding", "connection", "content-length", "date"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            cut = self.server.mode == "cut"
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = cut
            self.server.cuts += cut
        upstream.close()

    def log_message(self, *args: Any) -> None:
        """Silent."""
