"""The job store: every call of a client as one script, async for the API, sync for the rest.

Owns what can be asked; how a call is run, and its limits, is jobs/store/script_runner.py.
Invariant: every mutating call is one idempotent script, so a lost reply and a second sending are
harmless.
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

SILENCE_S = 5.0  # of all jobs' events, after which Redis is asked whether it is there
PURGE_MOST = 200  # jobs a step: 20 to 40 ms of Redis, and others have their turn between


class AsyncJobStore(AsyncRunner):
    """All jobs, for one event loop. Make one a process; `aclose` it at the end."""

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
        """Accept a job: durable when this returns. Sending it again changes nothing.

        Raises QueueFull, TenantLimit, IdempotencyMismatch, JobGone (a replay whose job is gone).
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
        """Accept all jobs of a group, in one step: durable when this returns. Sent again with its
        ID or its key it is the same group. A refusal, which is of all of them, leaves nothing.

        Raises what `admit` does.
        """
        return await self.run(
            admit_calls.admit_group(group, tenant=tenant, idempotency=idempotency, limits=limits)
        )

    async def read(self, job_id: str, *, tenant: str) -> JobRecord:
        """One job, in one round trip. Raises JobMissing (another tenant's is missing), JobGone."""
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
        """The tenant's jobs, newest first, without their places in the queue.

        `cursor`: the one that the page before gave. A filtered page may be short, or empty, and
        still have a next one.
        """
        return await self.run(
            client_calls.list_jobs(tenant, status=status, model=model, cursor=cursor, limit=limit)
        )

    async def previews(self, job_id: str) -> dict[int, str]:
        """What a running job looks like by now: JSON, by index of the image. Often empty."""
        found = await self.command("hgetall", keys.preview(job_id))
        return {int(index): shown for index, shown in found.items()}

    async def cancel(self, job_id: str, *, tenant: str) -> JobRecord:
        """End a job at once, whatever it is doing; a final one stays as it is."""
        return await self.run(client_calls.cancel(job_id, tenant=tenant))

    async def delete(self, job_id: str, *, tenant: str) -> tuple[str, ...]:
        """Cancel and forget a job; JobGone from now on. The blobs to erase, which the janitor
        erases too, two minutes later: a picture on its way then has arrived."""
        return await self.run(client_calls.delete(job_id, tenant=tenant))

    async def queue_state(self, models: Sequence[str]) -> tuple[ModelQueue, ...]:
        """How busy each of `models` is."""
        return tuple([await self.run(client_calls.queue_state(m)) for m in models])

    async def workers(self) -> tuple[WorkerReport, ...]:
        """The workers that spoke within the last minute, and what each has the lease of now."""
        return await self.run(client_calls.workers())

    async def pause(self, models: Sequence[str]) -> int:
        """Have workers take no more jobs, as `rq suspend` does; those that run go on.

        How many they are: from the moment of this answer it can only fall, and at 0 the fleet is
        drained. `models`: those to count besides the queues that RQ knows of.
        """
        return await self.run(client_calls.pause(models))

    async def resume(self, models: Sequence[str]) -> int:
        """Have workers take jobs again, as `rq resume` does; how many jobs run."""
        return await self.run(client_calls.pause(models, resume=True))

    async def drain_worker(self, name: str) -> bool:
        """Have one worker take no more jobs from now on, finish what fits into its grace time, hand
        the rest back and end; False: no worker of this name listens."""
        return await self.run(client_calls.drain_worker(name))

    async def purge(self, models: Sequence[str], *, tenant: str | None = None) -> int:
        """Cancel what waits for `models`, of one tenant or of all; how many jobs that were.

        Those that run go on; those that come meanwhile stay, more or less: it ends when as many
        are canceled as waited when it began.
        """
        return sum([await self._purge(model, tenant) for model in models])

    async def waiting(self, models: Sequence[str], *, tenant: str | None = None) -> int:
        """How many jobs `purge` would cancel."""
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
        """Whether workers take no jobs."""
        return bool(await self.command("exists", keys.RQ_SUSPENDED))

    async def ping(self) -> None:
        """Raise StoreUnavailable, with the reason, unless Redis answers and takes writes."""
        await self.command("set", keys.PROBE, "1", ex=keys.PROBE_TTL_S)

    async def check_server(self, *, waived: Collection[str] = ()) -> None:
        """Raise SettingsError unless the server keeps what it is given.

        `waived`: faults that the operator accepts, in words: no-aof, eviction, old-version.
        """
        check_info(await self.command("info"), waived)

    async def subscribe(self, *, silence_s: float = SILENCE_S) -> AsyncIterator[AnyJobEvent]:
        """Every job's events over one connection; raises StoreUnavailable when it breaks.

        Where nothing is heard for `silence_s`, Redis is asked, and once more later given up: a
        connection whose other end was cut off says nothing, for ever.
        """
        with translated():
            async with self._redis.pubsub() as channel:
                await channel.psubscribe(keys.events("*"))
                asked = False
                while True:
                    message = await channel.get_message(timeout=silence_s)
                    if message is None and asked:
                        raise StoreUnavailable("Redis has gone silent")
                    asked = message is None
                    if message is None:
                        await channel.ping()
                    elif message["type"] == "pmessage":
                        yield parse_event(message["data"])


class JobStore(Runner):
    """The same calls where there is no event loop: workers, the janitor, tools."""

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
        """Look at every open job, some at a step, and end those that are open no more.

        RQ's own tools end, delete and displace jobs without a word to our books: so their tenants
        get their places back, groups and webhooks their ends.
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
