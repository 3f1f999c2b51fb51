"""The books of a chaos run: what was promised, what was done to break it, and what came of it.

Owns the count and the verdict. Every broken promise is a line of words; none is the aim.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jobs.blobs.s3 import S3Blobs
from jobs.contract.record import FINAL, JobRecord, Status
from jobs.errors import BlobsUnavailable
from jobs.store.job_store import JobStore
from tests.chaos.roles import Ears

PICTURES = 300  # so many of them are looked up in the store


@dataclass
class Books:
    """What was accepted, canceled, refused and broken."""

    tenant: str
    accepted: dict[str, str] = field(default_factory=dict)  # job: the key it was sent with
    resent: Counter[str] = field(default_factory=Counter)  # unanswered, or refused for now
    canceled: set[str] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)
    recoveries_s: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    looked_at: int = 0

    def wrong_with(self, store: JobStore, blobs: S3Blobs, ears: Ears) -> list[str]:
        """Every broken promise."""
        wrong = list(self._wrong_with_jobs(store, blobs))
        wrong += self._wrong_with_webhooks(store, ears)
        listed: Any = store.redis.zcard(f"pw:tenant:{self.tenant}:jobs")
        if listed != len(self.accepted):
            wrong.append(f"{len(self.accepted)} sendings made {listed} jobs")
        left = [k.decode() for k in store.redis.scan_iter("rq:execution:*", count=1000)]
        return wrong + [f"{key} is left" for key in left]

    def _wrong_with_jobs(self, store: JobStore, blobs: S3Blobs) -> Iterator[str]:
        for job_id in self.accepted:
            try:
                record = store.read(job_id, tenant=self.tenant)
            except Exception as error:  # noqa: BLE001 - whatever it is, the job is not there
                yield f"{job_id} is lost: {error}"
                continue
            written: Any = store.redis.xlen(f"rq:results:{job_id}")
            yield from self._wrong_with(record, written)
            if record.status is Status.SUCCEEDED and self.looked_at < PICTURES:
                yield from self._wrong_with_pictures(record, blobs)

    def _wrong_with(self, record: JobRecord, written: int) -> Iterator[str]:
        error = record.error.code if record.error else ""
        self.ends[f"{record.status} {error}".strip()] += 1
        if record.status not in FINAL:
            yield f"{record.id} is still {record.status}"
        elif record.status is Status.SUCCEEDED:
            if (written, len(record.images)) != (1, record.spec.n):
                yield f"{record.id} ended {written} times with {len(record.images)} images"
        elif error == "crashed":  # three deaths in its company, the last alone: an end, told once
            if written != 1:
                yield f"{record.id} ended {written} times"
        elif record.id not in self.canceled:
            yield f"{record.id} is {record.status} {error}, and nobody asked for that"

    def _wrong_with_pictures(self, record: JobRecord, blobs: S3Blobs) -> Iterator[str]:
        for image in record.images:
            self.looked_at += 1
            try:
                blobs.open(image.key).close()
            except BlobsUnavailable as error:
                yield f"picture {image.index} of {record.id} is not there: {error}"

    def _wrong_with_webhooks(self, store: JobStore, ears: Ears) -> Iterator[str]:
        waiting = self.not_told(ears)
        if waiting:  # of those, none may be lost: a dead courier's are tried again after its lease
            pending = _pending(store)
            untold = self.not_told(ears)  # asked again: some may have come meanwhile
            waiting = [j for j in untold if not any(j.replace("-", "") in p for p in pending)]
        yield from (f"nobody was told of the end of {job_id}" for job_id in waiting)
        for job_id, told in ears.ends.items():
            if len(told) > 1:
                yield f"{len(told)} events tell of the end of {job_id}"

    def not_told(self, ears: Ears) -> list[str]:
        """The jobs of whose end no webhook has come."""
        ends = ears.ends
        return [job_id for job_id in self.accepted if job_id not in ends]

    def figures(self, ears: Ears) -> list[str]:
        """What to print."""
        sent = sum(ears.heard.values())
        lines = [
            f"faults: {sum(self.faults.values())}: {dict(sorted(self.faults.items()))}",
            f"ends: {dict(sorted(self.ends.items()))}; sent again, unanswered or refused: "
            f"{dict(self.resent)}; pictures looked up: {self.looked_at}",
            f"webhooks: {len(ears.ends)} ends told, {sent - len(ears.heard)}  more than once,"
            f" {len(self.not_told(ears))} on their way",
        ]
        times = sorted(self.recoveries_s)
        if times:
            p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
            lines.append(
                f"recovery of a killed worker's jobs (lease 2 s, dead Redis included): "
                f"p50 {statistics.median(times):.2f} s, p99 {p99:.2f} s, {len(times)} deaths"
            )
        return lines


def _pending(store: JobStore) -> list[str]:
    """Every event that is written and not delivered yet."""
    redis: Any = store.redis
    found = [e.decode() for e in redis.lrange("pw:outbox", 0, -1)]
    for pattern in ("pw:due:*", "pw:flight:*"):
        for key in redis.scan_iter(pattern):
            found += [member.decode() for member in redis.zrange(key, 0, -1)]
    return [text.replace("-", "") for text in found]
