"""Large request bodies with images: few at a time, split while they arrive.

Owns the limits on large bodies, and the extraction of images from JSON before parsing. Knows
no decoder and no store. Invariant: the JSON that is parsed is no larger than a body without
images may be, and no piece of work grows with the body: a body of 16 MB of escaped quotes, scanned
as a whole, blocked every request for 3.7 s.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from fastapi import Request

from api.errors import BodyTimeout, IntakeBusy, PayloadTooLarge
from api.uploads.tenant_places import Turns
from jobs.errors import InvalidRequest, Problem

LARGE_AT_ONCE = 8  # bodies of more than the usual size in memory together
LARGE_EACH = 6  # per tenant: a slow sender leaves places for others
LINE_S = 10.0  # the longest wait for a place
BYTES_PER_S = 256 * 1024  # a large body slower than this is refused
CUT_AT = 32 * 1024  # JSON strings from this length on are images; no other field may be so long


class Reader(Protocol):
    """Consumer of a body in pieces of 80 KiB at most."""

    def feed(self, piece: bytes) -> None:
        """Take the next piece. Raises InvalidRequest, PayloadTooLarge: the rest is not read."""


class Whole:
    """A whole body in memory: an image file."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        self.data += piece


class LargeBodySlots:
    """Places for large bodies in memory, shared by tenants."""

    def __init__(self, *, usual_bytes: int, body_timeout_s: float) -> None:
        self._usual_bytes = usual_bytes
        self._timeout_s = body_timeout_s
        self._places = Turns(LARGE_AT_ONCE, most_each=LARGE_EACH)

    @asynccontextmanager
    async def read(
        self, request: Request, into: Reader, *, tenant: str, most_bytes: int
    ) -> AsyncGenerator[None]:
        """Feed the body to `into`; a large one has a place until the block ends.

        The edge bounds the body's size. Raises BodyTimeout, IntakeBusy, and the errors of `into`.
        """
        total, placed = 0, False
        clock = asyncio.get_running_loop().time
        async with AsyncExitStack() as places:
            try:
                async with asyncio.timeout(self._timeout_s) as limit:
                    async for piece in request.stream():
                        total += len(piece)
                        if total > self._usual_bytes and not placed:
                            limit.reschedule(None)  # the wait for a place is not the client's fault
                            await places.enter_async_context(self._place(tenant))
                            placed = True
                            more_s = most_bytes / BYTES_PER_S
                            limit.reschedule(clock() + self._timeout_s + more_s)
                        into.feed(piece)
            except TimeoutError:
                raise BodyTimeout("the body arrived too slowly; send the request again") from None
            yield

    @asynccontextmanager
    async def _place(self, tenant: str) -> AsyncGenerator[None]:
        async with AsyncExitStack() as turn:
            try:
                await turn.enter_async_context(self._places.take(tenant, timeout_s=LINE_S))
            except TimeoutError:
                raise IntakeBusy("too many images arrive at once: send the request again") from None
            yield


@dataclass(frozen=True, slots=True)
class ExtractedImages:
    """JSON whose large strings are replaced by tokens, the keys of `pictures`."""

    json: bytes
    pictures: dict[str, bytearray]


class PictureCutter:
    """Extractor of large strings from JSON that arrives in pieces; each byte is scanned once.

    Raises PayloadTooLarge if the rest is larger than `usual_bytes`.
    """

    def __init__(self, *, usual_bytes: int) -> None:
        self._usual_bytes = usual_bytes
        self._small: bytes | None = b""  # the whole body, while no string in it can be an image
        self._kept = bytearray()
        self._pictures: dict[str, bytearray] = {}
        self._string: bytearray | None = None  # the string that has begun and not ended
        self._held_back = b""  # a backslash whose second byte is in the next piece

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        if self._small is not None:
            self._small += piece
            if len(self._small) <= min(CUT_AT, self._usual_bytes):
                return
            piece, self._small = self._small, None
        piece = self._held_back + piece
        # escapes of two bytes, gone: every quote that is left begins or ends a string
        quotes = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        self._held_back = b"\\" if quotes.endswith(b"\\") else b""
        end = len(piece) - len(self._held_back)
        at = 0
        while at < end:
            quote = quotes.find(b'"', at, end)
            stop = end if quote < 0 else quote + 1
            self._take(piece[at:stop], ended=quote >= 0)
            at = stop

    def _take(self, part: bytes, *, ended: bool) -> None:
        """Consume JSON that is all inside a string or all outside, up to its quote."""
        if self._string is None:
            self._keep(part)
            if ended:
                self._string = bytearray()
            return
        self._string += part
        if ended:
            string, self._string = self._string, None
            self._keep(self._token(string) if len(string) > CUT_AT else string)

    def _token(self, string: bytearray) -> bytes:
        """Replace a large string, closing quote included, by a token."""
        token = secrets.token_hex(8)
        del string[-1:]
        self._pictures[token] = string  # not copied: a copy of 16 MB takes 5 ms
        return token.encode() + b'"'

    def _keep(self, part: bytes | bytearray) -> None:
        self._kept += part
        if len(self._kept) > self._usual_bytes:
            raise PayloadTooLarge(f"at most {self._usual_bytes} bytes besides images")

    def cut(self) -> ExtractedImages:
        """Return the JSON and its images, after the last piece. Raises InvalidRequest."""
        if self._small is not None:
            return ExtractedImages(self._small, {})
        if self._string is not None or self._held_back:
            raise InvalidRequest([Problem("", "invalid_json", "a string in the body has no end")])
        return ExtractedImages(bytes(self._kept), self._pictures)
