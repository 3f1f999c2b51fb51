"""Jobs: send, read, list, cancel, repeat, delete.

Owns the resource `job` of docs/api.md. Every call is one script or one read of the store; requests
are validated and priced here, without torch. Must not know Redis.
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
        200: {
            "model": Job | Quote,
            "description": "The job ended within the wait; a dry run's Quote",
        }
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
    dry_run: Annotated[
        bool, Query(description="Validate, price and estimate; send no job.")
    ] = False,
) -> Response:
    """Queue a job; an accepted job is never lost. Responds at once, or within `wait` seconds."""
    # as in get_job: one dependency; five more took a fifth of the route's time
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
    model: Annotated[
        str | None, Query(description="Only jobs of this model.", max_length=63)
    ] = None,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the previous page.", pattern=CURSOR)
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs per page.")] = 20,
) -> Response:
    """List your jobs, newest first."""
    page = await services.store.list(
        caller.tenant, status=status, model=model, cursor=cursor, limit=limit
    )
    return json_answer(page_of(page, base_url(request)))


@router.get(
    "/{job_id}",
    response_model=Job,
    summary="Get a job",
    responses={304: {"description": "Unchanged: the ETag you sent is current"}} | NO_JOB,
)
async def get_job(
    request: Request, caller: Reader, job_id: JobId, wait: Wait = 0, prefer: Prefer = ""
) -> Response:
    """Return the job now, or as soon as it ends, within `wait` seconds."""
    # the busiest route: one dependency instead of three saves a sixth of its time
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
    """Cancel a job at once, at any stage; a job that has ended stays as it is.

    `progress.step` is the number of model calls made.
    """
    record = await services.store.cancel(job_id, tenant=caller.tenant)
    return json_answer(job_of(record, base_url(request)))


@router.post(
    "/{job_id}/rerun",
    status_code=202,
    response_model=Job,
    summary="Repeat a job",
    responses={200: {"model": Job, "description": "The job ended within the wait"}}
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
    """Send a new job with the same resolved values: the same seeds, so the same images."""
    services, wait_s = services_of(request), wait_of(request, wait, prefer)
    key = key_of(request, idempotency_key)
    record: JobRecord = await services.store.read(job_id, tenant=caller.tenant)
    asked = JobRequest.model_validate_json(resolved_of(record.spec).model_dump_json())
    spec = resolved_spec(asked, services)  # the model's limits may have changed since
    try:
        admitted = await admit(services, caller, spec, asked, key=key)
    except InputMissing:
        raise InputGone("the input image was deleted; send a new job with another image") from None
    return await respond(request, caller, admitted, wait_s=wait_s, keyed=key is not None)


@router.delete("/{job_id}", status_code=204, summary="Delete a job", responses=NO_JOB_OR_COPY)
async def delete_job(services: ServicesDep, caller: Writer, job_id: JobId) -> Response:
    """Cancel a job and erase its prompt and images; afterwards the job is gone (410)."""
    blobs = await services.store.delete(job_id, tenant=caller.tenant)
    left = await anyio.to_thread.run_sync(
        services.blobs.delete, blobs, limiter=services.blob_threads
    )
    if left:  # the janitor erases them, and logs what it cannot erase
        said = {"job_id": job_id, "count": len(left), "reason": min(left.values())}
        log.warning("api.blobs_left", extra=said)
    return Response(status_code=204)
