"""Error responses: `application/problem+json` (RFC 9457), or a router's own shape.

Owns HTTP status, title and headers of each class of `jobs/errors.py`, and the choice of the shape
by path. Must not know routes. Invariant: every error response is short and never echoes the
request.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from api.errors import (
    BadRequest,
    BodyTimeout,
    HttpError,
    IntakeBusy,
    MethodNotAllowed,
    PromptBlocked,
    RangeNotSatisfiable,
    RateLimited,
    RouteMissing,
    TooManyConnections,
    TooManyDownloads,
    TooManyStreams,
    Unauthorized,
)
from jobs import errors as jobs_errors
from jobs.errors import (
    DeliveryMissing,
    EndpointMissing,
    GroupMissing,
    InvalidRequest,
    KeyMissing,
    KeyRotated,
    NotAdmitted,
    PrintworksError,
    Problem,
    SealingUnset,
    TooManyEndpoints,
)

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
MAX_RETRY_AFTER_S = 60
MAX_DETAIL = 500
MAX_PROBLEM_CHARS = 2_500  # with detail and the rest under 4 KiB


@dataclass(frozen=True, slots=True)
class ProblemType:
    """HTTP status and title of a class of error."""

    status: int
    title: str


# 429: the caller is over a limit; 503: the service is. The common SDKs retry both.
TABLE: dict[type[PrintworksError], ProblemType] = {
    InvalidRequest: ProblemType(422, "The request is invalid"),
    PromptBlocked: ProblemType(422, "The prompt is not allowed"),
    jobs_errors.IdempotencyMismatch: ProblemType(
        422, "The idempotency key was used for another request"
    ),
    jobs_errors.TenantLimit: ProblemType(429, "Too many unfinished jobs"),
    RateLimited: ProblemType(429, "Too many requests per minute"),
    TooManyStreams: ProblemType(429, "Too many open streams"),
    TooManyDownloads: ProblemType(429, "Too many simultaneous downloads"),
    IntakeBusy: ProblemType(503, "Too many simultaneous uploads"),
    TooManyConnections: ProblemType(503, "Too many connections are open"),
    jobs_errors.QueueFull: ProblemType(503, "The queue is full"),
    NotAdmitted: ProblemType(503, "The job cannot be accepted now"),
    jobs_errors.JobGone: ProblemType(410, "The job was deleted or has expired"),
    jobs_errors.JobMissing: ProblemType(404, "There is no such job"),
    jobs_errors.NotReplicated: ProblemType(503, "Too few Redis replicas confirmed the write"),
    jobs_errors.StorageFull: ProblemType(503, "Redis is out of memory"),
    jobs_errors.StoreUnavailable: ProblemType(503, "Redis is unavailable"),
    jobs_errors.InputGone: ProblemType(410, "The input image was deleted"),
    jobs_errors.InputMissing: ProblemType(404, "There is no such input image"),
    GroupMissing: ProblemType(404, "There is no such group"),
    KeyMissing: ProblemType(404, "There is no such key"),
    KeyRotated: ProblemType(409, "The key was rotated already"),
    jobs_errors.BlobMissing: ProblemType(410, "The image is no longer stored"),
    EndpointMissing: ProblemType(404, "There is no such endpoint"),
    DeliveryMissing: ProblemType(404, "There is no such delivery"),
    TooManyEndpoints: ProblemType(422, "Too many webhook endpoints"),
    SealingUnset: ProblemType(501, "Webhooks are not configured"),
    jobs_errors.BlobsUnavailable: ProblemType(503, "Object storage is unavailable"),
}
_BY_STATUS: dict[int, type[HttpError]] = {404: RouteMissing, 405: MethodNotAllowed}


def shown(kind: type[PrintworksError]) -> ProblemType:
    """Return status and title of a class: its own, or the nearest base class's."""
    if issubclass(kind, HttpError):
        return ProblemType(kind.status, kind.title)
    bases = (TABLE[base] for base in kind.__mro__ if base in TABLE)
    return next(bases, ProblemType(500, "Internal error"))


def problem_body(error: PrintworksError, *, path: str, request_id: str) -> dict[str, Any]:
    """Build the members of RFC 9457 and the added ones: code, request_id, retryable, errors."""
    look = shown(type(error))
    problems: Sequence[Problem] = getattr(error, "problems", ())
    body: dict[str, Any] = {
        "type": f"urn:printworks:problem:{error.code}",
        "title": look.title,
        "status": look.status,
        "detail": _detail(error, look.status)[:MAX_DETAIL],
        "instance": path[:200],
        "code": error.code,
        "request_id": request_id,
        "retryable": error.retryable,
    }
    if problems:
        body["errors"] = _shortened(problems)
    return body


def _detail(error: PrintworksError, status: int) -> str:
    if status == 500:
        return "a fault of the service; report the request_id, which finds the cause in its log"
    problems: Sequence[Problem] = getattr(error, "problems", ())
    if len(problems) < 2:
        return str(error)
    first = problems[0]
    return f"{len(problems)} problems; the first: {first.pointer or '/'}: {first.detail}"


