"""What followers of a job are told as it happens; lossy, since the record is the truth.

Owns the messages of the channel `pw:events:{job}`: the Lua scripts publish status, workers
publish progress. A follower that misses one reads the record again. Knows no connection.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from jobs.contract.record import Stage, Status


class StatusEvent(BaseModel):
    """The job has a new status."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer sender may say more
    type: Literal["status"] = "status"
    job: str
    status: Status


class ProgressEvent(BaseModel):
    """Where a running job is: `step` of `steps` model calls over all its images."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    type: Literal["progress"] = "progress"
    job: str
    stage: Stage
    step: int
    steps: int


class PreviewEvent(BaseModel):
    """There is a new preview of one of its images; who wants it reads it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    type: Literal["preview"] = "preview"
    job: str
    index: int


AnyJobEvent = StatusEvent | ProgressEvent | PreviewEvent
JobEvent = Annotated[AnyJobEvent, Field(discriminator="type")]
_EVENT: TypeAdapter[AnyJobEvent] = TypeAdapter(JobEvent)


def parse_event(message: str | bytes) -> AnyJobEvent:
    """The event in one message of the channel."""
    return _EVENT.validate_json(message)
