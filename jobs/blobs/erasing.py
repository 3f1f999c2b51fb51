"""Eraser of objects in an S3 bucket, for stores with and without DeleteObjects.

Owns the way from one request for a thousand to one request for each: a key that the store does not
confirm as deleted gets a DELETE of its own, and a versioned bucket's versions are deleted too.
Knows no Redis. Invariant: a key not in the result is gone, and a refused key blocks no other.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.blobs.refusals import BlobRefused, translated
from jobs.errors import BlobMissing, BlobsUnavailable

BATCH = 1000  # S3's own limit for one DeleteObjects
SINGLE_THREADS = 8
FAULTS_IN_A_ROW = 8  # the store's own (5xx), after which it is not asked for more: it is broken
_CHECKSUMS = ("x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm")


class S3Eraser:
    """Eraser of one bucket's objects. Thread-safe."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        client.meta.events.register("before-sign.s3.DeleteObjects", _with_md5)

    def erase(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the keys that are still there, or may be, and why; empty: all are gone."""
        left: dict[str, str] = {}
        for start in range(0, len(keys), BATCH):
            left |= self._some(keys[start : start + BATCH])
        return left

    def _some(self, keys: Sequence[str]) -> dict[str, str]:
        gone: set[str] = set()
        if len(keys) > 1:
            try:
                gone = self._together(keys)
            except (BlobRefused, BlobMissing):
                pass  # a store without DeleteObjects, or with other ideas of it: one by one
            except BlobsUnavailable as away:
                return dict.fromkeys(keys, str(away))
        return _Singly(self._client, self._bucket).erase([key for key in keys if key not in gone])

    def _together(self, keys: Sequence[str]) -> set[str]:
        """Return the keys confirmed as deleted: not `Quiet`, or silence would count as a yes."""
        with translated():
            said = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys]}
            )
        entries = said.get("Deleted", ())
        return {str(entry.get("Key")) for entry in entries if not entry.get("DeleteMarker")}


class _Singly:
    """One DELETE a key, some at a time, until the store as a whole says no."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._lock = threading.Lock()
        self._faults = 0
        self._stopped: str | None = None  # why the rest is not tried

    def erase(self, keys: Sequence[str]) -> dict[str, str]:
        """Return what is left, and why."""
        if len(keys) < 2:
            return {key: why for key in keys if (why := self._one(key))}
        with ThreadPoolExecutor(SINGLE_THREADS, thread_name_prefix="erase") as pool:
            reasons = list(pool.map(self._one, keys))
        return {key: why for key, why in zip(keys, reasons, strict=True) if why}

    def _one(self, key: str) -> str | None:
        if self._stopped:
            return self._stopped
        try:
            with translated():
                said = self._client.delete_object(Bucket=self._bucket, Key=key)
                if said.get("DeleteMarker"):  # hidden, and still stored
                    self._erase_versions(key)
        except BlobMissing:
            pass
        except BlobRefused as refused:
            self._count(refused)
            return str(refused)
        except BlobsUnavailable as away:
            self._stopped = str(away)
            return str(away)
        self._faults = 0
        return None

    def _erase_versions(self, key: str) -> None:
        """Remove every version, and the markers last: without them an old version shows again."""
        versions = self._client.get_paginator("list_object_versions")
        for page in versions.paginate(Bucket=self._bucket, Prefix=key):
            for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if entry["Key"] == key:
                    self._client.delete_object(
                        Bucket=self._bucket, Key=key, VersionId=entry["VersionId"]
                    )

    def _count(self, refused: BlobRefused) -> None:
        with self._lock:
            # 501 is a no to this request; other 5xx are the store's trouble, three tries each
            self._faults += refused.status >= 500 and refused.status != 501
            if self._faults >= FAULTS_IN_A_ROW:
                self._stopped = str(refused)


def _with_md5(request: Any, **_kwargs: Any) -> None:
    """Say Content-MD5 in place of CRC32, which is all that older stores know of DeleteObjects.

    MinIO before 2025, Ceph and PowerScale answer MissingContentMD5 to boto3's own; AWS takes both.
    """
    for name in _CHECKSUMS:
        del request.headers[name]
    digest = hashlib.md5(request.body, usedforsecurity=False).digest()
    del request.headers["Content-MD5"]
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()
