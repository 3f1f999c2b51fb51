"""The calls that a client's request becomes: admit, read, list, cancel, delete, queue.

Owns their keys and arguments and the reading of their answers; what a new job's hash holds is
jobs/scripts/job_hash.py. Knows no connection. Invariant: a refusal of a script is an error of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rq.queue import Queue

from jobs import inputs, keys
from jobs.admission import NOBODY, AdmitLimits, Admitted, Idempotency, Sender
from jobs.errors import (
    IdempotencyMismatch,
    InputMissing,
    JobGone,
    JobMissing,
    QueueFull,
    TenantLimit,
)
from jobs.keys import READ_FIELDS, Field
from jobs.overview import ModelQueue, Page
from jobs.record import RQ_STATUS, JobRecord, QueuePlace, Status, record_of
from jobs.scripts import Call, load, text
from jobs.scripts.job_hash import job_fields, packed
from jobs.spec import JobSpec

LOOK_AT_MOST = 1000  # entries one page of a filtered listing goes through


def admit(
    spec: JobSpec,
    *,
    tenant: str,
    job_id: str,
    idempotency: Idempotency | None,
    limits: AdmitLimits,
    sender: Sender = NOBODY,
) -> Call[Admitted]:
    """Accept a job, or raise why not."""
    queue = keys.queue_name(spec.model, spec.priority)
    job = keys.rq_key("job", job_id)
    fields = job_fields(
        spec, tenant=tenant, job_id=job_id, queue=queue, idempotency=idempotency, sender=sender
    )
    return Call(
        load("admit"),
        (
            job,
            keys.tenant_open(tenant),
            keys.tenant_jobs(tenant),
            keys.backlog(spec.model),
            Queue.redis_queues_keys,
            keys.gone(job_id),
            keys.idempotency(idempotency.digest) if idempotency else job,
        ),
        (
            job_id,
            tenant,
            queue,
            fields[Field.COST],
            "" if spec.deadline_s is None else spec.deadline_s,
            *(_limit(x) for x in (limits.max_jobs, limits.max_cost, limits.tenant_jobs)),
            limits.tenant_line,
            idempotency.fingerprint if idempotency else "",
            " ".join(f"{tenant}/{an_id}" for an_id in spec.inputs),
            *packed(fields, job_id),
        ),
        lambda reply: _admitted(job_id, reply),
        lasting=True,
    )


def _limit(value: float | None) -> str | float:
    return "" if value is None else value


def _admitted(job_id: str, reply: list[Any]) -> Admitted:
    match text(reply[0]):
        case "ok":
            return Admitted(record=_record(job_id, reply[1]), replayed=False)
        case "replay":
            return Admitted(record=_record(text(reply[2]), reply[1]), replayed=True)
        case "mismatch":
            raise IdempotencyMismatch("this Idempotency-Key was used for another request")
        case "tenant":
            raise TenantLimit(
                f"{text(reply[1])} of your jobs are under way: no more may be, wait for one to end"
            )
        case "input":
            raise InputMissing(f"there is no input {text(reply[1]).rpartition('/')[2]} any more")
        case "full":
            raise QueueFull(f"{text(reply[1])} jobs wait for this model already: try again later")
        case _:
            raise JobGone("the job that this Idempotency-Key made is gone")


def read(job_id: str, *, tenant: str) -> Call[JobRecord]:
    """One job with its place."""
    return Call(load("read"), _job_keys(job_id), (job_id, tenant), lambda r: _found(job_id, r))


def cancel(job_id: str, *, tenant: str) -> Call[JobRecord]:
    """End a job at once."""
    where, args = _job_keys(job_id), (job_id, tenant)
    return Call(load("cancel"), where, args, lambda r: _found(job_id, r), lasting=True)


def delete(job_id: str, *, tenant: str) -> Call[tuple[str, ...]]:
    """Forget a job; the blobs to erase."""

    def parse(reply: list[Any]) -> tuple[str, ...]:
        _check(reply)
        indices = range(int(reply[1]))
        images = [keys.image_key(tenant, job_id, k, text(reply[2])) for k in indices]
        return (*images, *(inputs.blob_of(text(member)) for member in reply[3]))

    where = (*_job_keys(job_id), keys.tenant_jobs(tenant), keys.rq_key("results", job_id))
    return Call(load("delete"), where, (job_id, tenant), parse, lasting=True)


def list_jobs(
    tenant: str, *, status: Status | None, model: str | None, cursor: str | None, limit: int
) -> Call[Page]:
    """One page, newest first."""
    wanted = [rq for rq, ours in RQ_STATUS.items() if ours is status]
    if status is Status.EXPIRED:
        wanted = [status.value]  # RQ's word is canceled; list.lua prefers x_end where it is set
    args = (f"({cursor}" if cursor else "+", limit, LOOK_AT_MOST, model or "", *wanted)
    return Call(load("list"), (keys.tenant_jobs(tenant),), args, _page)


def queue_state(model: str) -> Call[ModelQueue]:
    """How busy a model is."""

    def parse(reply: list[Any]) -> ModelQueue:
        queued, running, cost, rate, held, workers = (float(text(x)) for x in reply)
        return ModelQueue(
            model=model,
            queued=int(queued),
            running=int(running),
            backlog_cost=cost,
            cost_per_s=rate or None,
            eta_s=_eta(cost, rate, held),
            workers=int(workers),
        )

    return Call(load("queue"), (), (model, *keys.queue_names(model)), parse)


def purge(model: str, *, tenant: str | None, most: int) -> Call[tuple[int, int]]:
    """Cancel some of a model's waiting jobs, of one tenant or of all: how many, how many more."""
    lines = tuple(keys.rq_key("queue", q) for q in keys.queue_names(model))
    args = (most, tenant or "")
    # to count only, with a `most` of 0, no replica is needed
    return Call(load("purge"), lines, args, lambda r: (int(r[0]), int(r[1])), lasting=most > 0)


