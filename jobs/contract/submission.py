"""What admission is asked and what it answers: limits, idempotency, the admitted job.

Owns the values that go into and come out of `admit.lua`: a job, or a group of jobs, which is
accepted whole or not at all. Knows no connection. Invariant: an idempotency digest never contains
the key itself, so that a dump of Redis gives none away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from jobs.contract.record import JobRecord
from jobs.contract.request_parts import GroupWebhook
from jobs.contract.spec import JobRequest, JobSpec

TENANT_LINE = 8  # jobs of one tenant that stand in one line at a time; the rest wait aside


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitLimits:
    """How much may wait: of one model in all, and of one tenant. None: no limit."""

    max_jobs: int | None = 10_000  # waiting jobs of the model (about 2.2 KB of Redis each)
    max_cost: float | None = None  # their work, in megapixel-rows (JobSpec.cost)
    tenant_jobs: int | None = 1_000  # jobs of this tenant, of any model, that are not final
    tenant_line: int = TENANT_LINE


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionOrigin:
    """By whom and with what a job was sent; kept with it, and never part of what it makes."""

    key: str | None = None  # ID of the API key, for usage
    group: str | None = None  # ID of the group
    trace: str | None = None  # W3C traceparent


NOBODY = SubmissionOrigin()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """One job to be accepted: the ID that it will have, and what it is to make."""

    id: str
    spec: JobSpec
    sender: SubmissionOrigin = NOBODY


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGroup:
    """Jobs to be accepted together, or not at all, in their order."""

    id: str
    jobs: Sequence[NewJob]
    webhook: GroupWebhook | None = None  # called when the last of them has ended


class Group(BaseModel):
    """A group as it is kept; `admit.lua` writes it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str
    tenant: str
    created_at: datetime
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """A client's Idempotency-Key, made safe to store, and what it was used for."""

    digest: str  # SHA-256 of scope and key, hex
    fingerprint: str  # SHA-256 of the request as the client wrote it, canonical JSON, hex

    @classmethod
    def of(cls, key: str, *, scope: str, request: JobRequest) -> Self:
        """`scope` says whose key it is and for what, such as `tenant POST /v1/jobs`.

        The fingerprint is over what was asked, not over what was filled in: a seed drawn by the
        server differs between two sendings of the same request.
        """
        asked = request.model_dump(mode="json", exclude_unset=True)
        canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return cls(
            digest=hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest(),
            fingerprint=hashlib.sha256(canonical.encode()).hexdigest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The job that a request made, or, when `replayed`, the one that it made before."""

    record: JobRecord
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedGroup:
    """The group that a request made, or the one that it made before, and its jobs as they stand.

    `gone`: IDs of jobs that were deleted, or have expired, since.
    """

    group: Group
    records: tuple[JobRecord, ...]
    gone: tuple[str, ...]
    replayed: bool
