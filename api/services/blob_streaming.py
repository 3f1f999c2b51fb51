"""Streaming of objects from object storage to a client.

Owns byte ranges (RFC 9110 14) and reads in threads, one chunk at a time, so that neither slow
storage nor a slow client blocks the loop. Knows no record. Invariant: never more than a chunk in
memory, and a stream is closed whatever happens to the client.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import anyio.to_thread

from api.errors import RangeNotSatisfiable
from api.services.container import Services
from jobs.blobs import BlobStream

# An image never changes while it exists, but can be deleted: only its owner may cache it.
CACHING = "private, max-age=3600"
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


def byte_range(header: str | None, total_bytes: int) -> str | None:
    """Convert the Range header to S3's form; None: the whole. Raises RangeNotSatisfiable.

    A header with several ranges, or in another unit, may be ignored (RFC 9110 14.2), and is.
    """
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if not match or match[1] == match[2] == "":
        return None
    first, last = match[1], match[2]
    if (first and int(first) >= total_bytes) or (not first and int(last) == 0):
        raise RangeNotSatisfiable(total_bytes)
    if first and last and int(last) < int(first):
        return None  # not a valid range: ignored
    return f"bytes={first}-{last}"


async def open_blob(services: Services, key: str, span: str | None = None) -> BlobStream:
    """Open an object, or a byte range of it (as `byte_range` returns), in a thread."""
    return await anyio.to_thread.run_sync(
        services.blobs.open, key, span, limiter=services.blob_threads
    )


async def close_blob(services: Services, stream: BlobStream) -> None:
    """Close a stream that is not read to its end, in a thread."""
    await anyio.to_thread.run_sync(stream.close, limiter=services.blob_threads)


async def chunks_of(
    services: Services, stream: BlobStream, *, tenant: str
) -> AsyncGenerator[bytes]:
    """Yield the stream, each read in a thread; counted as a download, and closed in any case."""
    chunks = stream.chunks()
    try:
        with services.downloads.counted(tenant):
            while chunk := await anyio.to_thread.run_sync(
                next, chunks, b"", limiter=services.blob_threads
            ):
                yield chunk
    finally:
        stream.close()