def _job_keys(job_id: str) -> tuple[str, str]:
    return keys.rq_key("job", job_id), keys.gone(job_id)


def _check(reply: Sequence[Any]) -> None:
    verdict = text(reply[0])
    if verdict == "gone":
        raise JobGone("this job has expired or was deleted")
    if verdict == "missing":
        raise JobMissing("there is no such job")


def _found(job_id: str, reply: Sequence[Any]) -> JobRecord:
    _check(reply)
    return _record(job_id, reply[1])


def _record(job_id: str, snapshot: Sequence[Any]) -> JobRecord:
    names: Sequence[str] = READ_FIELDS
    # here and not by `text`: sixteen calls are a hundredth of a read
    values = [v.decode() if isinstance(v, bytes) else v for v in snapshot[0]]
    fields: dict[str, str | None] = dict(zip(names, values, strict=True))
    return record_of(job_id, fields, queue=_place(snapshot[1]))


def _place(place: Sequence[Any]) -> QueuePlace | None:
    if not place:
        return None
    position, ahead, rate, held, _ = map(float, place)
    return QueuePlace(position=int(position), eta_seconds=_eta(ahead, rate, held))


def _eta(ahead: float, rate: float, held: float) -> float | None:
    """Seconds until what stands behind `ahead` starts; None: no worker's pace is known.

    A job starts when a place in a batch is free, not when the batch is over: on average half of
    what the workers hold then is still to be done.
    """
    return round((ahead + held / 2) / rate, 1) if rate > 0 else None


def _page(reply: Sequence[Any]) -> Page:
    cursor, found = text(reply[0]), list(reply[1])
    jobs = [_record(text(found[i]), found[i + 1]) for i in range(0, len(found), 2)]
    return Page(jobs=tuple(jobs), next_cursor=cursor or None)
