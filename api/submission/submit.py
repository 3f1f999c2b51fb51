"""Submission: turns a request into an admitted job, for every route and dialect that sends jobs.

Owns the order: resolve, check the prompt policy, fit input images, admit, wait, respond. Must not
know Redis or a body's syntax. Invariant: an accepted job is never lost, and a request is admitted
once for each idempotency key.
"""

from __future__ import annotations

import secrets

from fastapi import Request, Response

from api.access.auth import Caller
from api.access.request_body import base_url, wait_left
from api.edge.openapi import problems
from api.edge.responses import json_answer, pace
from api.errors import ImageMissing, IntakeBusy, InvalidIdempotencyKey, PromptBlocked
from api.services.container import Services, services_of
from api.submission.admission import Sending, sent
from api.submission.idempotency import idempotency_of, replay_headers
from api.views.jobs import job_of
from jobs.contract.resolve import resolve
from jobs.contract.spec import JobRequest, JobSpec
from jobs.contract.submission import Admitted
from jobs.errors import (
    BlobsUnavailable,
    IdempotencyMismatch,
    InputMissing,
    InvalidRequest,
    JobGone,
    JobMissing,
    NotReplicated,
    QueueFull,
    TenantLimit,
)

REFUSALS = problems(
    InvalidIdempotencyKey,
    InvalidRequest,
    PromptBlocked,
    IdempotencyMismatch,
    JobGone,  # a replay whose job or group is gone
    TenantLimit,
    QueueFull,
    NotReplicated,
    InputMissing,
    JobMissing,  # an earlier job named as the source of an input image
    ImageMissing,
    IntakeBusy,
    BlobsUnavailable,
)


def resolved_spec(request: JobRequest, services: Services) -> JobSpec:
    """Resolve `request` to a spec. A random seed is chosen here, so that a retry keeps it."""
    spec = resolve(
        request,
        services.catalogue,
        draw_seed=lambda: secrets.randbelow(2**32),
        default_retention_s=services.settings.retention_s,
    )
    try:
        # last: its work is bounded by the model's longest prompt
        services.policy.check(spec.prompt)
    except PromptBlocked as blocked:
        services.metrics.admitted(blocked.code)
        raise
    return spec


async def spec_of(asked: JobRequest, services: Services, caller: Caller) -> JobSpec:
    """Resolve `asked` to a spec, its input images resized to the job's size."""
    return await services.intake.fitted(resolved_spec(asked, services), tenant=caller.tenant)


async def admit(
    services: Services,
    caller: Caller,
    spec: JobSpec,
    asked: JobRequest,
    *,
    key: tuple[str, str] | None,
) -> Admitted:
    """Admit `spec` for the caller, once for each idempotency key."""
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


async def respond(
    request: Request, caller: Caller, admitted: Admitted, *, wait_s: int, keyed: bool
) -> Response:
    """Wait up to `wait_s` seconds, then respond with the job: 200 if it ended, else 202."""
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
