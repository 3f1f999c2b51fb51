"""Job groups: up to 100 jobs sent, read and canceled together.

Owns the resource `job-group`. Must not know Redis. Invariant: all jobs of a group are accepted or
none is, in one step of the store: no group is ever partial, and no job is taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from api.access.auth import Caller, Reader, Writer
from api.access.request_body import base_url, parsed, read_body
from api.edge.openapi import json_body, problems
from api.edge.responses import json_answer
from api.edge.strict_json import strict_json
from api.services.container import Services, ServicesDep
from api.submission.admission import Sending, sent
from api.submission.idempotency import IdempotencyKey, key_of
from api.submission.submit import REFUSALS, spec_of
from api.views.jobs import Job, View, job_of
from jobs.contract.parsing import parse_request, problems_of
from jobs.contract.record import JobRecord, Status
from jobs.contract.request_parts import GroupWebhook
from jobs.contract.spec import JobRequest, JobSpec
from jobs.contract.submission import AdmittedGroup, Group, Idempotency, NewGroup
from jobs.errors import (
    GroupMissing,
    InvalidRequest,
    JobMissing,
    NotReplicated,
    Problem,
)
from jobs.ids import is_job_id, new_job_id
from jobs.store.groups import group_idempotency

router = APIRouter(prefix="/v1/job-groups", tags=["groups"])
MAX_JOBS = 100
AT_ONCE = 16  # calls to Redis of one request at a time, so that others are not delayed
NO_GROUP = problems(GroupMissing)
EXAMPLE = {"two": {"value": {"jobs": [{"prompt": "a red owl"}, {"prompt": "a blue owl"}]}}}


class GroupRequest(BaseModel):
    """A group of jobs to send together."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    jobs: list[JobRequest] = Field(min_length=1, max_length=MAX_JOBS)
    webhook: GroupWebhook | None = Field(
        None, description="Webhook for the end of the last job (`group.completed`)."
    )


class GroupView(View):
    """A job group: its jobs now, counts by status, deleted jobs."""

    id: str
    created_at: datetime
    done: bool = Field(description="Whether every job has ended.")
    counts: dict[Status, int] = Field(description="Jobs by status, without those in `gone`.")
    jobs: list[Job]
    gone: list[str] = Field(description="Jobs that were deleted or have expired.")
    url: str


async def read_group_request(request: Request) -> GroupRequest:
    """Parse the group in the body; a problem's pointer names the job: `/jobs/2/steps`."""
    return await parsed(request, await read_body(request), _group_request)


def _group_request(json: bytes) -> GroupRequest:
    body = strict_json(json)
    if not isinstance(body, dict) or not isinstance(body.get("jobs"), list):
        raise InvalidRequest([Problem("/jobs", "missing", 'send {"jobs": [...]}')])
    if not 1 <= len(body["jobs"]) <= MAX_JOBS:
        raise InvalidRequest([Problem("/jobs", "too_many", f"from 1 to {MAX_JOBS} jobs")])
    jobs = [_parsed(k, one) for k, one in enumerate(body["jobs"])]
    try:
        return GroupRequest.model_validate({**body, "jobs": jobs})
    except ValidationError as error:
        raise InvalidRequest(problems_of(error, GroupRequest)) from None


def _parsed(index: int, one: Any) -> JobRequest:
    try:
        if not isinstance(one, dict):
            raise InvalidRequest([Problem("", "not_a_job", "must be a job request, a JSON object")])
        return parse_request(one)
    except InvalidRequest as error:
        raise _of_job(index, error) from None


def _of_job(index: int, error: InvalidRequest) -> InvalidRequest:
    """Return the error with `/jobs/index` before its pointers; its class stays the same."""
    error.problems = tuple(replace(p, pointer=f"/jobs/{index}{p.pointer}") for p in error.problems)
    return error


def _ours(group_id: str) -> str:
    if not is_job_id(group_id):
        raise GroupMissing("there is no such group")
    return group_id


GroupId = Annotated[str, AfterValidator(_ours), Path(description="The group's ID.")]


