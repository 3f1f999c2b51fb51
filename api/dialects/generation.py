"""Generation for dialects: send a job, wait for it, read its images.

Owns the calls that every dialect makes, in terms of this service. Must not know any dialect.
Invariant: what a dialect sends is validated, priced, admitted and logged exactly as at /v1/jobs.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import Request

from api.access.auth import Caller
from api.access.request_body import check_json
from api.routes.images import file_name
from api.services.blob_streaming import chunks_of, open_blob
from api.services.container import Services, services_of
from api.submission.submit import admit, spec_of
from api.uploads.decoder_pool import Bytes
from api.uploads.large_bodies import ExtractedImages, PictureCutter
from jobs.contract.record import Image, JobRecord
from jobs.contract.spec import JobRequest
from jobs.contract.submission import Admitted

NO_IMAGES: Mapping[str, Bytes] = {}
URL_S = 3_600  # seconds that an image URL without a key works: as long as peers' URLs do


@asynccontextmanager
async def json_with_images(request: Request, caller: Caller) -> AsyncGenerator[ExtractedImages]:
    """Read a JSON body that may hold base64 images; each large string becomes a token.

    The images stay in memory, and a place for a large body taken, until the block ends: call
    `send` inside it. Raises UnsupportedMediaType, BodyTimeout, IntakeBusy, PayloadTooLarge.
    """
    check_json(request)
    services = services_of(request)
    cutter = PictureCutter(usual_bytes=services.settings.max_body_bytes)
    most = services.settings.image_json_bytes
    async with services.intake.bodies.read(request, cutter, tenant=caller.tenant, most_bytes=most):
        yield cutter.cut()


async def send(
    request: Request,
    caller: Caller,
    asked: JobRequest,
    *,
    key: tuple[str, str] | None = None,
    images: Mapping[str, Bytes] = NO_IMAGES,
) -> Admitted:
    """Admit `asked` as a job. `key`: (scope, idempotency key); `images`: as of `json_with_images`.

    Raises what a submission to /v1/jobs raises.
    """
    services = services_of(request)
    asked = await services.intake.take_in(asked, tenant=caller.tenant, cut=images)
    spec = await spec_of(asked, services, caller)
    await services.webhooks.check_own(asked.webhook, tenant=caller.tenant)
    return await admit(services, caller, spec, asked, key=key)


async def ended(request: Request, caller: Caller, record: JobRecord, wait_s: float) -> JobRecord:
    """Return the record when the job has ended, or as it is after `wait_s` seconds."""
    if record.status.final or wait_s <= 0:
        return record
    following = services_of(request).following
    return await following.until_final(record, wait_s, key_id=caller.key_id)


async def image_file(services: Services, caller: Caller, image: Image) -> bytes:
    """Return the bytes of one image of a job. Raises BlobMissing, BlobsUnavailable."""
    services.downloads.check_room(caller.tenant)
    stream = await open_blob(services, image.key)
    return b"".join([c async for c in chunks_of(services, stream, tenant=caller.tenant)])


async def image_url(services: Services, job_id: str, image: Image) -> str:
    """Return a presigned URL of one image: needs no key, works for an hour.

    The clients of other services download URLs as they are, without their key.
    """
    # in a thread: the credentials of an instance role are sometimes fetched over the network
    sign = functools.partial(
        services.blobs.presign,
        image.key,
        content_type=image.content_type,
        file_name=file_name(job_id, image),
        method="GET",
        expires_s=URL_S,
    )
    return await anyio.to_thread.run_sync(sign, limiter=services.blob_threads)
