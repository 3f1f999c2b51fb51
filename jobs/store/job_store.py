"""Job store: every call of a client as one script, async for the API, sync for the rest.

Owns the calls; jobs/store/script_runner.py runs them, with limits. Invariant: every mutating call
is one idempotent script, so a lost reply and a second submission are harmless.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from jobs.contract.events import AnyJobEvent, parse_event
from jobs.contract.record import JobRecord, Status
from jobs.contract.reports import ModelQueue, Page, WorkerReport
from jobs.contract.spec import JobSpec
from jobs.contract.submission import (
    NOBODY,
    AdmitLimits,
    Admitted,
    AdmittedGroup,
    Idempotency,
    NewGroup,
    SubmissionOrigin,
)
from jobs.errors import StoreUnavailable
from jobs.store import keys
from jobs.store.connection import check_info, translated
from jobs.store.script_runner import AsyncRunner, Runner
from jobs.store.scripts import admit_calls, client_calls, text, worker_calls
from jobs.store.scripts.worker_calls import Settled

SILENCE_S = 5.0  # without any job's event, after which Redis gets a PING
PURGE_MOST = 200  # jobs a step: 20 to 40 ms of Redis, and other calls run in between


class AsyncJobStore(AsyncRunner):
    """Job store for one event loop. Make one a process; `aclose` it at the end."""

    async def admit(
        self,
        spec: JobSpec,
        *,
        tenant: str,
        job_id: str,
        idempotency: Idempotency | None,
        limits: AdmitLimits,
        sender: SubmissionOrigin = NOBODY,
    ) -> Admitted:
        """Accept a job: durable when this returns. The same call again changes nothing.

        Raises QueueFull, TenantLimit, IdempotencyMismatch, JobGone (a replay of a deleted job).
        """
        return await self.run(
            admit_calls.admit(
                spec,
                tenant=tenant,
                job_id=job_id,
                idempotency=idempotency,
                limits=limits,
                sender=sender,
            )
        )

    async def admit_group(
        self, group: NewGroup, *, tenant: str, idempotency: Idempotency | None, limits: AdmitLimits
    ) -> AdmittedGroup:
        """Accept all jobs of a group in one step: durable when this returns.

        The same call again, by ID or by key, returns the same group. A refusal is of the whole
        group and leaves nothing. Raises the errors of `admit`.
        """
        return await self.run(
            admit_calls.admit_group(group, tenant=tenant, idempotency=idempotency, limits=limits)
        )

    async def read(self, job_id: str, *, tenant: str) -> JobRecord:
        """Return a job, in one round trip. Raises JobMissing (also another tenant's), JobGone."""
        return await self.run(client_calls.read(job_id, tenant=tenant))

    async def list(
        self,
        tenant: str,
        *,
        status: Status | None = None,
        model: str | None = None,
        cursor: str | None = None,
        limit: int = 20,
    ) -> Page:
        """Return a page of the tenant's jobs, newest first, without queue positions.

        `cursor`: `next_cursor` of the page before. A filtered page may be short or empty and
        still have a next page.
        """
        return await self.run(
            client_calls.list_jobs(tenant, status=status, model=model, cursor=cursor, limit=limit)
        )

    async def previews(self, job_id: str) -> dict[int, str]:
        """Return a running job's latest previews: JSON, by index of the image. Often empty."""
        found = await self.command("hgetall", keys.preview(job_id))
        return {int(index): shown for index, shown in found.items()}

    async def cancel(self, job_id: str, *, tenant: str) -> JobRecord:
        """Cancel a job at once, queued or running; a final job stays as it is."""
        return await self.run(client_calls.cancel(job_id, tenant=tenant))

    async def delete(self, job_id: str, *, tenant: str) -> tuple[str, ...]:
        """Cancel and delete a job; JobGone from now on. Returns the keys of blobs to erase.

        The janitor erases them too, two minutes later: an upload under way has ended by then.
        """
        return await self.run(client_calls.delete(job_id, tenant=tenant))

    async def queue_state(self, models: Sequence[str]) -> tuple[ModelQueue, ...]:
        """Return the load of each of `models`."""
        return tuple([await self.run(client_calls.queue_state(m)) for m in models])

    async def workers(self) -> tuple[WorkerReport, ...]:
        """Return the reports of workers seen within the last minute, with their running jobs."""
        return await self.run(client_calls.workers())

    async def pause(self, models: Sequence[str]) -> int:
        """Stop workers from taking jobs, as `rq suspend` does; return the number of running jobs.

        Running jobs go on. The number can only fall from now on; at 0 the fleet is drained.
        `models`: models to count besides the queues that RQ knows of.
        """
        return await self.run(client_calls.pause(models))

    async def resume(self, models: Sequence[str]) -> int:
        """Let workers take jobs again, as `rq resume` does; return the number of running jobs."""
        return await self.run(client_calls.pause(models, resume=True))

    async def drain_worker(self, name: str) -> bool:
        """Drain a worker: no new jobs, finish within the grace time, return the rest, end.

        False: no worker of this name listens.
        """
        return await self.run(client_calls.drain_worker(name))

    async def purge(self, models: Sequence[str], *, tenant: str | None = None) -> int:
        """Cancel waiting jobs of `models`, of one tenant or all; return the number canceled.

        Running jobs go on. Jobs that come meanwhile mostly stay: the purge ends when as many jobs
        are canceled as waited at its start.
        """
        return sum([await self._purge(model, tenant) for model in models])

    async def waiting(self, models: Sequence[str], *, tenant: str | None = None) -> int:
        """Return the number of jobs that `purge` would cancel."""
        calls = [client_calls.purge(model, tenant=tenant, most=0) for model in models]
        return sum([left for call in calls for _, left in [await self.run(call)]])

    async def _purge(self, model: str, tenant: str | None) -> int:
        call = client_calls.purge(model, tenant=tenant, most=PURGE_MOST)
        total, left = await self.run(call)
        waited, canceled = total + left, total
        while canceled and total < waited:
            canceled, _ = await self.run(call)
            total += canceled
        return total

    async def paused(self) -> bool:
        """Return True if workers are paused and take no jobs."""
        return bool(await self.command("exists", keys.RQ_SUSPENDED))

    async def ping(self) -> None:
        """Raise StoreUnavailable, with the reason, unless Redis answers and takes writes."""
        await self.command("set", keys.PROBE, "1", ex=keys.PROBE_TTL_S)

    async def check_server(self, *, waived: Collection[str] = ()) -> None:
        """Raise SettingsError unless the server's settings keep accepted jobs safe.

        `waived`: faults that the operator accepts: no-aof, eviction, old-version.
        """
        check_info(await self.command("info"), waived)

    async def subscribe(self, *, silence_s: float = SILENCE_S) -> AsyncIterator[AnyJobEvent]:
        """Yield every job's events over one connection; raises StoreUnavailable when cut off.

        After `silence_s` without an event Redis gets a PING, and after as long without an answer
        the connection is given up: a connection cut off at its other end stays silent for ever.
        """
        with translated():
            async with self._redis.pubsub() as channel:
                await channel.psubscribe(keys.events("*"))
                asked = False
                while True:
                    message = await channel.get_message(timeout=silence_s)
                    if message is None and asked:
                        raise StoreUnavailable("Redis does not answer on the event connection")
                    asked = message is None
                    if message is None:
                        await channel.ping()
                    elif message["type"] == "pmessage":
                        yield parse_event(message["data"])


class JobStore(Runner):
    """Job store without an event loop: for workers, the janitor, tools."""

    def admit(
        self,
        spec: JobSpec,
        *,
        tenant: str,
        job_id: str,
        idempotency: Idempotency | None = None,
        limits: AdmitLimits | None = None,
        sender: SubmissionOrigin = NOBODY,
    ) -> Admitted:
        """See AsyncJobStore."""
        return self.run(
            admit_calls.admit(
                spec,
                tenant=tenant,
                job_id=job_id,
                idempotency=idempotency,
                limits=limits or AdmitLimits(),
                sender=sender,
            )
        )

    def admit_group(
        self,
        group: NewGroup,
        *,
        tenant: str,
        idempotency: Idempotency | None = None,
        limits: AdmitLimits | None = None,
    ) -> AdmittedGroup:
        """See AsyncJobStore."""
        limits = limits or AdmitLimits()
        return self.run(
            admit_calls.admit_group(group, tenant=tenant, idempotency=idempotency, limits=limits)
        )

    def settle(self) -> Iterator[Settled]:
        """Check every open job, some at a step, and end the books of jobs that are open no more.

        RQ's own tools end, delete and move jobs past our books: this step frees their tenants'
        quotas, and gives groups and webhooks their ends.
        """
        with translated():
            tenants: Any = self.redis.smembers(keys.TENANTS)
        for tenant in map(text, tenants):
            cursor = "0"
            while cursor:
                settled = self.run(worker_calls.settle(tenant, cursor=cursor))
                cursor = settled.cursor
                yield settled

    def read(self, job_id: str, *, tenant: str) -> JobRecord:
        """See AsyncJobStore."""
        return self.run(client_calls.read(job_id, tenant=tenant))

    def cancel(self, job_id: str, *, tenant: str) -> JobRecord:
        """See AsyncJobStore."""
        return self.run(client_calls.cancel(job_id, tenant=tenant))

    def delete(self, job_id: str, *, tenant: str) -> tuple[str, ...]:
        """See AsyncJobStore."""
        return self.run(client_calls.delete(job_id, tenant=tenant))

    def check_server(self, *, waived: Collection[str] = ()) -> None:
        """See AsyncJobStore."""
        with translated():
            info: Any = self.redis.info()
        check_info(info, waived)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
