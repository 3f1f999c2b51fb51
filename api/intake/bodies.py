"""Bodies that may hold pictures: read whole, but few at a time, and never parsed whole.

Owns the limits on large bodies, and the two ways pictures travel in one: cut out of JSON before it
is parsed, and the file of a form. Knows no decoder and no store. Invariant: what JSON is parsed
from is no larger than a body without pictures may be.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request

from api.errors import BodyTimeout, IntakeBusy, PayloadTooLarge
from jobs.errors import InvalidRequest, Problem

LARGE_AT_ONCE = 8  # bodies of more than the usual size in memory together
LINE_S = 10.0  # the longest wait for a place among them
BYTES_PER_S = 256 * 1024  # slower than this, a large body is given up
CUT_AT = (
    32 * 1024
)  # strings of JSON from this length on are pictures; no other field may be so long
_BOUNDARY = re.compile(r'boundary="?([^";,]{1,200})"?')


@dataclass(frozen=True, slots=True)
class Cut:
    """JSON without its large strings: each is a token of `pictures` instead."""

    json: bytes
    pictures: dict[str, bytes]


class LargeBodies:
    """The places for large bodies."""

    def __init__(self, *, usual_bytes: int, body_timeout_s: float) -> None:
        self._usual_bytes = usual_bytes
        self._timeout_s = body_timeout_s
        self._places = asyncio.Semaphore(LARGE_AT_ONCE)

    @asynccontextmanager
    async def read(self, request: Request, *, most_bytes: int) -> AsyncGenerator[bytearray]:
        """The body, while the block runs; how large it may be is held by the edge.

        Raises BodyTimeout, IntakeBusy.
        """
        body, placed = bytearray(), False
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._usual_bytes and not placed:
                        await self._take_place()
                        placed = True
                        now_s = asyncio.get_running_loop().time()
                        limit.reschedule(now_s + self._timeout_s + most_bytes / BYTES_PER_S)
            yield body
        except TimeoutError:
            raise BodyTimeout("the body came too slowly; send it again") from None
        finally:
            if placed:
                self._places.release()

    async def _take_place(self) -> None:
        try:
            async with asyncio.timeout(LINE_S):
                await self._places.acquire()
        except TimeoutError:
            raise IntakeBusy("too many pictures arrive at once: send it again") from None


def cut_pictures(body: bytes | bytearray, *, usual_bytes: int) -> Cut:
    """JSON with its large strings cut out. Raises PayloadTooLarge where the rest is too large."""
    kept = bytearray()
    pictures: dict[str, bytes] = {}
    at = 0
    while (start := body.find(b'"', at)) >= 0:
        end = _end_of_string(body, start)
        if end - start > CUT_AT:
            token = secrets.token_hex(8)
            pictures[token] = bytes(body[start + 1 : end])
            kept += body[at : start + 1] + token.encode() + b'"'
        else:
            kept += body[at : end + 1]
        at = end + 1
        if len(kept) > usual_bytes:
            break
    else:
        kept += body[at:]
    if len(kept) > usual_bytes:
        raise PayloadTooLarge(f"at most {usual_bytes} bytes besides pictures")
    return Cut(bytes(kept), pictures)


def _end_of_string(body: bytes | bytearray, start: int) -> int:
    """Where the string that begins at `start` has its closing quote; the last byte, if nowhere."""
    end = body.find(b'"', start + 1)
    while end >= 0:
        slashes = 0
        while body[end - 1 - slashes] == 0x5C:
            slashes += 1
        if slashes % 2 == 0:
            return end
        end = body.find(b'"', end + 1)
    return len(body) - 1


def file_in_form(body: bytearray, content_type: str) -> bytes:
    """The first file of a multipart/form-data body (RFC 7578). Raises InvalidRequest."""
    match = _BOUNDARY.search(content_type)
    delimiter = b"--" + match[1].encode("latin-1") if match else b""
    start = body.find(delimiter) if match else -1
    while start >= 0:
        start += len(delimiter)
        head_end = body.find(b"\r\n\r\n", start, start + 8192)
        stop = body.find(b"\r\n" + delimiter, start)
        if head_end < 0 or stop < head_end + 2:
            break
        if b"filename" in body[start:head_end].lower():
            return bytes(body[head_end + 4 : stop])
        start = stop + 2
    raise InvalidRequest([Problem("", "no_file", "send one file: -F file=@picture.png")])
