"""A job's record as clients read it: status, stage, images, progress, error.

Owns `Status`, `Stage` and MOVES, the table of status changes. Knows no Redis:
jobs/store/record_hash.py reads a record from a job's hash. Invariant: a final status has no way
out, but for an operator's requeue of a failed job.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.contract.spec import JobSpec


class Status(StrEnum):
    """Status of a job. Clients treat an unknown status as not final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """True if the status changes no more by itself."""
        return self in FINAL


class Stage(StrEnum):
    """Stage of a running job; new details become a stage, never a new status."""

    WAITING = "waiting"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    UPLOADING = "uploading"


MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELED, Status.EXPIRED, Status.FAILED}),
    # back to QUEUED: the job's worker died or returned the job
    Status.RUNNING: frozenset(
        {Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.EXPIRED}
    ),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset({Status.QUEUED}),  # only by an operator's `rq requeue`
    Status.CANCELED: frozenset(),
    Status.EXPIRED: frozenset(),
}
FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.EXPIRED})

# Our status for each of RQ's. RQ has no `expired`: that is `canceled` with x_end = expired.
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
    """An image of a job. `pixel_sha256`: of the decoded RGB bytes, not of the file."""

    index: int
    seed: int
    pixel_sha256: str
    width: int
    height: int
    content_type: str
    bytes: int
    key: str  # key in object storage; never shown to clients


class JobError(_Frozen):
    """Error of a failed job: `code` is for programs, `message` for people, with the next step."""

    code: str
    message: str
    retryable: bool


class Progress(_Frozen):
    """Progress of a job: model calls done and expected over all images; `fraction` from 0 to 1."""

    step: int
    steps: int
    fraction: float


class QueuePlace(_Frozen):
    """Queue position (jobs ahead; 0: next) and the seconds until the job should start, if known."""

    position: int | None
    eta_seconds: float | None


class JobRecord(_Frozen):
    """Record of one job, as of one Redis read."""

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
    reproducibility: str | None  # achieved by the engine: exact, tolerance or unpacked
    fingerprint: dict[str, Any] | None
    metrics: dict[str, float]
    error: JobError | None


def status_of(rq_status: str, end: str | None) -> Status:
    """Return our status for RQ's status and the end that our scripts recorded."""
    if rq_status == "canceled" and end == Status.EXPIRED.value:
        return Status.EXPIRED
    return RQ_STATUS[rq_status]


# RQ's own tools can end a job past our scripts: an abandoned job, found by `rq info`
UNEXPLAINED = JobError(
    code="abandoned",
    message="the worker of this job stopped and no attempts are left; send the job again",
    retryable=True,
)
