"""Submission of jobs to the store: IDs, spans, metrics and log lines.

Owns what every route that sends jobs does around the store's call. Must not know HTTP. Invariant: a
request is counted once for each job that it created or replayed, or once for its refusal.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self

from api.access.auth import Caller
from api.edge.tracing import sending
from api.services.container import Services
from jobs.contract.record import JobRecord
from jobs.contract.spec import JobSpec
from jobs.contract.submission import NewJob, SubmissionOrigin
from jobs.errors import PrintworksError
from jobs.ids import new_job_id
from jobs.store.keys import queue_name
from jobs.tracing.spans import Span

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sending:
    """A job to be admitted, and the parent span of everything that follows."""

    new: NewJob
    span: Span

    @classmethod
    def of(cls, services: Services, spec: JobSpec, caller: Caller) -> Self:
        """Create a job with a new ID and its span."""
        job_id = new_job_id()
        queue = queue_name(spec.model, spec.priority)
        span = sending(services.tracing, job_id=job_id, queue=queue)
        sender = SubmissionOrigin(key=caller.key_id, trace=span.traceparent)
        return cls(NewJob(id=job_id, spec=spec, sender=sender), span)


class Told(Protocol):
    """Callback for the jobs that were admitted or replayed."""

    def __call__(self, records: Sequence[JobRecord], *, replayed: bool) -> None:
        """Count and log the jobs' records, as the store returned them."""
        ...


@contextmanager
def sent(services: Services, caller: Caller, jobs: Sequence[Sending]) -> Generator[Told]:
    """Count and log the outcome of a request for `jobs`; yields the callback for admitted ones."""

    def told(records: Sequence[JobRecord], *, replayed: bool) -> None:
        result = "replayed" if replayed else "accepted"
        for record in records:
            services.metrics.admitted(result)
            said = {"job_id": record.id, "tenant": caller.tenant, "result": result}
            log.info("job.admitted", extra=said)  # with the request's ID: from HTTP to the job

    error = None
    try:
        yield told
    except PrintworksError as refused:
        error = refused.code
        services.metrics.admitted(error)
        raise
    finally:
        for job in jobs:
            job.span.end(error=error)
