"""Calls for clients' and operators' requests, except admission.

Owns the calls' keys and arguments and the reading of their answers; `admit_calls` has admission.
Knows no connection. Invariant: a refusal of a script is an error of ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jobs.contract import input_images
from jobs.contract.record import RQ_STATUS, JobRecord, QueuePlace, Status
from jobs.contract.reports import ModelQueue, Page, WorkerReport
from jobs.errors import JobGone, JobMissing
from jobs.store import keys
from jobs.store.keys import READ_FIELDS
from jobs.store.record_hash import record_of
from jobs.store.scripts import Call, load, text

LOOK_AT_MOST = 1000  # entries one page of a filtered listing goes through


def read(job_id: str, *, tenant: str) -> Call[JobRecord]:
    """Read a job with its queue position."""
    return Call(load("read"), _job_keys(job_id), (job_id, tenant), lambda r: _found(job_id, r))


def cancel(job_id: str, *, tenant: str) -> Call[JobRecord]:
    """Cancel a job at once."""
    where, args = _job_keys(job_id), (job_id, tenant)
    return Call(load("cancel"), where, args, lambda r: _found(job_id, r), lasting=True)


def delete(job_id: str, *, tenant: str) -> Call[tuple[str, ...]]:
    """Delete a job; returns the keys of blobs to erase."""

    def parse(reply: list[Any]) -> tuple[str, ...]:
        _check(reply)
        indices = range(int(reply[1]))
        images = [keys.image_key(tenant, job_id, k, text(reply[2])) for k in indices]
        return (*images, *(input_images.input_blob_key(text(member)) for member in reply[3]))

    return Call(load("delete"), _job_keys(job_id), (job_id, tenant), parse, lasting=True)


def list_jobs(
    tenant: str, *, status: Status | None, model: str | None, cursor: str | None, limit: int
) -> Call[Page]:
    """Read a page of a tenant's jobs, newest first."""
    wanted = [rq for rq, ours in RQ_STATUS.items() if ours is status]
    if status is Status.EXPIRED:
        wanted = [status.value]  # RQ's word is canceled; list.lua prefers x_end where it is set
    args = (f"({cursor}" if cursor else "+", limit, LOOK_AT_MOST, model or "", *wanted)
    return Call(load("list"), (keys.tenant_jobs(tenant),), args, _page)


def queue_state(model: str) -> Call[ModelQueue]:
    """Read the load of a model."""

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
    """Cancel some of a model's waiting jobs, of one tenant or all; numbers canceled and left."""
    lines = tuple(keys.rq_key("queue", q) for q in keys.queue_names(model))
    args = (most, tenant or "")
    # to count only, with a `most` of 0, no replica is needed
    return Call(load("purge"), lines, args, lambda r: (int(r[0]), int(r[1])), lasting=most > 0)


def pause(models: Sequence[str], *, resume: bool = False) -> Call[int]:
    """Stop workers from taking jobs, or let them again; the number of running jobs."""
    queues = [queue for model in models for queue in keys.queue_names(model)]
    return Call(load("pause"), (), ("resume" if resume else "pause", *queues), int, lasting=True)


def drain_worker(name: str) -> Call[bool]:
    """Drain a worker: no new jobs, then end; False: no worker of this name listens."""
    order = json.dumps({"command": "shutdown"})
    return Call(load("drain_worker"), (keys.rq_key("worker", name),), (name, order), bool)


def workers() -> Call[tuple[WorkerReport, ...]]:
    """Read the workers' reports; `running` and `draining` are of this moment."""

    def one(report: Any, running: Any, ends: Any) -> WorkerReport:
        said = WorkerReport.model_validate_json(report)
        now = {"running": int(running), "draining": said.draining or bool(ends)}
        return said.model_copy(update=now)

    def parse(reply: list[Any]) -> tuple[WorkerReport, ...]:
        return tuple(one(*reply[i : i + 3]) for i in range(0, len(reply), 3))

    return Call(load("workers"), (), (), parse)


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
    return record_in(job_id, reply[1])


def record_in(job_id: str, snapshot: Sequence[Any]) -> JobRecord:
    """Build the record of a snapshot by snapshot.lua."""
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
    """Return the seconds until a job behind `ahead` starts; None: no throughput is known.

    A job starts when a place in a batch is free, not when the batch is over: on average half of
    what the workers hold then is still to be done.
    """
    return round((ahead + held / 2) / rate, 1) if rate > 0 else None


def _page(reply: Sequence[Any]) -> Page:
    cursor, found = text(reply[0]), list(reply[1])
    jobs = [record_in(text(found[i]), found[i + 1]) for i in range(0, len(found), 2)]
    return Page(jobs=tuple(jobs), next_cursor=cursor or None)
