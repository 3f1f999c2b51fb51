"""The body of each webhook event (its types: jobs/contract/request_parts.py).

Owns the body's form (docs/webhooks.md shows the form). A body is made once and kept: every attempt
sends the same bytes. Invariant: a body is under MAX_BODY_BYTES and holds neither a prompt nor a URL
that opens an image: the body may be sent for 75 h, and lie in others' logs for longer.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.contract.request_parts import ENDINGS, EventType

MAX_BODY_BYTES = 20_000  # Standard Webhooks' advice


DEFAULT = (*ENDINGS, EventType.GROUP_COMPLETED)  # the events of an endpoint that names none


class Event(BaseModel):
    """An entry of the outbox, as outbox.lua and record_attempt.lua write entries."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer script may add fields

    id: str  # the webhook-id, the same on every attempt and redelivery
    type: EventType
    tenant: str
    at: str
    job: str = ""
    status: str = ""
    seq: int = 0
    seed: int | None = None
    webhook: str | None = None  # JSON of the job's own JobWebhook, or the group's {"url": ...}
    trace: str | None = None  # W3C traceparent of the job's sending
    images: str | None = None  # JSON list of Image
    error: str | None = None  # JSON JobError
    metrics: str | None = None  # JSON
    created_at: str | None = None
    started_at: str | None = None
    stage: str | None = None  # of job.progress, with step and steps
    step: int = 0
    steps: int = 0
    group: str = ""  # of group.completed, with ends
    ends: str | None = None  # JSON: job to how it ended
    endpoint: str = ""  # of endpoint.disabled
    url: str = ""
    reason: str = ""
    failing_since: str | None = None


def body_of(event: Event) -> bytes:
    """Return an event's body, the exact bytes to send."""
    if event.type is EventType.ENDPOINT_DISABLED:
        return _bytes(event.type, instant(float(event.at)), _disabled(event))
    if event.type is EventType.PROGRESS:
        return _bytes(event.type, event.at, _progress(event))
    if event.type is EventType.GROUP_COMPLETED:
        return _bytes(event.type, event.at, _group(event))
    return _bytes(event.type, event.at, _job(event))


def test_body(endpoint_id: str, *, now_s: float) -> bytes:
    """Return the body of a test event."""
    return _bytes(EventType.TEST, instant(now_s), {"endpoint": endpoint_id})


def instant(unix_s: float) -> str:
    """Format a Unix time as the rest of the API does: RFC 3339, microseconds, Z."""
    return (
        datetime.fromtimestamp(unix_s, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


def _job(event: Event) -> dict[str, Any]:
    images = json.loads(event.images) if event.images else []
    error = json.loads(event.error) if event.error and event.status == "failed" else None
    metrics: dict[str, Any] = json.loads(event.metrics) if event.metrics else {}
    return {
        "id": event.job,
        "status": "running" if event.status == "started" else event.status,
        "seq": event.seq,
        "seed": event.seed,
        "images": [_image(event.job, i) for i in images] if event.status == "succeeded" else [],
        "error": {"code": error["code"], "retryable": error["retryable"]} if error else None,
        "timings": {
            "created_at": event.created_at or None,
            "started_at": event.started_at or None,
            "completed_at": None if event.status == "started" else event.at,
            **{name: value for name, value in sorted(metrics.items()) if name.endswith("_ms")},
        },
    }


def _progress(event: Event) -> dict[str, Any]:
    named = {"id": event.job, "status": event.status, "seq": event.seq}
    return named | {"stage": event.stage, "step": event.step, "steps": event.steps}


def _group(event: Event) -> dict[str, Any]:
    """Return the data of group.completed; 7 kB for a hundred jobs."""
    ends: dict[str, str] = json.loads(event.ends or "{}")
    statuses = sorted(ends.values())
    return {
        "id": event.group,
        "counts": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
        "jobs": [{"id": job, "status": status} for job, status in sorted(ends.items())],
        "path": f"/v1/job-groups/{event.group}",
    }


def _image(job_id: str, image: dict[str, Any]) -> dict[str, Any]:
    shown = ("index", "seed", "width", "height", "content_type", "pixel_sha256")
    return {name: image[name] for name in shown} | {
        "path": f"/v1/jobs/{job_id}/images/{image['index']}"
    }


def _disabled(event: Event) -> dict[str, Any]:
    since = instant(float(event.failing_since)) if event.failing_since else None
    return {
        "endpoint": event.endpoint,
        "url": event.url,
        "reason": event.reason,
        "failing_since": since,
    }


def _bytes(kind: EventType, at: str, data: dict[str, Any]) -> bytes:
    body = {"type": kind.value, "timestamp": at, "data": data}
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
