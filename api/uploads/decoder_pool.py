"""Pool of decoder processes: a few, started when first needed, killed when too slow.

Owns their pipes and time limits. Knows no image format. Invariant: whatever an image does to its
decoder (hang, crash, eat memory), the API's loop never waits, the next image is decoded, and
another tenant's image finds a decoder free.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from api.errors import IntakeBusy
from api.uploads.tenant_places import Turns
from jobs.settings import ROOT

log = logging.getLogger(__name__)
PROCESSES = 3  # one tenant has at most two of them: the third is started for another tenant
DECODE_S = 20.0  # wall time; the decoder itself bounds its CPU time, which is less
END_S = 1.0  # a process that closed its pipe is over by then
LINE_S = 10.0  # the longest wait for a free decoder; then 503
PROGRAM = (sys.executable, "-m", "api.uploads.decoder")
MAX_ANSWER_LINE = 64 * 1024
PIECE = 256 * 1024  # bytes that go through a pipe in one turn of the loop
Bytes = bytes | bytearray


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """A decoded image as it is stored: size, hash, changes, PNG."""

    width: int
    height: int
    pixel_sha256: str
    changes: tuple[str, ...]
    png: Bytes

    @property
    def id(self) -> str:
        """Input ID of the image (jobs/contract/input_images.py)."""
        return f"{self.width}x{self.height}-{self.pixel_sha256}"


class Undecodable(Exception):
    """The decoder refused an image, or crashed on it."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(detail)


class Decoders:
    """A few decoder processes and the queue for them."""

    def __init__(
        self,
        *,
        max_pixels: int,
        processes: int = PROCESSES,
        decode_s: float = DECODE_S,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._max_pixels = max_pixels
        self._program = program
        self._decode_s = decode_s
        self._free: list[Process] = []
        self._turns = Turns(processes, most_each=max(1, processes - 1))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._free:
            await _end(self._free.pop())

    async def decode(
        self,
        data: Bytes,
        *,
        tenant: str,
        max_bytes: int,
        base64: bool = False,
        background: str | None = None,
    ) -> Pixels:
        """Decode an image to plain pixels. Raises Undecodable, IntakeBusy."""
        return await self._ask(
            {"what": "decode", "base64": base64, "max_bytes": max_bytes, "background": background},
            data,
            tenant,
        )

    async def resize(self, png: bytes, *, tenant: str, width: int, height: int, how: str) -> Pixels:
        """Resize a PNG that this service wrote. Raises Undecodable, IntakeBusy."""
        return await self._ask(
            {"what": "resize", "width": width, "height": height, "how": how}, png, tenant
        )

    async def _ask(self, question: dict[str, Any], data: Bytes, tenant: str) -> Pixels:
        async with self._turn(tenant):
            process = self._free.pop() if self._free else await self._start()
            kept = False
            try:
                async with asyncio.timeout(self._decode_s):
                    answer, png = await _exchange(process, question, data)
                kept = answer.get("code") != "too_large"  # its memory is fragmented: replace it
            except TimeoutError:
                log.warning("decoder.too_slow", extra={"pid": process.pid})
                raise Undecodable(
                    "too_slow", "the image takes too long to decode: send a smaller one"
                ) from None
            except (asyncio.IncompleteReadError, ConnectionError, ValueError):
                if await _ended(process) == -signal.SIGXCPU:
                    log.warning("decoder.too_slow", extra={"pid": process.pid})
                    raise Undecodable(
                        "too_slow", "the image takes too long to decode: send a smaller one"
                    ) from None
                log.warning("decoder.died", extra={"pid": process.pid})
                raise Undecodable(
                    "unreadable", "the image cannot be decoded: save it again"
                ) from None
            finally:
                if kept:
                    self._free.append(process)
                else:
                    await _end(process)
        if "code" in answer:
            raise Undecodable(answer["code"], answer["detail"])
        answer["changes"] = tuple(answer["changes"])
        return Pixels(**answer, png=png)

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncGenerator[None]:
        async with AsyncExitStack() as turn:
            try:
                await turn.enter_async_context(self._turns.take(tenant, timeout_s=LINE_S))
            except TimeoutError:
                raise IntakeBusy(
                    "too many images are being decoded: send the request again"
                ) from None
            yield

    async def _start(self) -> Process:
        # PYTHONPATH and PATH, and nothing else of the environment: no key and no password is in it.
        environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ.get("PATH", "")}
        return await asyncio.create_subprocess_exec(
            *self._program, str(self._max_pixels), stdin=PIPE, stdout=PIPE, env=environ,
            limit=MAX_ANSWER_LINE,
        )  # fmt: skip


async def _exchange(
    process: Process, question: dict[str, Any], data: Bytes
) -> tuple[dict[str, Any], bytearray]:
    """Send a request, read the response, in pieces: a copy of 48 MB blocks the loop for 20 ms."""
    assert process.stdin, "made with pipes"
    assert process.stdout, "made with pipes"
    line = json.dumps({**question, "bytes": len(data)}).encode() + b"\n"
    process.stdin.write(line)
    for at in range(0, len(data), PIECE):
        process.stdin.write(memoryview(data)[at : at + PIECE])
        await process.stdin.drain()
    answer: dict[str, Any] = json.loads(await process.stdout.readline() or b"x")
    png, size = bytearray(), answer.pop("bytes")
    while len(png) < size:
        piece = await process.stdout.read(min(PIECE, size - len(png)))
        if not piece:
            raise ConnectionResetError("the decoder ended in its answer")
        png += piece
    return answer, png


async def _ended(process: Process) -> int:
    """Return the exit status of a process that has closed its pipe.

    It is waited for before it is killed: `Process.kill` polls, and where the process is over it
    takes the exit status away from asyncio's own watcher, which then reports 255.
    """
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), END_S)
    return await _end(process)


async def _end(process: Process) -> int:
    """Kill the process unless it has ended; return its exit status."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    return await process.wait()
