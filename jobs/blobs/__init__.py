"""Object storage: the protocol of every backend, and the choice of one.

Owns the calls that the rest of the project makes. Knows no backend but by name: each is a file of
this folder, and a line in `open_blobs`. Invariant: every failure of a store is a BlobsUnavailable,
a missing object is a BlobMissing, and calls block: callers give them threads of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from jobs.settings import RoleSettings

MAX_PRESIGN_S = 3600  # a presigned URL needs no key: an hour is enough to fetch one image


class BlobStream(Protocol):
    """An object, or a range of it, being read. Iterate `chunks` to the end, or `close`."""

    @property
    def content_type(self) -> str:
        """The type that the object was stored with."""
        ...

    @property
    def etag(self) -> str:
        """The object's ETag, as in the HTTP header."""
        ...

    @property
    def length(self) -> int:
        """The number of bytes that `chunks` will yield."""
        ...

    @property
    def content_range(self) -> str | None:
        """The range, as in the HTTP header, where one was asked for."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes, some 64 KiB at a time. Raises BlobsUnavailable where they end early."""
        ...

    def close(self) -> None:
        """Give the connection back without reading on."""
        ...


class BlobStore(Protocol):
    """One bucket of one store. Thread-safe."""

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store `data`, whole and as it is, or raise BlobsUnavailable."""
        ...

    def open(self, key: str, byte_range: str | None = None) -> BlobStream:
        """Read an object, or `byte_range` of it (an HTTP Range value, such as bytes=0-99)."""
        ...

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes; None: it is not there."""
        ...

    def presign(
        self,
        key: str,
        *,
        content_type: str,
        file_name: str,
        method: Literal["GET", "HEAD"] = "GET",
        expires_s: int = MAX_PRESIGN_S,
    ) -> str:
        """Return a URL that reads this one object for `expires_s` seconds, by `method` alone.

        Raises BlobsUnavailable where the store cannot sign.
        """
        ...

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Remove objects; return those that may still be there, and why. Never raises."""
        ...

    def check(self) -> None:
        """Raise BlobsUnavailable, with the reason, unless the store answers."""
        ...


def open_blobs(settings: RoleSettings) -> BlobStore:
    """Return the store that the settings name: S3, or a store with its protocol."""
    from jobs.blobs.s3 import S3Blobs  # noqa: PLC0415 - boto3 is loaded where a store is opened

    return S3Blobs(settings)
