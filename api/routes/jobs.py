"""Jobs: send, look, list, cancel, repeat, delete.

Owns the resource `job` of docs/api.md. Every call is one script or one read of the store; what
is asked is validated and priced here, without torch. Must not know Redis.
"""

from __future__ import annotations

import logging
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response

from api.access.auth import Reader, Writer
from api.access.request_body import JobId, Prefer, Wait, base_url, read_request, wait_of
from api.edge.openapi import JOB_REQUEST_BODY, problems
from api.edge.responses import json_answer, pace, tagged_answer
from api.services.container import Services, ServicesDep, services_of
from api.submission.idempotency import IdempotencyKey, key_of
from api.submission.submit import REFUSALS, admit, resolved_spec, respond, spec_of
from api.views.jobs import Job, JobPage, Quote, job_of, page_of, quote_of, resolved_of
from jobs.contract.record import JobRecord, Status
from jobs.contract.spec import JobRequest, JobSpec
from jobs.errors import (
    InputGone,
    InputMissing,
    JobGone,
    JobMissing,
    NotReplicated,
)
from jobs.ids import JOB_ID

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
CURSOR = f"^{JOB_ID.pattern}$"
NO_JOB = problems(JobMissing, JobGone)
NO_JOB_OR_COPY = problems(JobMissing, JobGone, NotReplicated)


@router.post(
    "",
    status_code=202,
    response_model=Job,
    summary="Send a job",
    responses={
        200: {"model": Job | Quote, "description": "Done within the wait; a dry run's Quote"}
    }
    | REFUSALS,
    openapi_extra=JOB_REQUEST_BODY,
)
async def send_job(
    request: Request,
    caller: Writer,
    wait: Wait = 0,
    prefer: Prefer = "",
    idempotency_key: IdempotencyKey = None,
    *,
    dry_run: Annotated[bool, Query(description="Validate, price and estimate only.")] = False,
) -> Response:
    """Accepted jobs are never lost. The answer comes at once, or after `wait` seconds at most."""
    # as in get_job: one dependency; five more were a fifth of its time
    services, wait_s = services_of(request), wait_of(request, wait, prefer)
    key = key_of(request, idempotency_key)
    asked = await read_request(request, caller)
    spec = await spec_of(asked, services, caller)
    await services.webhooks.check_own(asked.webhook, tenant=caller.tenant)
    if dry_run:
        for an_id in spec.inputs:
            await services.intake.find(an_id, tenant=caller.tenant)
        return json_answer(await _quote(services, spec))
    admitted = await admit(services, caller, spec, asked, key=key)
    return await respond(request, caller, admitted, wait_s=wait_s, keyed=key is not None)


async def _quote(services: Services, spec: JobSpec) -> Quote:
    (queue,) = await services.store.queue_state([spec.model])
    return quote_of(resolved_of(spec), cost=spec.cost, queue=queue)


@router.get("", response_model=JobPage, summary="List your jobs")
async def list_jobs(
    request: Request,
    services: ServicesDep,
    caller: Reader,
    status: Annotated[Status | None, Query(description="Only jobs of this status.")] = None,
    model: Annotated[str | None, Query(description="Only of this model.", max_length=63)] = None,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the page before.", pattern=CURSOR)
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs a page.")] = 20,
) -> Response:
    """Newest first."""
    page = await services.store.list(
        caller.tenant, status=status, model=model, cursor=cursor, limit=limit
    )
    return json_answer(page_of(page, base_url(request)))


@router.get(
    "/{job_id}",
    response_model=Job,
    summary="Look at a job",
    responses={304: {"description": "As your ETag says"}} | NO_JOB,
)
async def get_job(
    request: Request, caller: Reader, job_id: JobId, wait: Wait = 0, prefer: Prefer = ""
) -> Response:
    """The job as it stands, or as it stands when it ends within `wait` seconds."""
    # the route that is asked most: one dependency instead of three is a sixth of its time
    services, wait_s = services_of(request), wait_of(request, wait, prefer)
    record = await services.store.read(job_id, tenant=caller.tenant)
    headers: dict[str, str] = {}
    if wait_s:
        headers["preference-applied"] = f"wait={wait_s}"
        if not record.status.final:
            record = await services.following.until_final(record, wait_s, key_id=caller.key_id)
    job = job_of(record, base_url(request))
    return tagged_answer(request, job, headers | pace(job))


@router.post(
    "/{job_id}/cancel", response_model=Job, summary="Cancel a job", responses=NO_JOB_OR_COPY
)
async def cancel_job(
    request: Request, services: ServicesDep, caller: Writer, job_id: JobId
) -> Response:
    """At once, whatever it is doing; a job that has ended stays as it is.

    `progress.step` says how many model calls were spent.
    """
    record = await services.store.cancel(job_id, tenant=caller.tenant)
    return json_answer(job_of(record, base_url(request)))


@router.post(
    "/{job_id}/rerun",
    status_code=202,
    response_model=Job,
    summary="Repeat a job",
    responses={200: {"model": Job, "description": "Done within the wait"}}
    | REFUSALS
    | problems(JobMissing)
    | problems(JobGone, InputGone),
)
async def rerun_job(
    request: Request,
    caller: Writer,
    job_id: JobId,
    wait: Wait = 0,
    prefer: Prefer = "",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """A new job with the same resolved values: the same seeds, so the same pictures."""
    services, wait_s = services_of(request), wait_of(request, wait, prefer)
    key = key_of(request, idempotency_key)
    record: JobRecord = await services.store.read(job_id, tenant=caller.tenant)
    asked = JobRequest.model_validate_json(resolved_of(record.spec).model_dump_json())
    spec = resolved_spec(asked, services)  # the model's limits may have changed since
    try:
        admitted = await admit(services, caller, spec, asked, key=key)
    except InputMissing:
        raise InputGone("the picture that this job began with was erased") from None
    return await respond(request, caller, admitted, wait_s=wait_s, keyed=key is not None)


@router.delete("/{job_id}", status_code=204, summary="Delete a job", responses=NO_JOB_OR_COPY)
async def delete_job(services: ServicesDep, caller: Writer, job_id: JobId) -> Response:
    """Cancel it, erase its prompt and its pictures. It is gone (410) from now on."""
    blobs = await services.store.delete(job_id, tenant=caller.tenant)
    left = await anyio.to_thread.run_sync(
        services.blobs.delete, blobs, limiter=services.blob_threads
    )
    if left:  # the janitor erases them, and says so where it cannot
        said = {"job_id": job_id, "count": len(left), "reason": min(left.values())}
        log.warning("api.blobs_left", extra=said)
    return Response(status_code=204)
