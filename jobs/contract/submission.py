"""Arguments and results of admission: limits, idempotency, the admitted job or group.

Owns the values that go into and come out of `admit.lua`: a job, or a group of jobs, which is
accepted whole or not at all. Knows no connection. Invariant: an idempotency digest never contains
the key itself, so that a dump of Redis reveals no key.
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

TENANT_LINE = 8  # jobs of one tenant in one queue at a time; the tenant's others wait aside


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitLimits:
    """Queue limits of one model and of one tenant. None: no limit."""

    max_jobs: int | None = 10_000  # waiting jobs of the model (about 2.2 KB of Redis each)
    max_cost: float | None = None  # their work, in megapixel-rows (JobSpec.cost)
    tenant_jobs: int | None = 1_000  # jobs of this tenant, of any model, that are not final
    tenant_line: int = TENANT_LINE


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionOrigin:
    """API key, group and trace of a submission; stored with the job, no part of its spec."""

    key: str | None = None  # ID of the API key, for usage
    group: str | None = None  # ID of the group
    trace: str | None = None  # W3C traceparent


NOBODY = SubmissionOrigin()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to admit: its ID, spec and origin."""

    id: str
    spec: JobSpec
    sender: SubmissionOrigin = NOBODY


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGroup:
    """Jobs to admit together or not at all, in this order."""

    id: str
    jobs: Sequence[NewJob]
    webhook: GroupWebhook | None = None  # called when the last job has ended


class Group(BaseModel):
    """A stored group; `admit.lua` writes groups."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str
    tenant: str
    created_at: datetime
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """Digest of a client's Idempotency-Key, and the fingerprint of the request it was used for."""

    digest: str  # SHA-256 of scope and key, hex
    fingerprint: str  # SHA-256 of the request as the client wrote it, canonical JSON, hex

    @classmethod
    def of(cls, key: str, *, scope: str, request: JobRequest) -> Self:
        """Hash a key and its request. `scope`: tenant and route, such as `tenant POST /v1/jobs`.

        The fingerprint covers the fields that the client set, not the defaults: a random seed
        differs between two submissions of the same request.
        """
        asked = request.model_dump(mode="json", exclude_unset=True)
        canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return cls(
            digest=hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest(),
            fingerprint=hashlib.sha256(canonical.encode()).hexdigest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The job that a request made, now or (`replayed`) when the same request came before."""

    record: JobRecord
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedGroup:
    """The group that a request made, now or (`replayed`) before, and its jobs' current records.

    `gone`: IDs of jobs that have been deleted or have expired since.
    """

    group: Group
    records: tuple[JobRecord, ...]
    gone: tuple[str, ...]
    replayed: bool
