"""The record of a job, read from its Redis hash.

Owns the reading of RQ's own fields and of ours (`x_*`, named in jobs/store/keys.py). Knows no
connection. Invariant: nothing but the spec and RQ's status must be there; a hash without a spec is
an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.contract.record import (
    UNEXPLAINED,
    Image,
    JobError,
    JobRecord,
    Progress,
    QueuePlace,
    Stage,
    Status,
    status_of,
)
from jobs.contract.spec import JobSpec
from jobs.store.keys import HashField


def record_of(
    job_id: str,
    fields: Mapping[str, str | None],
    *,
    queue: QueuePlace | None = None,
) -> JobRecord:
    """Return the record in a job's hash. `fields`: the values of READ_FIELDS as text, by name."""
    status = status_of(fields[HashField.STATUS] or "queued", fields.get(HashField.END))
    spec = JobSpec.model_validate_json(fields[HashField.SPEC] or "")
    completed = _time(fields.get(HashField.ENDED_AT)) if status.final else None
    return JobRecord(
        id=job_id,
        tenant=fields.get(HashField.TENANT) or "",
        status=status,
        stage=_stage(status, fields.get(HashField.STAGE)),
        created_at=_time(fields.get(HashField.CREATED_AT)),
        started_at=None if status is Status.QUEUED else _time(fields.get(HashField.STARTED_AT)),
        completed_at=completed,
        expires_at=completed + timedelta(seconds=spec.retention_s) if completed else None,
        queue=queue if status is Status.QUEUED else None,
        progress=_progress(status, fields),
        images=tuple(Image.model_validate(i) for i in _json(fields.get(HashField.IMAGES)) or ()),
        spec=spec,
        reproducibility=fields.get(HashField.CLASS_KEPT) or None,
        fingerprint=_json(fields.get(HashField.FINGERPRINT)),
        metrics=_json(fields.get(HashField.METRICS)) or {},
        error=_error(status, fields),
    )


def _error(status: Status, fields: Mapping[str, str | None]) -> JobError | None:
    """Return a failed job's error; any other job's error is left from a requeued failure."""
    if status is not Status.FAILED:
        return None
    error = _json(fields.get(HashField.ERROR))
    return JobError.model_validate(error) if error else UNEXPLAINED


def _stage(status: Status, stage: str | None) -> Stage | None:
    if status is Status.QUEUED:
        return Stage.WAITING
    return Stage(stage or Stage.WAITING) if status is Status.RUNNING else None


def _progress(status: Status, fields: Mapping[str, str | None]) -> Progress:
    step = int(fields.get(HashField.STEP) or 0)
    steps = int(fields.get(HashField.STEPS) or 0)
    if status is Status.SUCCEEDED:
        return Progress(step=steps, steps=steps, fraction=1.0)
    return Progress(step=step, steps=steps, fraction=round(step / steps, 4) if steps else 0.0)


def _json(text: str | None) -> Any:
    return json.loads(text) if text else None


def _time(text: str | None) -> datetime | None:
    """Parse RQ's time: UTC ISO 8601 with a Z; an empty string means never."""
    if not text:
        return None
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
