"""Images of a job: streamed through the API, or by a presigned URL that needs no key.

Owns Range, ETag and the file name. S3 is read in threads of its own, one chunk at a time, so that
neither slow object storage nor a slow client blocks the event loop. Invariant: one image costs one
read of the record and one of S3, and never more than a chunk of memory.
"""

from __future__ import annotations

import functools
import re
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.access.auth import Reader
from api.access.request_body import JobId
from api.edge.openapi import problems
from api.edge.responses import etag_matches
from api.errors import ImageMissing, RangeNotSatisfiable, TooManyDownloads
from api.services.blob_streaming import CACHING, byte_range, chunks_of, close_blob, open_blob
from api.services.container import Services, ServicesDep
from jobs.blobs import BlobStream
from jobs.contract.record import Image, JobRecord
from jobs.contract.request_parts import FORMATS
from jobs.errors import BlobsUnavailable, JobGone, JobMissing

router = APIRouter(prefix="/v1/jobs/{job_id}/images", tags=["images"])
EXTENSIONS = {form.content_type: form.extensions for form in FORMATS.values()}
PRESIGNED_S = 600
_NAME = re.compile(r"(\d{1,3})(?:\.([a-z]{1,5}))?")
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_PICTURE = {"content": dict.fromkeys(EXTENSIONS, _BYTES)}
ANSWERS = {
    200: {"description": "The image file", **_PICTURE},
    206: {"description": "The requested range", **_PICTURE},
    302: {"description": "Redirect to a presigned URL: no key, valid for 10 minutes"},
    304: {"description": "Unchanged: the ETag you sent is current"},
} | problems(JobMissing, JobGone, RangeNotSatisfiable, TooManyDownloads, BlobsUnavailable)


@router.get("/{image}", summary="Download an image", response_class=Response, responses=ANSWERS)
async def get_image(
    request: Request,
    services: ServicesDep,
    caller: Reader,
    job_id: JobId,
    *,
    image: Annotated[
        str, Path(description="Index of the image, with or without .png, .jpg or .webp.")
    ],
    redirect: Annotated[bool, Query(description="Redirect to a URL that needs no key.")] = False,
) -> Response:
    """Download one image file. Range requests and ETags work."""
    record = await services.store.read(job_id, tenant=caller.tenant)
    found = find_image(record, image)
    if redirect:
        return await _redirect(services, found, file_name(job_id, found))
    services.downloads.check_room(caller.tenant)
    span = byte_range(request.headers.get("range"), found.bytes)
    stream = await open_blob(services, found.key, span)
    if_range = request.headers.get("if-range")
    if span and if_range and if_range != stream.etag:
        # not the image that the client has a part of: send all of it
        await close_blob(services, stream)
        span, stream = None, await open_blob(services, found.key)
    headers = _headers(job_id, found, stream)
    if etag_matches(request.headers.get("if-none-match"), stream.etag):
        await close_blob(services, stream)
        return Response(status_code=304, headers=headers)
    headers["content-length"] = str(stream.length)
    if stream.content_range:
        headers["content-range"] = stream.content_range
    return StreamingResponse(
        chunks_of(services, stream, tenant=caller.tenant),
        status_code=206 if span else 200,
        media_type=found.content_type,
        headers=headers,
    )


@router.head("/{image}", include_in_schema=False)
async def head_image(
    services: ServicesDep,
    caller: Reader,
    job_id: JobId,
    *,
    image: str,
    redirect: bool = False,
) -> Response:
    """Return the headers of GET: type, length and ETag; or redirect to a URL for HEAD."""
    record = await services.store.read(job_id, tenant=caller.tenant)
    found = find_image(record, image)
    if redirect:
        return await _redirect(services, found, file_name(job_id, found), method="HEAD")
    stream = await open_blob(services, found.key)
    await close_blob(services, stream)
    headers = _headers(job_id, found, stream) | {"content-length": str(stream.length)}
    return Response(media_type=found.content_type, headers=headers)


def find_image(record: JobRecord, name: str) -> Image:
    """Return the image named `0` or `0.png`. Raises ImageMissing with the job's state."""
    match = _NAME.fullmatch(name)
    index = int(match[1]) if match else -1
    found = next((i for i in record.images if i.index == index), None)
    if found is None and not record.status.final:
        raise ImageMissing(f"the job is {record.status}: its images exist once it has succeeded")
    if found is None or match is None:
        raise ImageMissing(f"the job ended {record.status} with {len(record.images)} images")
    if match[2] and match[2] not in EXTENSIONS.get(found.content_type, ()):
        raise ImageMissing(f"this image is {found.content_type}")
    return found


def file_name(job_id: str, image: Image) -> str:
    """Return the file name of a saved image: made of IDs only, never of a prompt."""
    return f"{job_id}-{image.index}.{EXTENSIONS.get(image.content_type, ('bin',))[0]}"


async def _redirect(
    services: Services, image: Image, name: str, *, method: Literal["GET", "HEAD"] = "GET"
) -> Response:
    # in a thread: the credentials of an instance role are sometimes fetched over the network
    sign = functools.partial(
        services.blobs.presign,
        image.key,
        content_type=image.content_type,
        file_name=name,
        method=method,
        expires_s=PRESIGNED_S,
    )
    url = await anyio.to_thread.run_sync(sign, limiter=services.blob_threads)
    return Response(status_code=302, headers={"location": url, "cache-control": "no-store"})


def _headers(job_id: str, image: Image, stream: BlobStream) -> dict[str, str]:
    return {
        "etag": stream.etag,
        "accept-ranges": "bytes",
        "cache-control": CACHING,
        "content-disposition": f'inline; filename="{file_name(job_id, image)}"',
    }
