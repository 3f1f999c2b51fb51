"""A job's record: its status, the table of moves, and what clients read of it.

Owns the words `Status` and `Stage`, and MOVES. Knows no Redis: jobs/store/record_hash.py reads a
record from a job's hash. Invariant: a final status has no way out, but for an operator's requeue
of a failed job.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.contract.spec import JobSpec


class Status(StrEnum):
    """Where a job is in its life. Clients treat a word they do not know as not final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self in FINAL


class Stage(StrEnum):
    """What a running job is doing; detail lives here, never in a new status."""

    WAITING = "waiting"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    UPLOADING = "uploading"


MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELED, Status.EXPIRED, Status.FAILED}),
    # back to QUEUED: its worker died, or gave it back
    Status.RUNNING: frozenset(
        {Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.EXPIRED}
    ),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset({Status.QUEUED}),  # only by an operator's `rq requeue`
    Status.CANCELED: frozenset(),
    Status.EXPIRED: frozenset(),
}
FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.EXPIRED})

# RQ's word for each of ours. RQ knows no `expired`: that is `canceled` with x_end = expired.
RQ_STATUS: dict[str, Status] = {
    "created": Status.QUEUED,
    "queued": Status.QUEUED,
    "deferred": Status.QUEUED,
    "scheduled": Status.QUEUED,
    "rate_limited": Status.QUEUED,
    "ready_to_enqueue": Status.QUEUED,
    "started": Status.RUNNING,
    "finished": Status.SUCCEEDED,
    "failed": Status.FAILED,
    "stopped": Status.CANCELED,
    "canceled": Status.CANCELED,
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Image(_Frozen):
    """One picture of a job. `pixel_sha256`: of the decoded RGB bytes, not of the file."""

    index: int
    seed: int
    pixel_sha256: str
    width: int
    height: int
    content_type: str
    bytes: int
    key: str  # where the blob is; never shown to clients


class JobError(_Frozen):
    """Why a job failed: `code` for programs, `message` for people and with what to do next."""

    code: str
    message: str
    retryable: bool


class Progress(_Frozen):
    """Model calls done and expected over all images; `fraction` from 0 to 1."""

    step: int
    steps: int
    fraction: float


class QueuePlace(_Frozen):
    """Jobs ahead of this one (0: next), and the expected seconds until it starts, if known."""

    position: int | None
    eta_seconds: float | None


class JobRecord(_Frozen):
    """Everything known of one job, as of one Redis read."""

    id: str
    tenant: str
    status: Status
    stage: Stage | None
    created_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None
    queue: QueuePlace | None
    progress: Progress
    images: tuple[Image, ...]
    spec: JobSpec
    reproducibility: str | None  # what the engine kept: exact, tolerance or unpacked
    fingerprint: dict[str, Any] | None
    metrics: dict[str, float]
    error: JobError | None


def status_of(rq_status: str, end: str | None) -> Status:
    """Our status from RQ's, and from what our scripts noted of the end."""
    if rq_status == "canceled" and end == Status.EXPIRED.value:
        return Status.EXPIRED
    return RQ_STATUS[rq_status]


# RQ's own tools can end a job without a word of ours: an abandoned one, found by `rq info`
UNEXPLAINED = JobError(
    code="abandoned", message="its worker vanished and it had no tries left", retryable=True
)
