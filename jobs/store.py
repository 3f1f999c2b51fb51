"""The job store as the API uses it: admit, read, list, cancel, delete; all of it async.

Owns the async connection and the translation of its errors. Every mutating call is one
idempotent Lua script, so a lost reply and a second sending are harmless. Invariant: whatever
Redis does, a call ends within CALL_BUDGET_S, in a value or in one of `jobs.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence

from jobs.admission import Admitted, AdmitLimits, Idempotency
from jobs.events import ProgressEvent, StatusEvent
from jobs.overview import ModelQueue, Page, WorkerReport
from jobs.record import JobRecord, Status
from jobs.spec import JobSpec


class AsyncJobStore:
    """All jobs, for one event loop. Make one a process; `aclose` it at the end."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url

    async def admit(
        self,
        spec: JobSpec,
        *,
        tenant: str,
        job_id: str,
        idempotency: Idempotency | None,
        limits: AdmitLimits,
    ) -> Admitted:
        """Accept a job: durable when this returns. Sending it again changes nothing.

        Raises QueueFull, TenantLimit, IdempotencyMismatch, JobGone (a replay whose job is gone).
        """
        raise NotImplementedError

    async def read(self, job_id: str, *, tenant: str) -> JobRecord:
        """One job, in one round trip. Raises JobMissing (another tenant's is missing), JobGone."""
        raise NotImplementedError

    async def list(
        self,
        tenant: str,
        *,
        status: Status | None = None,
        model: str | None = None,
        cursor: str | None = None,
        limit: int = 20,
    ) -> Page:
        """The tenant's jobs, newest first. `cursor`: the one that the page before gave."""
        raise NotImplementedError

    async def cancel(self, job_id: str, *, tenant: str) -> JobRecord:
        """End a job at once, whatever it is doing; a final one stays as it is."""
        raise NotImplementedError

    async def delete(self, job_id: str, *, tenant: str) -> tuple[str, ...]:
        """Cancel and forget a job; JobGone from now on. The blobs to erase, which the janitor
        erases too if nobody else does."""
        raise NotImplementedError

    async def queue_state(self, models: Sequence[str]) -> tuple[ModelQueue, ...]:
        """How busy each of `models` is."""
        raise NotImplementedError

    async def workers(self) -> tuple[WorkerReport, ...]:
        """The workers that spoke within the last minute."""
        raise NotImplementedError

    async def ping(self) -> None:
        """Raise StoreUnavailable, with the reason, unless Redis answers and takes writes."""
        raise NotImplementedError

    async def check_server(self, *, waived: Collection[str] = ()) -> None:
        """Raise SettingsError unless the server keeps what it is given.

        `waived`: faults that the operator accepts, in words: "no-aof", "eviction", "old-version".
        """
        raise NotImplementedError

    def subscribe(self) -> AsyncIterator[StatusEvent | ProgressEvent]:
        """Every job's events over one connection; ends with StoreUnavailable if it breaks."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Give all connections back."""
        raise NotImplementedError
