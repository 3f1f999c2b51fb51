"""Hash of a new job: RQ's own fields, as RQ writes them, then ours.

Owns both, and their form for `admit.lua`. RQ builds the hash of one sample job; fields that differ
from job to job are set in a copy: `Job.create` takes more Python than all the rest of this.
Invariant: prompts are in one field and nowhere else; RQ sees the job's ID as description and only
argument.
"""

from __future__ import annotations

import functools
import zlib
from typing import cast

from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from jobs.contract.request_parts import FORMATS
from jobs.contract.spec import JobSpec
from jobs.contract.submission import SubmissionOrigin
from jobs.store.keys import HashField

FUNCTION = "worker.rq_bridge.generate"  # the one function a job may name; never imported by name
RQ_RETRIES = 3  # spent where RQ's own tools find a job abandoned, and by errors worth a retry
RUN_LIMIT_S = 3600  # longest run of one job; the watchdog finds a hung engine long before


def job_fields(
    spec: JobSpec,
    *,
    tenant: str,
    job_id: str,
    queue: str,
    digest: str | None,
    sender: SubmissionOrigin,
) -> dict[str, str]:
    """Return every field but `data`, as text. `digest`: of the job's own idempotency key."""
    optional = {
        HashField.IDEMPOTENCY: digest,
        HashField.WEBHOOK: spec.webhook and spec.webhook.model_dump_json(),
        HashField.KEY_ID: sender.key,
        HashField.GROUP: sender.group,
        HashField.TRACE: sender.trace,
    }
    return {
        **_rq_sample(),
        "origin": queue,
        "description": job_id,  # RQ's default is the call with its arguments, and it is logged
        "result_ttl": str(spec.retention_s),
        "failure_ttl": str(spec.retention_s),  # RQ's default is a year
        HashField.SPEC: spec.model_dump_json(),
        HashField.TENANT: tenant,
        HashField.SIZE_CLASS: spec.size_class,
        HashField.COST: f"{spec.cost:.6f}",
        HashField.N: str(spec.n),
        HashField.EXTENSION: FORMATS[spec.output.format].extensions[0],
        HashField.STEPS: "0",
        HashField.WORK: f"{spec.megapixel_steps:.6f}",
        **{name: value for name, value in optional.items() if value},
    }


def rq_data(job_id: str) -> bytes:
    """Encode the call as `Job.data` and `Job.to_dict` do: function, instance, args, kwargs."""
    return zlib.compress(JSONSerializer.dumps((FUNCTION, None, (job_id,), {})))


@functools.cache
def _rq_sample() -> dict[str, str]:
    """Return RQ's fields of any job of ours, without `data`; the script writes the times."""
    nowhere = cast("Redis", object())  # RQ wants one at hand; building a hash never uses it
    job = Job.create(
        FUNCTION,
        args=("sample",),
        id="sample",
        connection=nowhere,
        origin="sample",
        timeout=RUN_LIMIT_S,
        result_ttl=0,
        failure_ttl=0,
        description="sample",
        status=JobStatus.QUEUED,
        serializer=JSONSerializer,
    )
    job.retries_left = RQ_RETRIES
    job.enqueue_at_front_on_retry = True
    job.enqueued_at = job.created_at
    written = job.to_dict() | {"status": JobStatus.QUEUED.value}
    return {name: str(value) for name, value in written.items() if name != "data"}
