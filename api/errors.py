"""The errors that only HTTP has, with code, status and title on the class.

    HttpError               something about the request as HTTP
    NotAdmitted (jobs)      more than this process can take now: streams, downloads, uploads
    InvalidRequest (jobs)   PromptBlocked, by the operator's list

Knows no route and no answer: api/edge/problem.py renders every error of the tree.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.errors import InvalidRequest, NotAdmitted, PrintworksError, Problem


class HttpError(PrintworksError):
    """What only HTTP can get wrong. `status` and `title` stand on the class."""

    status = 500
    title = "Internal error"


class Unauthorized(HttpError):
    """No key, or one that we do not know."""

    code, status, title = "unauthorized", 401, "A key is needed"


class Forbidden(HttpError):
    """A good key that may not do this."""

    code, status, title = "forbidden", 403, "This key may not do that"


class OriginNotAllowed(HttpError):
    """Without a key, a page of another origin may change nothing."""

    code, status, title = "origin_not_allowed", 403, "A page of another origin may not do that"


class RouteMissing(HttpError):
    """There is nothing at this path."""

    code, status, title = "not_found", 404, "There is nothing here"


class ImageMissing(HttpError):
    """The job has no such image, or not yet."""

    code, status, title = "image_not_found", 404, "There is no such image"


class ModelMissing(HttpError):
    """There is no such model."""

    code, status, title = "model_not_found", 404, "There is no such model"


class MethodNotAllowed(HttpError):
    """The path is right, the verb is not."""

    code, status, title = "method_not_allowed", 405, "Another method is needed"


class BodyTimeout(HttpError):
    """The client took too long to send its body."""

    code, status, title, retryable = "body_timeout", 408, "The body came too slowly", True


class PayloadTooLarge(HttpError):
    """The body is larger than the limit."""

    code, status, title = "payload_too_large", 413, "The body is too large"


class UnsupportedMediaType(HttpError):
    """The body is declared as something else than the route takes."""

    code, status, title = "unsupported_media_type", 415, "The body must be of another type"


class RangeNotSatisfiable(HttpError):
    """The range lies outside of the picture."""

    code, status, title = "range_not_satisfiable", 416, "The range is outside of the picture"

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        super().__init__(f"the picture has {total_bytes} bytes")


class HostNotAllowed(HttpError):
    """Without keys, only the names of this machine are answered to."""

    code, status, title = "host_not_allowed", 421, "Not a name of this machine"


class HeadersTooLarge(HttpError):
    """The request's headers are larger than the limit."""

    code, status, title = "headers_too_large", 431, "The headers are too large"


class TooManyStreams(NotAdmitted):
    """As many event streams and waits are open as may be; polling still works."""

    code = "too_many_streams"


class TooManyDownloads(NotAdmitted):
    """As many pictures are being sent as may be at once."""

    code = "too_many_downloads"


class TooManyConnections(NotAdmitted):
    """As many connections are open as may be, and none of them is idle."""

    code = "too_many_connections"


class WorkerMissing(HttpError):
    """There is no such worker, or no more."""

    code, status, title = "worker_not_found", 404, "There is no such worker"


class IntakeBusy(NotAdmitted):
    """More pictures arrive at once than are read at once."""

    code = "intake_busy"


class PromptBlocked(InvalidRequest):
    """The prompt asks for what the operator does not allow."""

    code = "prompt_blocked"

    def __init__(self, problems: Sequence[Problem], line: int) -> None:
        self.line = line  # of the operator's file: for administrators only
        super().__init__(problems)


class InvalidIdempotencyKey(HttpError):
    """The Idempotency-Key is not one to 255 printable ASCII characters."""

    code, status, title = "invalid_idempotency_key", 400, "The idempotency key cannot be read"


class RateLimited(NotAdmitted):
    """This key asks too often."""

    code = "rate_limited"


class BadRequest(HttpError):
    """The request is not HTTP as we know it."""

    code, status, title = "bad_request", 400, "The request cannot be read"
