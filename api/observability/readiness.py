"""Readiness of the service to generate images: Redis, S3, workers; and lesser faults.

Owns the probes behind /readyz and their caching. Must not know HTTP. Invariant: a result comes
within about two seconds, however the parts behind it fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread

from jobs.blobs import BlobStore
from jobs.contract.reports import WorkerReport
from jobs.errors import BlobsUnavailable, SettingsError, StoreUnavailable
from jobs.store.job_store import AsyncJobStore
from jobs.store.scripts.erase_calls import KINDS, Late, late

BLOBS_CACHE_S = 10.0  # a probe of S3 costs a request; balancers ask every second
BLOBS_BUDGET_S = 2.0  # boto3 itself would try for half a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Faults by part. `reasons`: no image can be made; `degraded`: images are still made."""

    reasons: Mapping[str, str]
    degraded: Mapping[str, str]


class Readiness:
    """The probes of one process."""

    def __init__(
        self,
        store: AsyncJobStore,
        blobs: BlobStore,
        threads: anyio.CapacityLimiter,
        *,
        waived: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._threads = threads
        self._waived = waived
        self._clock = clock
        self._blobs_until = 0.0
        self._blobs_reason: str | None = None
        self._server_good = False
        self.draining = False

    async def look(self) -> Found:
        """Probe every part."""
        reasons = {"redis": await self._redis(), "s3": await self._s3()}
        degraded: dict[str, str | None] = {}
        if reasons["redis"] is None:
            try:
                able, reasons["worker"] = _able(await self._store.workers())
                reasons["s3"] = reasons["s3"] or _no_uploads(able)
                degraded["s3"] = _some_uploads(able)
                for kind in KINDS:
                    degraded[f"erase_{kind}"] = _said(await self._store.run(late(kind)))
            except StoreUnavailable as error:
                reasons["redis"] = str(error)
        if self.draining:
            reasons["api"] = "this process is shutting down"
        return Found(reasons=_only(reasons), degraded=_only(degraded))

    async def _redis(self) -> str | None:
        try:
            await self._store.ping()
            if not self._server_good:  # once: Redis may have started after this process
                await self._store.check_server(waived=self._waived)
                self._server_good = True
        except (StoreUnavailable, SettingsError) as error:
            return str(error)
        return None

    async def _s3(self) -> str | None:
        if self._clock() >= self._blobs_until:
            self._blobs_reason = await self._probe_s3()
            self._blobs_until = self._clock() + BLOBS_CACHE_S
        return self._blobs_reason

    async def _probe_s3(self) -> str | None:
        try:
            async with asyncio.timeout(BLOBS_BUDGET_S):
                await anyio.to_thread.run_sync(
                    self._blobs.check, limiter=self._threads, abandon_on_cancel=True
                )
        except BlobsUnavailable as error:
            return str(error)
        except TimeoutError:
            return f"object storage does not answer within {BLOBS_BUDGET_S:g} s"
        return None


def _able(workers: Sequence[WorkerReport]) -> tuple[list[WorkerReport], str | None]:
    """Return the workers that could run a job, and the reason if none would."""
    if not workers:
        return [], "no worker has reported within the last minute: start one"
    able = [w for w in workers if w.engine_ready and not w.draining]
    if not able:
        return [], "no worker is ready: their models are still loading, or they are draining"
    if all(w.held_up for w in able):
        return able, f"no worker takes jobs: {able[0].held_up}"
    return able, None


def _no_uploads(able: Sequence[WorkerReport]) -> str | None:
    """Return why no image can be stored, where HEAD of the bucket works: disk full, no right."""
    if able and all(w.uploads_fail for w in able):
        return f"no worker can store its images: {able[0].uploads_fail}"
    return None


def _some_uploads(able: Sequence[WorkerReport]) -> str | None:
    failing = [w for w in able if w.uploads_fail]
    if failing and len(failing) < len(able):
        return (
            f"{len(failing)} of {len(able)} workers cannot store images: {failing[0].uploads_fail}"
        )
    return None


def _said(late: Late) -> str | None:
    if not late.count:
        return None
    what = "jobs with images" if late.kind == "pictures" else "input images"
    why = late.reason or "no janitor runs, or none keeps up"
    return f"{what} overdue for deletion and still stored: {late.count}; {why}"


def _only(found: Mapping[str, str | None]) -> dict[str, str]:
    return {part: reason for part, reason in found.items() if reason}
