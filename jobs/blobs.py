"""Pictures in S3: put, stream, presign, delete. The only importer of boto3.

Owns the client's settings (SigV4 forced, short timeouts, three attempts) and the split between
the endpoint we use and the one clients reach. Invariant: every failure of the store is a
BlobsUnavailable; a missing object is a BlobMissing.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from jobs.errors import BlobsUnavailable
from jobs.settings import RoleSettings

MAX_PRESIGN_S = 3600  # a presigned URL needs no key: an hour is enough to fetch one picture
CHUNK_BYTES = 64 * 1024
_MD5 = re.compile(r"[0-9a-f]{32}$")
# S3 would wait 60 s by default; a picture is stored or given up in about half a minute.
_CONFIG = Config(
    signature_version="s3v4",  # custom endpoints get the old SigV2 for presigning otherwise
    s3={"addressing_style": "path"},
    connect_timeout=2,
    read_timeout=10,
    retries={"total_max_attempts": 3, "mode": "standard"},
    max_pool_connections=32,
)


class BlobMissing(BlobsUnavailable):
    """There is no such object (any more)."""

    code = "blob_missing"
    retryable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobStream:
    """An object, or a range of it, being read. Iterate `chunks` to the end, or `close`."""

    content_type: str
    etag: str
    length: int  # bytes that `chunks` will yield
    content_range: str | None  # as in the HTTP header, where a range was asked for
    body: Any

    def chunks(self) -> Iterator[bytes]:
        """The bytes, CHUNK_BYTES at a time. Raises BlobsUnavailable where they end too soon."""
        try:
            with _translated():
                yield from self.body.iter_chunks(CHUNK_BYTES)
        finally:
            self.body.close()

    def close(self) -> None:
        """Give the connection back without reading on."""
        self.body.close()


class Blobs:
    """One bucket. Thread-safe, as boto3's clients are; every call blocks."""

    def __init__(self, settings: RoleSettings) -> None:
        secret = settings.s3_secret_key
        common = {
            "region_name": settings.s3_region,
            "aws_access_key_id": settings.s3_access_key,
            "aws_secret_access_key": secret.get_secret_value() if secret else None,
            "config": _CONFIG,
        }
        session: Any = boto3.Session()
        public = settings.s3_public_endpoint or settings.s3_endpoint
        self.bucket = settings.s3_bucket
        self._client: Any = session.client("s3", endpoint_url=settings.s3_endpoint, **common)
        # SigV4 signs the host: a URL for clients is signed for the host that clients use
        self._public: Any = session.client("s3", endpoint_url=public, **common)

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store `data`; overwriting is harmless, since a key's bytes are always the same.

        Raises BlobsUnavailable, too, where the store answers that it has stored other bytes:
        boto3 lets that pass (measured).
        """
        with _translated():
            said = self._client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType=content_type
            )
        if not _says_the_same(said, data):
            raise BlobsUnavailable(f"the picture store has stored other bytes of {key}")

    def open(self, key: str, byte_range: str | None = None) -> BlobStream:
        """Read an object, or `byte_range` of it (an HTTP Range value, such as bytes=0-99)."""
        extra = {"Range": byte_range} if byte_range else {}
        with _translated():
            got = self._client.get_object(Bucket=self.bucket, Key=key, **extra)
        return BlobStream(
            content_type=got["ContentType"],
            etag=got["ETag"],
            length=got["ContentLength"],
            content_range=got.get("ContentRange"),
            body=got["Body"],
        )

    def presign(self, key: str, *, content_type: str, expires_s: int = MAX_PRESIGN_S) -> str:
        """A URL that reads this one object for `expires_s` seconds (at most MAX_PRESIGN_S)."""
        if not 1 <= expires_s <= MAX_PRESIGN_S:
            raise ValueError(f"expires_s is from 1 to {MAX_PRESIGN_S}")
        params = {"Bucket": self.bucket, "Key": key, "ResponseContentType": content_type}
        with _translated():  # there may be no credentials to sign with
            url = self._public.generate_presigned_url(
                "get_object", Params=params, ExpiresIn=expires_s
            )
        return str(url)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are gone already do not matter."""
        for start in range(0, len(keys), 1000):  # S3's own limit for one call
            objects = [{"Key": key} for key in keys[start : start + 1000]]
            with _translated():
                self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True}
                )

    def check(self) -> None:
        """Raise BlobsUnavailable, with the reason, unless the bucket answers."""
        with _translated():
            self._client.head_bucket(Bucket=self.bucket)

    def ensure_bucket(self) -> None:
        """Make the bucket where it is missing: for one-machine installations and tests."""
        try:
            self.check()
        except BlobMissing:
            with _translated():
                self._client.create_bucket(Bucket=self.bucket)


def _says_the_same(said: Any, data: bytes) -> bool:
    """Whether what the store answers to a PUT fits these bytes, as far as it says anything."""
    crc32 = said.get("ChecksumCRC32")
    if crc32 is not None:
        return crc32 == base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    etag = str(said.get("ETag", "")).strip('"')
    if not etag:  # every store names what it has stored; a 200 that does not is no yes
        return False
    # Only a plain object's ETag is the MD5 of its bytes; encrypted by the store it may not be.
    if not _MD5.match(etag) or said.get("ServerSideEncryption"):
        return True
    return etag == hashlib.md5(data, usedforsecurity=False).hexdigest()


@contextmanager
def _translated() -> Generator[None]:
    """boto3's errors as ours: callers decide by class, never by botocore's strings."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in {"404", "NoSuchKey", "NoSuchBucket"}:
            raise BlobMissing(f"the picture store has no such object or bucket ({code})") from error
        raise BlobsUnavailable(f"the picture store refuses: {code}") from error
    except BotoCoreError as error:
        raise BlobsUnavailable(f"the picture store is away: {type(error).__name__}") from error
