"""Calls that admit one job, or a group of jobs, by the same script.

Owns the calls' keys and arguments and the reading of their answers; a new job's hash is
jobs/store/scripts/job_hash.py's. Knows no connection. Invariant: a refusal of the script is an
error of ours, and has written nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic_core import to_json
from rq.queue import Queue

from jobs.contract.spec import JobSpec
from jobs.contract.submission import (
    NOBODY,
    AdmitLimits,
    Admitted,
    AdmittedGroup,
    Group,
    Idempotency,
    NewGroup,
    NewJob,
    SubmissionOrigin,
)
from jobs.errors import (
    GroupTooLarge,
    IdempotencyMismatch,
    InputMissing,
    JobGone,
    QueueFull,
    TenantLimit,
)
from jobs.store import keys
from jobs.store.keys import HashField
from jobs.store.scripts import Call, load, text
from jobs.store.scripts.client_calls import record_in
from jobs.store.scripts.job_hash import job_fields, rq_data

T = TypeVar("T")


def admit(
    spec: JobSpec,
    *,
    tenant: str,
    job_id: str,
    idempotency: Idempotency | None,
    limits: AdmitLimits,
    sender: SubmissionOrigin = NOBODY,
) -> Call[Admitted]:
    """Accept a job. Raises the errors of AsyncJobStore.admit."""
    job = NewJob(id=job_id, spec=spec, sender=sender)

    def parse(reply: list[Any]) -> Admitted:
        _check(reply, 1)
        ((shown_id, snapshot),) = reply[2]
        return Admitted(record=record_in(text(shown_id), snapshot), replayed=_replayed(reply))

    digest = idempotency.digest if idempotency else None
    each = _packed(job, tenant, digest)
    return _call(tenant, each, "", "", idempotency=idempotency, limits=limits, parse=parse)


def admit_group(
    group: NewGroup, *, tenant: str, idempotency: Idempotency | None, limits: AdmitLimits
) -> Call[AdmittedGroup]:
    """Accept all jobs of a group or none. Raises the errors of AsyncJobStore.admit_group."""

    def parse(reply: list[Any]) -> AdmittedGroup:
        _check(reply, len(group.jobs))
        shown = [(text(an_id), snapshot) for an_id, snapshot in reply[2]]
        return AdmittedGroup(
            group=Group.model_validate_json(reply[1]),
            records=tuple(record_in(an_id, snapshot) for an_id, snapshot in shown if snapshot),
            gone=tuple(an_id for an_id, snapshot in shown if not snapshot),
            replayed=_replayed(reply),
        )

    of_group = [replace(j, sender=replace(j.sender, group=group.id)) for j in group.jobs]
    each = [part for job in of_group for part in _packed(job, tenant, None)]
    own = group.webhook.model_dump_json() if group.webhook else ""
    return _call(tenant, each, group.id, own, idempotency=idempotency, limits=limits, parse=parse)


def _call(
    tenant: str,
    each: Sequence[bytes],
    group_id: str,
    webhook: str,
    *,
    idempotency: Idempotency | None,
    limits: AdmitLimits,
    parse: Callable[[list[Any]], T],
) -> Call[T]:
    entry = (keys.idempotency(idempotency.digest),) if idempotency else ()
    bounds = (limits.max_jobs, limits.max_cost, limits.tenant_jobs)
    return Call(
        load("admit"),
        (keys.tenant_open(tenant), keys.tenant_jobs(tenant), Queue.redis_queues_keys, *entry),
        (
            tenant,
            *("" if bound is None else bound for bound in bounds),
            limits.tenant_line,
            idempotency.fingerprint if idempotency else "",
            group_id,
            webhook,
            *each,
        ),
        parse,
        lasting=True,
    )


def _packed(job: NewJob, tenant: str, digest: str | None) -> tuple[bytes, bytes]:
    """Pack a job for `admit.lua`: RQ's `data`, and all the rest as one list of JSON.

    redis-py spends twelve calls on each argument: sixty of them were a fifth of a submit. `data` is
    compressed, so no JSON could carry it.
    """
    spec = job.spec
    queue = keys.queue_name(spec.model, spec.priority)
    fields = job_fields(
        spec, tenant=tenant, job_id=job.id, queue=queue, digest=digest, sender=job.sender
    )
    rest = [
        job.id,
        queue,
        fields[HashField.COST],
        "" if spec.deadline_s is None else spec.deadline_s,
        " ".join(f"{tenant}/{an_id}" for an_id in spec.inputs),
        [value for pair in fields.items() for value in pair],
    ]
    return rq_data(job.id), to_json(rest)


def _replayed(reply: Sequence[Any]) -> bool:
    return text(reply[0]) == "replay"


def _check(reply: Sequence[Any], asked: int) -> None:
    """Raise the error of a refusal."""
    match text(reply[0]):
        case "ok" | "replay":
            return
        case "mismatch":
            raise IdempotencyMismatch(
                "this Idempotency-Key was used for another request: use a new key"
            )
        case "tenant":
            raise _tenant_limit(int(reply[1]), int(text(reply[2])), asked)
        case "input":
            raise InputMissing(
                f"there is no input {text(reply[1]).rpartition('/')[2]} any more: upload the "
                "image again"
            )
        case "full":
            raise QueueFull(f"{text(reply[1])} jobs wait for this model already: try again later")
        case _:
            raise JobGone("the job of this Idempotency-Key is gone: use a new key")


def _tenant_limit(under_way: int, most: int, asked: int) -> TenantLimit:
    state = f"{under_way} of your jobs are unfinished, and the limit is {most}"
    if asked == 1:
        return TenantLimit(f"{state}: wait for one to end")
    if asked <= most:
        return TenantLimit(f"{state}: wait until {asked} more fit")
    return GroupTooLarge(f"{asked} jobs in one group, and the limit is {most}: send fewer together")
