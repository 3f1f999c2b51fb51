"""Errors that only HTTP has, with code, status and title on the class.

    HttpError               something about the request as HTTP
    NotAdmitted (jobs)      over a limit of this process: streams, downloads, uploads
    InvalidRequest (jobs)   PromptBlocked, by the operator's list

Knows no route and no response: api/edge/problem.py renders every error of the tree.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.errors import InvalidRequest, NotAdmitted, PrintworksError, Problem


class HttpError(PrintworksError):
    """Base class of HTTP's own errors; `status` and `title` stand on the class."""

    status = 500
    title = "Internal error"


class Unauthorized(HttpError):
    """No API key, or an unknown one; send Authorization: Bearer pw_..."""

    code, status, title = "unauthorized", 401, "An API key is required"


class Forbidden(HttpError):
    """The API key is valid but lacks the scope."""

    code, status, title = "forbidden", 403, "The API key lacks the scope"


class OriginNotAllowed(HttpError):
    """A web page of an origin that is not listed sent an unsafe request."""

    code, status, title = "origin_not_allowed", 403, "The page's origin is not allowed"


class RouteMissing(HttpError):
    """No route has this path; /docs lists them."""

    code, status, title = "not_found", 404, "There is no such path"


class ImageMissing(HttpError):
    """The job has no image of this index, or not yet."""

    code, status, title = "image_not_found", 404, "There is no such image"


class ModelMissing(HttpError):
    """No model has this ID; /v1/models lists them."""

    code, status, title = "model_not_found", 404, "There is no such model"


class MethodNotAllowed(HttpError):
    """The path exists, but not with this method; see the Allow header."""

    code, status, title = "method_not_allowed", 405, "The method is not allowed"


class BodyTimeout(HttpError):
    """The client took too long to send its body."""

    code, status, title, retryable = "body_timeout", 408, "The body arrived too slowly", True


class PayloadTooLarge(HttpError):
    """The body is larger than the limit."""

    code, status, title = "payload_too_large", 413, "The body is too large"


class UnsupportedMediaType(HttpError):
    """The Content-Type is not one that the route accepts."""

    code, status, title = "unsupported_media_type", 415, "The media type is not supported"


class RangeNotSatisfiable(HttpError):
    """The range lies outside of the image file."""

    code, status, title = "range_not_satisfiable", 416, "The range is outside of the image"

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        super().__init__(f"the image file has {total_bytes} bytes; ask for a range within them")


class HostNotAllowed(HttpError):
    """A request without a key used a host name that is not allowed."""

    code, status, title = "host_not_allowed", 421, "The host name is not allowed without a key"


class HeadersTooLarge(HttpError):
    """The request's headers are larger than the limit."""

    code, status, title = "headers_too_large", 431, "The headers are too large"


class TooManyStreams(NotAdmitted):
    """The limit of open event streams and waits is reached; poll the job instead."""

    code = "too_many_streams"


class TooManyDownloads(NotAdmitted):
    """The limit of simultaneous downloads is reached; try again shortly."""

    code = "too_many_downloads"


class TooManyConnections(NotAdmitted):
    """The limit of open connections is reached, and none is idle; try again shortly."""

    code = "too_many_connections"


class WorkerMissing(HttpError):
    """No worker of this name reports now; /v1/workers lists them."""

    code, status, title = "worker_not_found", 404, "There is no such worker"


class IntakeBusy(NotAdmitted):
    """The limit of simultaneous image uploads is reached; try again shortly."""

    code = "intake_busy"


class PromptBlocked(InvalidRequest):
    """The prompt contains a word or phrase that the operator blocks."""

    code = "prompt_blocked"

    def __init__(self, problems: Sequence[Problem], line: int) -> None:
        self.line = line  # of the operator's file: for administrators only
        super().__init__(problems)


class InvalidIdempotencyKey(HttpError):
    """The Idempotency-Key is not one to 255 printable ASCII characters."""

    code, status, title = "invalid_idempotency_key", 400, "The Idempotency-Key is invalid"


class RateLimited(NotAdmitted):
    """The API key is over its limit of requests per minute."""

    code = "rate_limited"


class BadRequest(HttpError):
    """The request is not valid HTTP/1.1."""

    code, status, title = "bad_request", 400, "The request cannot be read"