def _shortened(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """Return as many problems as fit: a body may have thousands, the response stays short."""
    fitting: list[dict[str, str]] = []
    left = MAX_PROBLEM_CHARS
    for p in problems:
        left -= len(p.pointer) + len(p.code) + len(p.detail) + 40  # 40: the JSON around them
        if left < 0 and fitting:
            break
        fitting.append({"pointer": p.pointer, "code": p.code, "detail": p.detail})
    return fitting


def problem_response(error: PrintworksError, *, path: str, request_id: str) -> Response:
    """Build the response to a request that failed with `error`."""
    body = problem_body(error, path=path, request_id=request_id)
    return Response(
        json.dumps(body, separators=(",", ":")),
        status_code=body["status"],
        media_type=MEDIA_TYPE,
        headers=_headers(error, body["status"]),
    )


def _headers(error: PrintworksError, status: int) -> dict[str, str]:
    headers = {"cache-control": "no-store"}
    if status in {429, 503} and error.retryable:
        wait_s = max(1.0, getattr(error, "retry_after_s", 1.0))
        headers["retry-after"] = str(math.ceil(min(wait_s, MAX_RETRY_AFTER_S)))
    elif status >= 400 and not error.retryable:
        headers["x-should-retry"] = "false"  # the openai SDK retries 408, 409, 429 otherwise
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, BodyTimeout):  # the rest of that body belongs to no request
        headers["connection"] = "close"
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.total_bytes}"
    return headers


class ErrorShape(Protocol):
    """A renderer of errors in the shape that the clients of one router expect."""

    def __call__(self, error: PrintworksError, *, path: str, request_id: str) -> Response:
        """Return the response to a request for `path` that failed with `error`."""
        ...


@dataclass(frozen=True, slots=True)
class ErrorShapes:
    """Error shapes by path: the longest matching prefix, else problem+json.

    By path, not by route: a request refused before its route is known gets the same shape.
    """

    by_prefix: Mapping[str, ErrorShape] = field(default_factory=dict[str, ErrorShape])

    def answer(self, error: PrintworksError, *, path: str, request_id: str) -> Response:
        """Return the response in the shape of `path`."""
        fitting = [prefix for prefix in self.by_prefix if path.startswith(prefix)]
        shape = self.by_prefix[max(fitting, key=len)] if fitting else problem_response
        return shape(error, path=path, request_id=request_id)


def install(app: FastAPI, shapes: ErrorShapes) -> None:
    """Register the handler that renders every error of `app`."""

    async def answer(request: Request, error: Exception) -> Response:
        ours = translate(error)
        if isinstance(ours, jobs_errors.StoreUnavailable):
            request.app.state.metrics.store_failed(ours.code)
        if isinstance(ours, PromptBlocked) and request.scope.get("sees_rules"):
            said = f"{ours.problems[0].detail} (line {ours.line} of the list)"
            ours.problems = (replace(ours.problems[0], detail=said),)
        if shown(type(ours)).status == 500:
            log.error("api.failed", exc_info=error, extra={"path": request.url.path})
        request_id = request.scope.get("request_id", "")
        response = shapes.answer(ours, path=request.url.path, request_id=request_id)
        if isinstance(ours, MethodNotAllowed):
            response.headers["allow"] = ", ".join(methods_at(request))
        return response

    framework = (HTTPException, RequestValidationError, ClientDisconnect)
    for kind in (PrintworksError, *framework, Exception):
        app.add_exception_handler(kind, answer)


def translate(error: Exception) -> PrintworksError:
    """Convert any exception to a PrintworksError."""
    match error:
        case PrintworksError():
            return error
        case RequestValidationError():
            return InvalidRequest([_of_parameter(item) for item in error.errors()[:20]])
        case HTTPException():
            other = BadRequest if error.status_code < 500 else HttpError
            return _BY_STATUS.get(error.status_code, other)(str(error.detail))
        case ClientDisconnect():
            return BadRequest("the client closed the connection")
        case _:
            return HttpError(type(error).__name__)


def _of_parameter(item: Mapping[str, Any]) -> Problem:
    """Describe a problem with a path, query or header parameter: `?limit`, `Prefer`."""
    where, *names = [str(part) for part in item["loc"]]
    name = names[0] if names else ""
    pointer = f"?{name}" if where == "query" else name
    return Problem(pointer[:100], str(item["type"]), str(item["msg"])[:300])


def methods_at(request: Request) -> list[str]:
    """Return all methods of the path; starlette names those of the first route only."""
    documented: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    every = [*documented.items(), *request.app.state.undocumented]
    at = [verbs for path, verbs in every if _matches(path, request.url.path)]
    return sorted({verb.upper() for verbs in at for verb in verbs})


def _matches(template: str, path: str) -> bool:
    return _pattern(template).match(path) is not None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return compile_path(template)[0]
