"""Jobs: send, look, list, cancel, repeat, delete.

Owns the resource `job` of docs/api.md. Every call is one script or one read of the store; what
is asked is validated and priced here, without torch. Must not know Redis.
"""

from __future__ import annotations

import logging
import secrets
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response

from api.access.auth import Caller, Reader, Writer
from api.access.request_body import JobId, Prefer, Wait, base_url, read_request, wait_left, wait_of
from api.edge.openapi import JOB_REQUEST_BODY, problems
from api.edge.responses import json_answer, pace, tagged_answer
from api.errors import ImageMissing, IntakeBusy, InvalidIdempotencyKey, PromptBlocked
from api.services.container import Services, ServicesDep, services_of
from api.submission.admission import Sending, sent
from api.submission.idempotency import IdempotencyKey, idempotency_of, key_of, replay_headers
from api.views.jobs import Job, JobPage, Quote, job_of, page_of, quote_of, resolved_of
from jobs.contract.record import JobRecord, Status
from jobs.contract.resolve import resolve
from jobs.contract.spec import JobRequest, JobSpec
from jobs.contract.submission import Admitted
from jobs.errors import (
    BlobsUnavailable,
    IdempotencyMismatch,
    InputGone,
    InputMissing,
    InvalidRequest,
    JobGone,
    JobMissing,
    NotReplicated,
    QueueFull,
    TenantLimit,
)
from jobs.ids import JOB_ID

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
REFUSALS = problems(
    InvalidIdempotencyKey,
    InvalidRequest,
    PromptBlocked,
    IdempotencyMismatch,
    JobGone,  # a replay whose job is gone
    TenantLimit,
    QueueFull,
    NotReplicated,
    InputMissing,
    JobMissing,  # an earlier job whose image was to be begun with
    ImageMissing,
    IntakeBusy,
    BlobsUnavailable,
)
CURSOR = f"^{JOB_ID.pattern}$"
NO_JOB = problems(JobMissing, JobGone)
NO_JOB_OR_COPY = problems(JobMissing, JobGone, NotReplicated)


def resolved_spec(request: JobRequest, services: Services) -> JobSpec:
    """What `request` comes to. The seed is drawn here, so that a second sending changes nothing."""
    spec = resolve(
        request,
        services.catalogue,
        draw_seed=lambda: secrets.randbelow(2**32),
        default_retention_s=services.settings.retention_s,
    )
    try:
        services.policy.check(
            spec.prompt
        )  # last: its work is bounded by the model's longest prompt
    except PromptBlocked as blocked:
        services.metrics.admitted(blocked.code)
        raise
    return spec


async def spec_of(asked: JobRequest, services: Services, caller: Caller) -> JobSpec:
    """What `asked` comes to, its pictures of the job's own size."""
    return await services.intake.fitted(resolved_spec(asked, services), tenant=caller.tenant)


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
    return await answer_sent(request, caller, admitted, wait_s=wait_s, keyed=key is not None)


async def admit(
    services: Services,
    caller: Caller,
    spec: JobSpec,
    asked: JobRequest,
    *,
    key: tuple[str, str] | None,
) -> Admitted:
    """Have `spec` admitted for the caller, once for each idempotency key."""
    idempotency = idempotency_of(key, caller.tenant, asked)
    job = Sending.of(services, spec, caller)
    with sent(services, caller, [job]) as told:
        admitted = await services.store.admit(
            spec,
            tenant=caller.tenant,
            job_id=job.new.id,
            idempotency=idempotency,
            limits=caller.limits(services.settings),
            sender=job.new.sender,
        )
        told([admitted.record], replayed=admitted.replayed)
    return admitted


async def answer_sent(
    request: Request, caller: Caller, admitted: Admitted, *, wait_s: int, keyed: bool
) -> Response:
    """Wait if asked to, then say what became of the job: 200 if it is done, else 202."""
    record = admitted.record
    headers = replay_headers(record, replayed=admitted.replayed) if keyed else {}
    if wait_s:
        wait_s = wait_left(request, wait_s)
        following = services_of(request).following
        record = await following.until_final(record, wait_s, key_id=caller.key_id)
        headers["preference-applied"] = f"wait={wait_s}"
    job = job_of(record, base_url(request))
    headers |= {"location": job.urls.self, **pace(job)}
    done = "preference-applied" in headers and job.status.final
    return json_answer(job, status=200 if done else 202, headers=headers)


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
    return await answer_sent(request, caller, admitted, wait_s=wait_s, keyed=key is not None)


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
