"""Errors of the client, as one tree.

PrintworksError
├── Unreachable           no answer, after every retry
├── WaitTimeout           the job goes on; the time to wait is over. Carries `job`
├── JobNotSucceeded       the job failed, expired or was canceled. Carries `job`
└── ApiError              an error answer of the service: status, code, problems, request_id
    ├── InvalidRequest        the request breaks the contract (400, 413, 415, 422)
    ├── NotAllowed            no API key, or a key without this permission (401, 403, 421)
    ├── NotFound              there is no such job, image or model (404)
    │   └── Gone                  the job, image or model expired or was deleted (410)
    ├── Busy                  the service cannot accept the request now (429, 503)
    └── ServiceFault          a fault of the service (other 5xx)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from printworks.types import Job


class FieldProblem(BaseModel):
    """One thing wrong with a request. `pointer` names the field (JSON pointer, RFC 6901)."""

    model_config = ConfigDict(frozen=True)
    pointer: str
    code: str
    detail: str


class PrintworksError(Exception):
    """Root of all errors of the client."""


class Unreachable(PrintworksError):
    """No answer from the service, after every retry."""


class WaitTimeout(PrintworksError):
    """The time to wait is over; the job goes on. `job` is the job's last known state."""

    def __init__(self, job: Job, timeout_s: float) -> None:
        self.job = job
        super().__init__(f"job {job.id} is still {job.status} after {timeout_s:g} s")


class JobNotSucceeded(PrintworksError):
    """The job ended without images: `job.status` and `job.error` give the reason."""

    def __init__(self, job: Job) -> None:
        self.job = job
        why = f": {job.error.message}" if job.error else ""
        super().__init__(f"job {job.id} {_ENDED.get(job.status, 'did not succeed')}{why}")


_ENDED = {"failed": "failed", "canceled": "was canceled", "expired": "expired"}


class ApiError(PrintworksError):
    """An error answer of the service. `code` is stable, for programs; the message is for people."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        request_id: str = "",
        retryable: bool = False,
        problems: Sequence[FieldProblem] = (),
    ) -> None:
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retryable = retryable
        self.problems = tuple(problems)
        super().__init__(message)


class InvalidRequest(ApiError):
    """The request breaks the contract; `problems` names every field at fault."""


class NotAllowed(ApiError):
    """No API key, or a key without this permission."""


class NotFound(ApiError):
    """There is no such job, image or model."""


class Gone(NotFound):
    """The job, image or model existed: it expired or was deleted."""


class Busy(ApiError):
    """The service cannot accept the request now; the request itself is valid. Try again later."""


class ServiceFault(ApiError):
    """A fault of the service; `request_id` finds the cause in the service's log."""
