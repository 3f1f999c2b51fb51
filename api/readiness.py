"""Whether a job sent now could become a picture: Redis, S3, a worker.

Owns the probes behind /readyz and their caching. Must not know HTTP. Invariant: an answer comes
within about two seconds, however the parts behind it fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import anyio
import anyio.to_thread

from jobs.blobs import Blobs
from jobs.errors import BlobsUnavailable, SettingsError, StoreUnavailable
from jobs.store import AsyncJobStore

BLOBS_CACHE_S = 10.0  # a probe of S3 costs a request; balancers ask every second
BLOBS_BUDGET_S = 2.0  # boto3 itself would try for half a minute


class Readiness:
    """The probes of one process."""

    def __init__(
        self,
        store: AsyncJobStore,
        blobs: Blobs,
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

    async def reasons(self) -> dict[str, str]:
        """What is amiss, by part; empty: all is well."""
        found = {"redis": await self._redis(), "s3": await self._s3(), "worker": None}
        if found["redis"] is None:
            found["worker"] = await self._worker()
        if self.draining:
            found["api"] = "this process is shutting down"
        return {part: reason for part, reason in found.items() if reason}

    async def _redis(self) -> str | None:
        try:
            await self._store.ping()
            if not self._server_good:  # once: the server may have come up after us
                await self._store.check_server(waived=self._waived)
                self._server_good = True
        except (StoreUnavailable, SettingsError) as error:
            return str(error)
        return None

    async def _worker(self) -> str | None:
        try:
            workers = await self._store.workers()
        except StoreUnavailable as error:
            return str(error)
        if not workers:
            return "no worker has spoken within the last minute"
        able = [w for w in workers if w.engine_ready and not w.draining]
        if not able:
            return "no worker is ready: their models are still loading, or they are draining"
        if all(w.held_up for w in able):
            return f"no worker takes jobs: {able[0].held_up}"
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
            return f"the picture store does not answer within {BLOBS_BUDGET_S:g} s"
        return None
