"""The Idempotency-Key header: sending a request twice makes one job.

Owns the parsing of the header (a bare token and a quoted string are the same key) and the
headers of a replay. The look-up is part of `admit.lua`, so that there is no moment between
"seen" and "accepted". Must not know Redis.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Annotated

from fastapi import Header, Request

from api.errors import InvalidIdempotencyKey
from jobs.contract.record import JobRecord
from jobs.contract.spec import JobRequest
from jobs.contract.submission import Idempotency

KEPT_AFTER = timedelta(days=1)  # beyond the record's own life
_BARE = re.compile(r"[\x21-\x7e]{1,255}")
_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')  # RFC 8941 string


IdempotencyKey = Annotated[
    str | None,
    Header(
        description="Unique value of your choice; a repeated request with it gets the first job.",
        examples=["7f0c9a52-5f0e-4a9e-8c57-0f2c5b1d9d5e"],
        json_schema_extra={"pattern": r'^([!#-~][!-~]{0,254}|"([ !#-\[\]-~]|\\["\\]){1,255}")$'},
    ),
]


def key_of(request: Request, idempotency_key: str | None) -> tuple[str, str] | None:
    """Return (scope, key) of the request, or None. The scope is the route: method and path."""
    if idempotency_key is None:
        return None
    quoted = _QUOTED.fullmatch(idempotency_key)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else idempotency_key
    if not quoted and (key.startswith('"') or not _BARE.fullmatch(key)):
        raise InvalidIdempotencyKey("send 1 to 255 printable ASCII characters, bare or quoted")
    return f"{request.method} {request.url.path}", key


def idempotency_of(
    scope_and_key: tuple[str, str] | None, tenant: str, request: JobRequest
) -> Idempotency | None:
    """Return the record that identifies a repeated request. Per tenant: keys may be rotated."""
    if scope_and_key is None:
        return None
    scope, key = scope_and_key
    return Idempotency.of(key, scope=f"{tenant} {scope}", request=request)


def replay_headers(record: JobRecord, *, replayed: bool) -> dict[str, str]:
    """Return the headers of a keyed response: replayed or not, and the key's earliest expiry."""
    ends = record.expires_at or datetime.now(UTC) + timedelta(seconds=record.spec.retention_s)
    headers = {"idempotency-expires": format_datetime(ends + KEPT_AFTER, usegmt=True)}
    if replayed:
        headers["idempotency-replayed"] = "true"
    return headers
