"""Live events of a job for its followers; delivery is lossy, since the record is the truth.

Owns the messages of the channel `pw:events:{job}`: the Lua scripts publish status, workers
publish progress. A follower that misses one reads the record again. Knows no connection.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from jobs.contract.record import Stage, Status


class StatusEvent(BaseModel):
    """A new status of the job."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer sender may add fields
    type: Literal["status"] = "status"
    job: str
    status: Status


class ProgressEvent(BaseModel):
    """Progress of a running job: `step` of `steps` model calls over all its images."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    type: Literal["progress"] = "progress"
    job: str
    stage: Stage
    step: int
    steps: int


class PreviewEvent(BaseModel):
    """A new preview of the job's image `index`; a follower reads the preview separately."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    type: Literal["preview"] = "preview"
    job: str
    index: int


AnyJobEvent = StatusEvent | ProgressEvent | PreviewEvent
JobEvent = Annotated[AnyJobEvent, Field(discriminator="type")]
_EVENT: TypeAdapter[AnyJobEvent] = TypeAdapter(JobEvent)


def parse_event(message: str | bytes) -> AnyJobEvent:
    """Parse one message of the channel."""
    return _EVENT.validate_json(message)