@router.post(
    "",
    status_code=202,
    response_model=GroupView,
    summary="Send a group of jobs",
    responses=REFUSALS,
    openapi_extra=json_body(GroupRequest, EXAMPLE),
)
async def send_group(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    asked: Annotated[GroupRequest, Depends(read_group_request)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue all jobs of the group or none. The same Idempotency-Key returns the same group."""
    key = key_of(request, idempotency_key)
    for webhook in (asked.webhook, *(one.webhook for one in asked.jobs)):
        await services.webhooks.check_own(webhook, tenant=caller.tenant)
    taken = [await _taken(k, one, services, caller) for k, one in enumerate(asked.jobs)]
    jobs, specs = [job for job, _ in taken], [spec for _, spec in taken]
    idempotency = group_idempotency(key, caller.tenant, jobs, asked.webhook)
    admitted = await _admit_all(services, caller, specs, idempotency, asked.webhook)
    view = view_of(admitted.group, admitted.records, admitted.gone, base_url(request))
    headers = {"location": view.url}
    if admitted.replayed:
        headers["idempotency-replayed"] = "true"
    return json_answer(view, status=202, headers=headers)


async def _taken(
    index: int, asked: JobRequest, services: Services, caller: Caller
) -> tuple[JobRequest, JobSpec]:
    """Store the input images of one job; return its request and its spec."""
    try:
        taken = await services.intake.take_in(asked, tenant=caller.tenant)
        return taken, await spec_of(taken, services, caller)
    except InvalidRequest as error:
        raise _of_job(index, error) from None


async def _admit_all(
    services: Services,
    caller: Caller,
    specs: Sequence[JobSpec],
    idempotency: Idempotency | None,
    webhook: GroupWebhook | None,
) -> AdmittedGroup:
    """Admit all jobs in one step and count each. Raises the reason if none was admitted."""
    jobs = [Sending.of(services, spec, caller) for spec in specs]
    group = NewGroup(id=new_job_id(), jobs=[job.new for job in jobs], webhook=webhook)
    with sent(services, caller, jobs) as told:
        admitted = await services.store.admit_group(
            group,
            tenant=caller.tenant,
            idempotency=idempotency,
            limits=caller.limits(services.settings),
        )
        told(admitted.records, replayed=admitted.replayed)
    return admitted


@router.get("/{group_id}", response_model=GroupView, summary="Get a group", responses=NO_GROUP)
async def get_group(
    request: Request, services: ServicesDep, caller: Reader, group_id: GroupId
) -> Response:
    """Return the group and its jobs, in the order they were sent."""
    group = await services.groups.read(group_id, tenant=caller.tenant)
    return json_answer(await _seen(services, group, base_url(request), cancel=False))


@router.post(
    "/{group_id}/cancel",
    response_model=GroupView,
    summary="Cancel a group",
    responses=problems(GroupMissing, NotReplicated),
)
async def cancel_group(
    request: Request, services: ServicesDep, caller: Writer, group_id: GroupId
) -> Response:
    """Cancel every job of the group that has not ended."""
    group = await services.groups.read(group_id, tenant=caller.tenant)
    return json_answer(await _seen(services, group, base_url(request), cancel=True))


async def _seen(services: Services, group: Group, base: str, *, cancel: bool) -> GroupView:
    """Read or cancel each job of the group; return the group's view."""
    turn = asyncio.Semaphore(AT_ONCE)
    call = services.store.cancel if cancel else services.store.read

    async def one(job_id: str) -> JobRecord | str:
        async with turn:
            try:
                return await call(job_id, tenant=group.tenant)
            except JobMissing:
                return job_id

    found = await asyncio.gather(*(one(job_id) for job_id in group.jobs))
    records = [r for r in found if not isinstance(r, str)]
    return view_of(group, records, [r for r in found if isinstance(r, str)], base)


def view_of(
    group: Group, records: Sequence[JobRecord], gone: Sequence[str], base: str
) -> GroupView:
    """Return the public view of a group."""
    statuses = [record.status for record in records]
    return GroupView(
        id=group.id,
        created_at=group.created_at,
        done=all(status.final for status in statuses),
        counts={status: statuses.count(status) for status in dict.fromkeys(statuses)},
        jobs=[job_of(record, base) for record in records],
        gone=list(gone),
        url=f"{base}/v1/job-groups/{group.id}",
    )
