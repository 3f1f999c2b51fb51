"""Nested request objects: input images, LoRAs, control, output file, webhook.

Owns the fields of these objects and the rules of each by itself, and two tables: file formats and
webhook events. Knows no model. Invariant: every object is frozen and strict, and refuses unknown
keys.
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
    """An immutable, strict model: refuses a bool or '20' as an int, and NaN as a number."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


Format = Literal["png", "jpeg", "webp"]


class FileFormat(NamedTuple):
    """The content type and file extensions of a format; Printworks writes the first extension."""

    content_type: str
    extensions: tuple[str, ...]


FORMATS: dict[Format, FileFormat] = {
    "png": FileFormat("image/png", ("png",)),
    "jpeg": FileFormat("image/jpeg", ("jpg", "jpeg")),
    "webp": FileFormat("image/webp", ("webp",)),
}


class Output(Frozen):
    """Output file of each image: format, quality and embedded metadata."""

    format: Format = "png"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None  # JPEG, WebP; None: 90
    metadata: bool = True  # write seed, settings and fingerprint into the file


class EventType(StrEnum):
    """Event types of webhooks. `webhook.test` needs no subscription: a test request sends it."""

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
    """A webhook for one group, called when its last job ends, besides the tenant's endpoints."""

    url: str = Field(
        description="URL to call; its origin must be that of one of your registered endpoints.",
        min_length=8,
        max_length=2048,
    )


class JobWebhook(GroupWebhook):
    """A webhook for one job, called besides the tenant's endpoints."""

    events: Annotated[tuple[JobEvent, ...], Field(min_length=1, strict=False)] = Field(
        ENDINGS,
        description="Event types to send. Default: the four final ones (succeeded, failed, "
        "canceled, expired).",
    )


class Picture(Frozen):
    """An input image: bytes in the request, an uploaded image's ID, or an image of your own job."""

    data: str | None = Field(
        None,
        description="Image bytes as base64 or as a `data:` URI; PNG, JPEG or WebP.",
        min_length=1,
    )
    background: str | None = Field(
        None, description="Background colour for transparent pixels; goes with `data`.",
        pattern="^#[0-9a-fA-F]{6}$", examples=["#ffffff"],
    )  # fmt: skip
    input: str | None = Field(
        None, description="ID of an uploaded input image.", pattern=f"^{INPUT_ID.pattern}$"
    )
    job: str | None = Field(
        None,
        description="ID of one of your own jobs that has succeeded.",
        pattern=f"^{JOB_ID.pattern}$",
    )
    index: Annotated[int, Field(ge=0, lt=HARD_MAX_N)] = Field(
        0, description="Index of the job's image, from 0; goes with `job`."
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        given = [name for name in ("data", "input", "job") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of data, input and job")
        if "index" in self.model_fields_set and self.job is None:
            raise ValueError("index goes with job")
        if self.background is not None and self.data is None:
            raise ValueError("background goes with data")
        return self


def _from_text(value: Any) -> Any:
    """Read a bare string as the input image's `data`."""
    return {"data": value} if isinstance(value, str) else value


# In requests: the object above, or its `data` alone.
GivenPicture = Annotated[Picture, BeforeValidator(_from_text, json_schema_input_type=str | Picture)]
Strength = Annotated[float, Field(gt=0, le=1)]
Resize = Literal["cover", "stretch"]


class LoraChoice(Frozen):
    """A LoRA adapter of the model and its scale."""

    name: Name = Field(description="Name of the LoRA, as GET /v1/models lists it for the model.")
    scale: Annotated[float, Field(ge=-4, le=4)] = Field(
        1.0, description="Weight of the LoRA. 1: as trained; 0: no effect; below 0: the opposite."
    )


class ControlChoice(Frozen):
    """A control image that guides the layout through one of the model's ControlNets."""

    name: Name = Field(
        description="Name of the ControlNet, as GET /v1/models lists it for the model."
    )
    image: GivenPicture = Field(
        description="Control image of the kind that the ControlNet was trained on: edges, a depth "
        "map, a pose."
    )
    scale: Annotated[float, Field(ge=0, le=4)] = Field(
        1.0, description="Weight of the ControlNet; 0: no effect."
    )
    start: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the steps, 0 to 1, at which the ControlNet begins to apply."
    )
    end: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of the steps, 0 to 1, at which the ControlNet ceases to apply."
    )


class Control(Frozen):
    """A resolved `ControlChoice`: its control image is stored, and named by an input ID."""

    name: str
    image: str  # ID of the input, of the job's own size
    scale: float
    start: float
    end: float


MAX_LORAS = 4
LoraChoices = Annotated[tuple[LoraChoice, ...], Field(max_length=MAX_LORAS, strict=False)]
