"""The calls that a client's request becomes: admit, read, list, cancel, delete, queue.

Owns their keys and arguments and the reading of their answers. Knows no connection; RQ is used
only to build the hash that RQ's own tools expect. Invariant: prompts are in one field of the job
hash and nowhere else; RQ sees the job's ID as description and only argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from redis import Redis
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.serializers import JSONSerializer

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
from jobs.scripts import Call, load, maybe, text
from jobs.spec import JobSpec

FUNCTION = "worker.rq_bridge.generate"  # the one function a job may name; never imported by name
RQ_RETRIES = 3  # spent where RQ's own tools find a job abandoned, and by errors worth a retry
RUN_LIMIT_S = 3600  # longest run of one job; the watchdog finds a hung engine long before
LOOK_AT_MOST = 1000  # entries one page of a filtered listing goes through
EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}


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
            f"{spec.cost:.6f}",
            "" if spec.deadline_s is None else spec.deadline_s,
            *(_limit(x) for x in (limits.max_jobs, limits.max_cost, limits.tenant_jobs)),
            limits.tenant_line,
            idempotency.fingerprint if idempotency else "",
            " ".join(f"{tenant}/{an_id}" for an_id in spec.inputs),
            *_hash_fields(spec, tenant, job_id, queue, idempotency, sender),
        ),
        lambda reply: _admitted(job_id, reply),
        lasting=True,
    )


def _limit(value: float | None) -> str | float:
    return "" if value is None else value


def _hash_fields(
    spec: JobSpec,
    tenant: str,
    job_id: str,
    queue: str,
    idempotency: Idempotency | None,
    sender: Sender,
) -> list[str | bytes | int | float]:
    """RQ's own fields, built by RQ, then ours; names and values in turn."""
    fields: dict[str, Any] = {
        **_rq_job(job_id, queue, spec.retention_s).to_dict(),
        Field.SPEC: spec.model_dump_json(),
        Field.TENANT: tenant,
        Field.SIZE_CLASS: spec.size_class,
        Field.COST: f"{spec.cost:.6f}",
        Field.N: spec.n,
        Field.EXTENSION: EXTENSIONS[spec.output.format],
        Field.STEPS: 0,
        Field.WORK: f"{spec.megapixel_steps:.6f}",
    }
    optional = {
        Field.IDEMPOTENCY: idempotency and idempotency.digest,
        Field.WEBHOOK: spec.webhook and spec.webhook.model_dump_json(),
        Field.KEY_ID: sender.key,
        Field.GROUP: sender.group,
        Field.TRACE: sender.trace,
    }
    fields |= {name: value for name, value in optional.items() if value}
    flat: list[str | bytes | int | float] = []
    for name, value in fields.items():
        flat += [str(name), value.value if isinstance(value, JobStatus) else value]
    return flat


def _rq_job(job_id: str, queue: str, retention_s: int) -> Job:
    nowhere = cast("Redis", object())  # RQ wants one at hand; building a hash never uses it
    job = Job.create(
        FUNCTION,
        args=(job_id,),
        id=job_id,
        connection=nowhere,
        origin=queue,
        timeout=RUN_LIMIT_S,
        result_ttl=retention_s,
        failure_ttl=retention_s,  # RQ's default is a year
        description=job_id,  # RQ's default is the call with its arguments, and it is logged
        status=JobStatus.QUEUED,
        serializer=JSONSerializer,
    )
    job.retries_left = RQ_RETRIES
    job.enqueue_at_front_on_retry = True
    job.enqueued_at = job.created_at  # both are written again by the script, in Redis time
    return job


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
    return Call(load("purge"), lines, args, lambda r: (int(r[0]), int(r[1])), lasting=True)


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
    fields: dict[str, str | None] = dict(zip(names, (maybe(v) for v in snapshot[0]), strict=True))
    return record_of(job_id, fields, queue=_place(snapshot[1]))


def _place(place: Sequence[Any]) -> QueuePlace | None:
    if not place:
        return None
    position, ahead, rate, held, _ = (float(text(x)) for x in place)
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
