"""Input images, uploaded once for any number of jobs.

Owns the resource `input` of docs/api.md. Must not know how an image is decoded (api/uploads).
Invariant: responses hold pixels that this service encoded; an uploaded file is never passed on.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator

from api.access.auth import Reader, Writer
from api.access.request_body import base_url, media_type
from api.edge.openapi import problems
from api.edge.responses import etag_matches, json_answer
from api.errors import IntakeBusy, TooManyDownloads, UnsupportedMediaType
from api.services.blob_streaming import CACHING, chunks_of, close_blob, open_blob
from api.services.container import Services, ServicesDep
from api.uploads.forms import FormFile
from api.uploads.large_bodies import Whole
from api.views.jobs import InputView, input_of
from jobs.blobs import BlobStream
from jobs.contract.input_images import CONTENT_TYPE, Input, input_blob_key, is_input_id
from jobs.errors import BlobsUnavailable, InputMissing, InvalidRequest

router = APIRouter(prefix="/v1/inputs", tags=["inputs"])
PICTURES = ("image/png", "image/jpeg", "image/webp", "application/octet-stream")
FORM = "multipart/form-data"
NO_INPUT = problems(InputMissing)
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}},
    }
}
BODY = {"required": True, "content": {**dict.fromkeys(PICTURES, _BYTES), FORM: _FORM}}


def _ours(an_id: str) -> str:
    """Refuse an ID of another form before Redis is asked."""
    if not is_input_id(an_id):
        raise InputMissing("there is no such input image; upload it to /v1/inputs")
    return an_id


InputId = Annotated[
    str,
    AfterValidator(_ours),
    Path(description="ID of the input image.", examples=["128x96-9f86d0..."]),
]


@router.post(
    "",
    status_code=201,
    response_model=InputView,
    summary="Upload an input image",
    responses=problems(InvalidRequest, IntakeBusy, BlobsUnavailable),
    openapi_extra={"requestBody": BODY},
)
async def send_input(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    *,
    background: Annotated[
        str | None,
        Query(pattern="^#?[0-9a-fA-F]{6}$", description="Colour under transparent pixels, RRGGBB."),
    ] = None,
) -> Response:
    """Upload a PNG, JPEG or WebP as the body or as a form's file; equal pixels get the same ID."""
    form, most_bytes = _form(request), services.settings.max_input_bytes
    whole = Whole()
    async with services.intake.bodies.read(
        request, form or whole, tenant=caller.tenant, most_bytes=most_bytes
    ):
        data = form.file() if form else whole.data
        colour = f"#{background.lstrip('#')}" if background else None
        made = await services.intake.upload(data, tenant=caller.tenant, background=colour)
    view = input_of(made, base_url(request))
    location = f"{base_url(request)}/v1/inputs/{made.id}"
    return json_answer(view, status=201, headers={"location": location})


def _form(request: Request) -> FormFile | None:
    """Return the reader of a form, or None for an image. Raises UnsupportedMediaType."""
    kind = media_type(request)
    if kind == FORM:
        return FormFile(request.headers["content-type"])
    if kind not in PICTURES:
        raise UnsupportedMediaType(f"send one of {', '.join(PICTURES)}, {FORM}")
    return None


@router.get(
    "/{input_id}",
    response_model=InputView,
    summary="Get an input image's record",
    responses=NO_INPUT,
)
async def get_input(
    request: Request, services: ServicesDep, caller: Reader, input_id: InputId
) -> Response:
    """Return size, hash and expiry of an input image."""
    found = await services.intake.find(input_id, tenant=caller.tenant)
    return json_answer(input_of(found, base_url(request)))


@router.get(
    "/{input_id}/content",
    summary="Download an input image",
    response_class=Response,
    responses={
        200: {"description": "The pixels, as a PNG", "content": {CONTENT_TYPE: _BYTES}},
        304: {"description": "Unchanged: the ETag you sent is current"},
    }
    | problems(InputMissing, TooManyDownloads, BlobsUnavailable),
)
async def get_input_content(
    request: Request, services: ServicesDep, caller: Reader, input_id: InputId
) -> Response:
    """Download the decoded pixels that the model gets, not the uploaded file."""
    found = await services.intake.find(input_id, tenant=caller.tenant)
    headers = {"etag": f'"{input_id}"', "cache-control": CACHING}
    if etag_matches(request.headers.get("if-none-match"), headers["etag"]):
        return Response(status_code=304, headers=headers)
    return await _content(services, caller.tenant, found, headers)


@router.head("/{input_id}/content", include_in_schema=False)
async def head_input_content(services: ServicesDep, caller: Reader, input_id: InputId) -> Response:
    """Return the headers of GET for the pixels."""
    found = await services.intake.find(input_id, tenant=caller.tenant)
    stream = await _opened(services, caller.tenant, found)
    await close_blob(services, stream)
    headers = {"etag": f'"{input_id}"', "cache-control": CACHING}
    headers["content-length"] = str(stream.length)
    return Response(media_type=CONTENT_TYPE, headers=headers)


async def _opened(services: Services, tenant: str, found: Input) -> BlobStream:
    return await open_blob(services, input_blob_key(f"{tenant}/{found.id}/{found.blob}"))


async def _content(
    services: Services, tenant: str, found: Input, headers: dict[str, str]
) -> Response:
    services.downloads.check_room(tenant)
    stream = await _opened(services, tenant, found)
    headers["content-length"] = str(stream.length)
    chunks = chunks_of(services, stream, tenant=tenant)
    return StreamingResponse(chunks, media_type=CONTENT_TYPE, headers=headers)


@router.delete("/{input_id}", status_code=204, summary="Delete an input image", responses=NO_INPUT)
async def delete_input(services: ServicesDep, caller: Writer, input_id: InputId) -> Response:
    """Delete at once: jobs that have not read the image fail; jobs that used it cannot be rerun."""
    await services.intake.erase(input_id, tenant=caller.tenant)
    return Response(status_code=204)
