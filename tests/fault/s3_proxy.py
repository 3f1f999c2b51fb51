"""A proxy before the picture store that fails in the ways S3 fails, on command.

It passes requests on untouched (signatures cover the Host header, which stays the client's own),
unless its mode says otherwise: an error's name; "half": every second request is told to slow down;
"reset", "hang"; "truncate", "corrupt": the store gets half of the bytes, or one that is wrong;
"wrong_etag": it gets them all, and the client is told of others; "cut": the client gets half of an
answer. Counts what it saw.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
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
OTHER_BYTES = {"etag": f'"{"0" * 32}"', "x-amz-checksum-crc32": "AAAAAA=="}
MODES = (*ERRORS, "reset", "truncate", "corrupt", "wrong_etag", "hang")


class S3Proxy(ThreadingHTTPServer):
    """`mode` may be changed at any time; "ok" passes everything on."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.mode = "ok"
        self.seen = 0
        self.cuts = 0  # answers that were cut
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

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
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if self.server.mode == "wrong_etag" and name.lower() in OTHER_BYTES:
                self.send_header(name, OTHER_BYTES[name.lower()])
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
