"""Request parts that routes depend on: the JSON body, the wait, the job ID, the base URL.

Owns the reading of a request, strictly. Must not know what a route does with it. What is a
dependency is `async def`, though little of it waits: FastAPI runs a plain `def` in a thread, and
five such hops a request halved the rate. And they are few: each costs about 50 us.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import Depends, Header, Path, Query, Request
from pydantic import AfterValidator, BaseModel, ValidationError

from api.access.auth import Caller
from api.edge.strict_json import strict_json
from api.errors import BodyTimeout, UnsupportedMediaType
from api.services.container import services_of
from api.uploads.large_bodies import PictureCutter
from jobs.contract.parsing import parse_request, problems_of
from jobs.contract.spec import JobRequest
from jobs.errors import InvalidRequest, JobMissing
from jobs.ids import is_job_id

# The media type of `curl -d`. A browser posts it across origins unasked: without a key such a
# caller was refused before its body is read (api/access/keyless.py), and a key no page sends
# unasked.
UNDECLARED = {"", "application/x-www-form-urlencoded"}
AT_ONCE = 4 * 1024  # bytes of JSON that are parsed on the loop: 0.1 ms, as long as a thread takes
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})")


async def read_body(request: Request) -> bytes:
    """Read the JSON body within the body timeout; the edge bounds its length."""
    check_json(request)
    try:
        async with asyncio.timeout(services_of(request).settings.body_timeout_s):
            return await request.body()
    except TimeoutError:
        raise BodyTimeout("the body arrived too slowly; send the request again") from None


def check_json(request: Request) -> None:
    """Raise UnsupportedMediaType unless Content-Type is JSON or absent."""
    kind = media_type(request)
    is_json = kind == "application/json" or kind.endswith("+json")
    if not is_json and kind not in UNDECLARED:
        raise UnsupportedMediaType("send Content-Type: application/json")


def media_type(request: Request) -> str:
    """Return the media type of the body, in lower case, without parameters."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def read_request(request: Request, who: Caller) -> JobRequest:
    """Parse the body as a job request, strictly: duplicate keys and non-numbers are refused.

    Images are stored while the body is read, so that no large body is in memory afterwards.
    """
    check_json(request)
    services = services_of(request)
    settings, intake = services.settings, services.intake
    cutter = PictureCutter(usual_bytes=settings.max_body_bytes)
    most_bytes = settings.image_json_bytes
    async with intake.bodies.read(request, cutter, tenant=who.tenant, most_bytes=most_bytes):
        cut = cutter.cut()
        asked = await parsed(request, cut.json, _job_request)
        return await intake.take_in(asked, tenant=who.tenant, cut=cut.pictures)


def _job_request(json: bytes) -> JobRequest:
    asked = parse_request(json)
    strict_json(json)
    return asked


async def parsed(request: Request, body: bytes, read: Callable[[bytes], T]) -> T:
    """Return `read(body)`, in a thread for a large body: parsing takes tens of milliseconds."""
    if len(body) <= AT_ONCE:
        return read(body)
    return await anyio.to_thread.run_sync(read, body, limiter=services_of(request).parsers)


def read_as(model: type[M], body: bytes) -> M:
    """Parse the body as `model`, strictly; no body is an empty object. Raises InvalidRequest."""
    try:
        return model.model_validate(strict_json(body or b"{}"))
    except ValidationError as error:
        raise InvalidRequest(problems_of(error, model)) from None


def body_as(model: type[BaseModel]) -> Any:
    """Return the dependency that parses the body as `model`, strictly."""

    def validated(body: bytes) -> BaseModel:
        strict_json(body)
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            raise InvalidRequest(problems_of(error, model)) from None

    async def read(request: Request) -> BaseModel:
        return await parsed(request, await read_body(request), validated)

    return Depends(read)


def _ours(job_id: str) -> str:
    """Refuse an ID of another form before Redis is asked."""
    if not is_job_id(job_id):
        raise JobMissing("there is no such job")
    return job_id


JobId = Annotated[
    str,
    AfterValidator(_ours),
    Path(description="ID of the job.", examples=["019a0000-0000-7000-8000-000000000000"]),
]


# no `int | None`: FastAPI takes a union apart at every request, for 60 calls
Wait = Annotated[int, Query(ge=0, description="Seconds to wait for the end, 55 at most.")]
Prefer = Annotated[
    str, Header(description="`wait=N`: seconds to wait, as the query parameter.", max_length=200)
]


def wait_of(request: Request, wait: int, prefer: str) -> int:
    """Return the seconds to wait, from `?wait=N` or `Prefer: wait=N` (RFC 7240)."""
    preferred = _WAIT.search(prefer)
    if preferred and "wait" not in request.query_params:
        wait = int(preferred[1])
    return min(wait, services_of(request).settings.max_wait_s)


def wait_left(request: Request, wait_s: int) -> int:
    """Shorten `wait_s` by the request's age, so that the response is within the longest wait.

    Reading input images can take half a minute, and a proxy counts from the start of the request.
    """
    spent_s = time.perf_counter() - request.scope["began_s"]
    return max(0, min(wait_s, math.ceil(services_of(request).settings.max_wait_s - spent_s)))


def base_url(request: Request) -> str:
    """Return the API's public URL, without a last slash."""
    return (services_of(request).settings.public_url or str(request.base_url)).rstrip("/")
