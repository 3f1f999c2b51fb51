"""Images in S3: put, stream, presign, erase. The only importer of boto3.

Owns the clients' settings (SigV4 forced, short timeouts, three attempts, nothing that only AWS
knows) and the split between the service's endpoint and the clients'. Endpoint rules are in
endpoints, erasing in erasing, errors in refusals. Invariant: every failure of the store is a
BlobsUnavailable; a missing object is a BlobMissing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import boto3
from botocore.config import Config

from jobs.blobs import MAX_PRESIGN_S
from jobs.blobs.erasing import S3Eraser
from jobs.blobs.refusals import BlobRefused, translated
from jobs.errors import BlobMissing, BlobsUnavailable
from jobs.s3_endpoints import addressing_of, is_loopback
from jobs.settings import RoleSettings

CHUNK_BYTES = 64 * 1024
PROBE = ".printworks-probe"  # an object that tells a key without the right to list what it may do
# S3 would wait 60 s by default; a picture is stored or given up in about half a minute.
_CONFIG = Config(
    signature_version="s3v4",  # custom endpoints get the old SigV2 for presigning otherwise
    # boto3 sends CRC32 trailers over TLS, in aws-chunked: OVH, Storj, R2, OCI and ONTAP answer 501.
    # What every S3 verifies is signed in its place: the SHA-256 of the body, and Content-MD5.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    connect_timeout=2,
    read_timeout=10,
    retries={"total_max_attempts": 3, "mode": "standard"},
    max_pool_connections=32,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Stream:
    """An object, or a range of it, being read. Iterate `chunks` to the end, or `close`."""

    content_type: str
    etag: str
    length: int  # bytes that `chunks` will yield
    content_range: str | None  # as in the HTTP header, where a range was asked for
    body: Any

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes, CHUNK_BYTES at a time. Raises BlobsUnavailable if they end too soon."""
        try:
            with translated():
                yield from self.body.iter_chunks(CHUNK_BYTES)
        finally:
            self.body.close()

    def close(self) -> None:
        """Give the connection back without reading on."""
        self.body.close()


class S3Blobs:
    """One bucket. Thread-safe, as boto3's clients are; every call blocks."""

    def __init__(self, settings: RoleSettings) -> None:
        endpoint = settings.s3_endpoint
        public = settings.s3_public_endpoint or endpoint
        self.bucket = settings.s3_bucket
        self._client = _client(settings, endpoint)
        # SigV4 signs the host: a URL for clients is signed for the host that clients use
        self._public = self._client if public == endpoint else _client(settings, public)
        self._eraser = S3Eraser(self._client, self.bucket)

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store `data`; overwriting is harmless, since a key's bytes are always the same.

        Raises BlobsUnavailable, too, where the store turns out to have stored other bytes: boto3
        lets that pass (measured).
        """
        md5 = hashlib.md5(data, usedforsecurity=False)
        with translated():
            said = self._client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=data,
                ContentType=content_type,
                ContentMD5=base64.b64encode(md5.digest()).decode(),
            )
        etag = str(said.get("ETag", "")).strip('"').lower()
        # every store names what it has stored: a 200 that does not is no yes
        if not etag or (etag != md5.hexdigest() and not self._is_stored(key, data)):
            raise BlobsUnavailable(f"object storage has stored other bytes of {key}")

    def open(self, key: str, byte_range: str | None = None) -> S3Stream:
        """Read an object, or `byte_range` of it (an HTTP Range value, such as bytes=0-99)."""
        extra = {"Range": byte_range} if byte_range else {}
        with translated():
            got = self._client.get_object(Bucket=self.bucket, Key=key, **extra)
        return S3Stream(
            content_type=got.get("ContentType", "application/octet-stream"),
            etag=got["ETag"],
            length=got["ContentLength"],
            content_range=got.get("ContentRange"),
            body=got["Body"],
        )

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes; None: it is not there, as far as this key may see.

        Without the right to list, S3 answers 403 for what is missing, as for what is forbidden.
        """
        try:
            with translated():
                return int(self._client.head_object(Bucket=self.bucket, Key=key)["ContentLength"])
        except (BlobMissing, BlobRefused):
            return None

    def presign(
        self,
        key: str,
        *,
        content_type: str,
        file_name: str,
        method: Literal["GET", "HEAD"] = "GET",
        expires_s: int = MAX_PRESIGN_S,
    ) -> str:
        """Return a URL that reads this one object for `expires_s` seconds (1 to MAX_PRESIGN_S).

        It is good for `method` alone, which is signed with it, and answers with this type and, for
        whoever saves it, this name. Raises BlobsUnavailable: no credentials to sign with.
        """
        if not 1 <= expires_s <= MAX_PRESIGN_S:
            raise ValueError(f"expires_s is from 1 to {MAX_PRESIGN_S}")
        params = {
            "Bucket": self.bucket,
            "Key": key,
            "ResponseContentType": content_type,
            "ResponseContentDisposition": f'inline; filename="{file_name}"',
        }
        with translated():
            url = self._public.generate_presigned_url(
                f"{method.lower()}_object", Params=params, ExpiresIn=expires_s
            )
        return str(url)

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Remove objects; those that are gone already do not matter. Never raises BlobsUnavailable.

        Returns the keys that are still there, or may be, and why: empty, where all are gone.
        """
        return self._eraser.erase(keys)

    def check(self) -> None:
        """Raise BlobsUnavailable, with the reason, unless the bucket answers this key."""
        try:
            with translated():
                self._client.head_bucket(Bucket=self.bucket)
        except BlobMissing:
            raise _NoBucket from None
        except BlobRefused:  # HEAD names no reason, and asks for a right that nothing else needs
            self._check_by_object()

    def ensure_bucket(self) -> None:
        """Make the bucket where it is missing: for one-machine installations and tests."""
        try:
            self.check()
        except _NoBucket:
            with translated():
                self._client.create_bucket(Bucket=self.bucket)

    def _check_by_object(self) -> None:
        """Read the probe, or else write it: whoever may neither list nor read learns so here."""
        try:
            self.open(PROBE).close()
        except (BlobMissing, BlobRefused):
            self.put(PROBE, b"printworks", "text/plain")

    def _is_stored(self, key: str, data: bytes) -> bool:
        """Return True if `data` is stored, by reading back: for stores whose ETag is no MD5.

        Such are objects encrypted by KMS or a client's key, multipart objects, and all objects of
        some stores.
        """
        sha256 = hashlib.sha256()
        for chunk in self.open(key).chunks():
            sha256.update(chunk)
        return sha256.digest() == hashlib.sha256(data).digest()


class _NoBucket(BlobsUnavailable):
    """The bucket is not there."""

    def __init__(self) -> None:
        super().__init__(
            "object storage has no such bucket (404); make the bucket, or check "
            "PRINTWORKS_S3_BUCKET"
        )


def _client(settings: RoleSettings, endpoint: str | None) -> Any:
    """Return boto3's client for one endpoint; None: AWS's own."""
    secret = settings.s3_secret_key
    style = addressing_of(settings.s3_addressing, endpoint, settings.s3_bucket)
    config = Config(s3={"addressing_style": style, "payload_signing_enabled": True})
    if endpoint and is_loopback(endpoint):
        config = config.merge(Config(proxies={}))  # a company's proxy cannot reach this machine
    session: Any = boto3.Session()
    return session.client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=_CONFIG.merge(config),
    )
