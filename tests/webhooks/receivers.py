"""Receivers of webhooks, good and bad: real HTTP servers on 127.0.0.1, one class a character.

Owns sockets, and counts what comes. Invariant: `accepted` counts connections, whatever comes of
them; closing one ends all that it has open.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Got:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """Reads a request and answers 200. Subclasses answer otherwise."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.accepted = 0
        self.got: list[Got] = []
        self._tls = tls
        self._tasks: set[asyncio.Task] = set()
        self._news = asyncio.Event()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # an aborted transport closes its socket in the loop's next turn

    async def until(self, requests: int, within_s: float = 20) -> None:
        """Wait until so many requests have come."""
        async with asyncio.timeout(within_s):
            while len(self.got) < requests:
                self._news.clear()
                await self._news.wait()

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}/hook"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._news.set()
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                got = await self._read(reader)
                self.got.append(got)
                self._news.set()
                await self.answer(got, writer)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> Got:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (h.partition(":") for h in rest if h)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Got(line.split(" ")[1], headers, body)

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        await reply(writer, 200)


async def reply(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> None:
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()


class Answering(Receiver):
    """Answers from a list, then its last entry for ever: (status, headers, body)."""

    def __init__(self, *answers: int | tuple[int, dict[str, str]], body: bytes = b"") -> None:
        super().__init__()
        self.answers = list(answers)
        self.body = body

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        status, headers = said if isinstance(said, tuple) else (said, {})
        await reply(writer, status, self.body, headers)


class Slow(Receiver):
    """Answers 200 after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.seconds)
        await reply(writer, 200)


class Silent(Receiver):
    """Takes the connection and never says anything."""

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()


class TricklingHead(Receiver):
    """One byte of a header at a time, for ever: every read is in time, the answer never is."""

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)


class TricklingBody(Receiver):
    """A status at once, then a body that never ends, a byte at a time."""

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)


class Endless(Receiver):
    """A body of 1 GB, as fast as it goes; `sent` says how much went out."""

    sent = 0

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        total, chunk = 10**9, b"x" * 65_536
        writer.write(f"HTTP/1.1 500 No\r\ncontent-length: {total}\r\n\r\n".encode())
        while self.sent < total:
            writer.write(chunk)
            await writer.drain()
            self.sent += len(chunk)


class GzipBomb(Receiver):
    """64 MB of zeros as 64 KB of gzip."""

    bomb = gzip.compress(bytes(64_000_000), 1)

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        await reply(writer, 200, self.bomb, {"content-encoding": "gzip"})


class HugeHead(Receiver):
    """Headers without end."""

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for i in range(10_000):
            writer.write(f"x-{i}: {'y' * 1000}\r\n".encode())
            await writer.drain()


class Garbage(Receiver):
    """No HTTP at all."""

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\xff220 smtp.example ESMTP\r\n" * 4)
        await writer.drain()


class Resetting(Receiver):
    """Resets the connection instead of answering."""

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


class Hanging(Receiver):
    """Closes without an answer."""

    async def answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        return
