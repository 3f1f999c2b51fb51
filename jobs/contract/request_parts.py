"""The nested objects of a request: pictures, LoRAs, a control, the file, the webhook.

Owns their fields and what each may be by itself, and two tables: file formats and the events of
webhooks. Knows no model. Invariant: every part is frozen
and strict, and an unknown key in it is refused.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from jobs.contract.input_images import INPUT_ID
from jobs.ids import JOB_ID

HARD_MAX_N = 64
Name = Annotated[str, StringConstraints(min_length=1, max_length=63)]


class Frozen(BaseModel):
    """Immutable and strict: no bool is an int, no '20' is 20, no NaN is a number."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


Format = Literal["png", "jpeg", "webp"]


class FileFormat(NamedTuple):
    """What a format is called in HTTP and in a file's name; the first extension is ours."""

    content_type: str
    extensions: tuple[str, ...]


FORMATS: dict[Format, FileFormat] = {
    "png": FileFormat("image/png", ("png",)),
    "jpeg": FileFormat("image/jpeg", ("jpg", "jpeg")),
    "webp": FileFormat("image/webp", ("webp",)),
}


class Output(Frozen):
    """How the pixels are written to a file."""

    format: Format = "png"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None  # jpeg, webp; None: 90
    metadata: bool = True  # write seed, settings and fingerprint into the file


class EventType(StrEnum):
    """What a webhook can report. `test` is sent where it is asked for, subscribed or not."""

    STARTED = "job.started"
    PROGRESS = "job.progress"
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELED = "job.canceled"
    EXPIRED = "job.expired"
    GROUP_COMPLETED = "group.completed"
    ENDPOINT_DISABLED = "endpoint.disabled"
    TEST = "webhook.test"


ENDINGS = (EventType.SUCCEEDED, EventType.FAILED, EventType.CANCELED, EventType.EXPIRED)
OF_A_JOB = (EventType.STARTED, EventType.PROGRESS, *ENDINGS)
SUBSCRIBABLE = (*OF_A_JOB, EventType.GROUP_COMPLETED, EventType.ENDPOINT_DISABLED)

if TYPE_CHECKING:
    JobEvent = EventType
    SubscribableEvent = EventType
else:  # a checker cannot read a Literal made of a tuple; pydantic and the OpenAPI document can
    JobEvent = Literal[OF_A_JOB]
    SubscribableEvent = Literal[SUBSCRIBABLE]


class GroupWebhook(Frozen):
    """Whom to tell when the last job of a group has ended, besides the tenant's endpoints."""

    url: str = Field(
        description="Where to; its origin is that of one of your registered endpoints.",
        min_length=8,
        max_length=2048,
    )


class JobWebhook(GroupWebhook):
    """Whom to tell of this one job, besides the tenant's endpoints."""

    events: Annotated[tuple[JobEvent, ...], Field(min_length=1, strict=False)] = Field(
        ENDINGS,
        description="Of what; left out: how it ended.",
    )


class Picture(Frozen):
    """A picture to begin with: one that you send, or one that the service has."""

    data: str | None = Field(
        None, description="Its bytes: base64, or a `data:` URI. PNG, JPEG or WebP.", min_length=1
    )
    background: str | None = Field(
        None, description="With data: the colour under what is transparent.",
        pattern="^#[0-9a-fA-F]{6}$", examples=["#ffffff"],
    )  # fmt: skip
    input: str | None = Field(
        None, description="The ID of one that was sent before.", pattern=f"^{INPUT_ID.pattern}$"
    )
    job: str | None = Field(
        None,
        description="One of your own jobs, which has succeeded.",
        pattern=f"^{JOB_ID.pattern}$",
    )
    index: Annotated[int, Field(ge=0, lt=HARD_MAX_N)] = Field(
        0, description="With job: which of its images."
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        given = [name for name in ("data", "input", "job") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give data, input or job: one of them")
        if "index" in self.model_fields_set and self.job is None:
            raise ValueError("index goes with job")
        if self.background is not None and self.data is None:
            raise ValueError("background goes with data")
        return self


def _from_text(value: Any) -> Any:
    """A bare string is the picture's data."""
    return {"data": value} if isinstance(value, str) else value


# In requests: the object above, or its `data` alone.
GivenPicture = Annotated[Picture, BeforeValidator(_from_text, json_schema_input_type=str | Picture)]
Strength = Annotated[float, Field(gt=0, le=1)]
Resize = Literal["cover", "stretch"]


class LoraChoice(Frozen):
    """One LoRA adapter of the model, and how strongly it acts."""

    name: Name = Field(description="As GET /v1/models lists it for the model.")
    scale: Annotated[float, Field(ge=-4, le=4)] = Field(
        1.0, description="1: as it was trained; 0: not at all; below 0: the opposite."
    )


class ControlChoice(Frozen):
    """A picture that steers the layout, for one of the model's ControlNets."""

    name: Name = Field(description="As GET /v1/models lists it for the model.")
    image: GivenPicture = Field(
        description="What that ControlNet was trained on: edges, a depth map, a pose."
    )
    scale: Annotated[float, Field(ge=0, le=4)] = Field(
        1.0, description="How much it is heeded; 0: not at all."
    )
    start: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="From which share of the steps on it is heeded."
    )
    end: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Until which share.")


class Control(Frozen):
    """A `ControlChoice` whose picture has been taken in."""

    name: str
    image: str  # ID of the input, of the job's own size
    scale: float
    start: float
    end: float


MAX_LORAS = 4
LoraChoices = Annotated[tuple[LoraChoice, ...], Field(max_length=MAX_LORAS, strict=False)]
