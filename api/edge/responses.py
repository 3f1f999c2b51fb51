"""JSON responses with ETag, 304 and Retry-After.

Owns the conversion of a view to a response, the same for every route. Must not know Redis.
Invariant: no cache stores a response that can change (`no-store`); a CDN that kept "running"
would keep it for ever.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from fastapi import Request, Response
from pydantic import BaseModel

from api.views.jobs import Job

MAX_PACE_S = 30


def json_answer(
    view: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the view as JSON, never cached."""
    return Response(
        view.model_dump_json(),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store", **(headers or {})},
    )


def tagged_answer(request: Request, view: BaseModel, headers: Mapping[str, str]) -> Response:
    """Return the view with an ETag, or 304 if the caller has it already."""
    body = view.model_dump_json()
    tag = f'"{hashlib.blake2b(body.encode(), digest_size=12).hexdigest()}"'
    headers = {"cache-control": "no-store", "etag": tag, **headers}
    if etag_matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def etag_matches(if_none_match: str | None, tag: str) -> bool:
    """Return True if If-None-Match names `tag` (weak comparison, RFC 9110 13.1.2)."""
    if not if_none_match:
        return False
    names = [name.strip().removeprefix("W/") for name in if_none_match.split(",")]
    return tag in names or "*" in names


def pace(job: Job) -> dict[str, str]:
    """Return Retry-After for a job that has not ended: the seconds until the next poll."""
    if job.status.final:
        return {}
    eta_s = job.queue.eta_seconds if job.queue else None
    # half of the wait: the estimate may be wrong, and the job may be done soon after it starts
    wait_s = min(max(1, math.ceil((eta_s or 0) / 2)), MAX_PACE_S)
    return {"retry-after": str(wait_s)}
