"""What was asked: the request as a client may write it, and the spec it becomes.

Owns `JobRequest` (optional fields, strict types, unknown keys refused with the nearest known
one) and `JobSpec` (canonical: every value needed to make the same pictures again). Knows no
Redis, HTTP or torch. Invariant: a JobSpec never changes; `jobs/resolve.py` makes it.
"""

from __future__ import annotations

import difflib
import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from jobs.errors import InvalidRequest, Problem
from jobs.ids import JOB_ID
from jobs.inputs import INPUT_ID, steps_taken

MAX_SEED = 2**32 - 1
HARD_MAX_N = 64
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=63)]


class Frozen(BaseModel):
    """Immutable and strict: no bool is an int, no '20' is 20, no NaN is a number."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class Priority(StrEnum):
    """Which of a model's three waiting lists a job joins."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Reproducibility(StrEnum):
    """`exact`: the same bits alone or in company. `fast`: free widths, rounding may differ."""

    EXACT = "exact"
    FAST = "fast"


class Output(Frozen):
    """How the pixels are written to a file."""

    format: Literal["png", "jpeg", "webp"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None  # jpeg, webp; None: 90
    metadata: bool = True  # write seed, settings and fingerprint into the file


WebhookEvent = Literal[
    "job.started", "job.progress", "job.succeeded", "job.failed", "job.canceled", "job.expired"
]


class GroupWebhook(Frozen):
    """Whom to tell when the last job of a group has ended, besides the tenant's endpoints."""

    url: str = Field(
        description="Where to; its origin is that of one of your registered endpoints.",
        min_length=8,
        max_length=2048,
    )


class JobWebhook(GroupWebhook):
    """Whom to tell of this one job, besides the tenant's endpoints."""

    events: Annotated[tuple[WebhookEvent, ...], Field(min_length=1, strict=False)] = Field(
        ("job.succeeded", "job.failed", "job.canceled", "job.expired"),
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


MAX_LORAS = 4
LoraChoices = Annotated[tuple[LoraChoice, ...], Field(max_length=MAX_LORAS, strict=False)]


class JobRequest(Frozen):
    """A generation request as a client may send it. What is left out is resolved, and recorded."""

    model: Name | None = Field(
        None, description="A model's ID; left out: the first of the model file."
    )
    prompt: str = Field(description="What the picture shows.", min_length=1, max_length=20_000)
    negative_prompt: str = Field("", description="What it should not show.", max_length=20_000)
    width: int | None = Field(None, description="Width in px; goes with `height`.")
    height: int | None = Field(None, description="Height in px; goes with `width`.")
    size: str | None = Field(
        None, description='"WIDTHxHEIGHT" in px, instead of width and height.', max_length=32
    )
    aspect_ratio: str | None = Field(
        None,
        description='"W:H", such as "3:2": the legal size nearest to that shape.',
        max_length=32,
    )
    steps: int | None = Field(
        None, description="Denoising steps: more refine, with diminishing returns."
    )
    guidance_scale: float | None = Field(
        None, description="How closely to follow the prompt; 1 or less switches guidance off."
    )
    seed: Seed | Annotated[list[Seed], Field(min_length=1, max_length=HARD_MAX_N)] | None = Field(
        None,
        description="Image k uses seed + k, or the k-th of a list. Left out: drawn, and recorded.",
    )
    n: int | None = Field(None, description="How many images; 1 unless `seed` is a list.")
    sampler: Name | None = Field(
        None, description="See GET /v1/samplers; left out: the model's default."
    )
    loras: LoraChoices = Field(
        (), description="LoRA adapters to put on the model for this job; their order is nothing."
    )
    image: GivenPicture | None = Field(
        None,
        description="Begin with this picture, not with noise. A string is its base64 or data URI.",
    )
    mask: GivenPicture | None = Field(
        None,
        description="With image, and of its size: repaint it where this is white, not where black.",
    )
    strength: Strength | None = Field(
        None,
        description="How much of the image is let go of. Left out: 0.8, with a mask 1. "
        "The last steps x strength steps are taken.",
    )
    resize: Resize | None = Field(
        None,
        description="An image of another size than the job's: `cover` crops its middle, `stretch` "
        "changes its shape. Left out: it is refused.",
    )
    output: Output = Output()
    preview: bool = Field(
        False,
        description="Send `preview` events while it is made: about two small pictures a second.",
    )
    priority: Priority = Field(Priority.NORMAL, strict=False)
    deadline_s: Annotated[float, Field(gt=0, le=7 * 86_400)] | None = Field(
        None, description="Seconds from now by which it must be done; later it expires."
    )
    retention_s: Annotated[int, Field(ge=60, le=30 * 86_400)] | None = Field(
        None, description="Seconds that pictures and record are kept after the end."
    )
    reproducibility: Reproducibility = Field(Reproducibility.EXACT, strict=False)
    metadata: dict[str, JsonValue] = Field(
        {}, description="Yours, echoed in the record; at most 1 KiB of JSON."
    )
    webhook: JobWebhook | None = Field(None, description="Call back when something happens.")


class JobSpec(Frozen):
    """One accepted request, every value definite. The same spec gives the same pictures."""

    model: str
    prompt: str
    negative_prompt: str
    width: int  # px
    height: int  # px
    steps: int
    guidance_scale: float
    seeds: tuple[Seed, ...] = Field(min_length=1)  # one an image
    sampler: str
    loras: tuple[LoraChoice, ...] = ()
    image: str | None = None  # ID of the input that it begins with, of the job's own size
    mask: str | None = None  # ID of the input that is white where to repaint
    strength: Strength | None = None  # None: there is no image
    resize: Resize | None = None  # how the image came to that size; None: it has it
    output: Output
    preview: bool = False
    priority: Priority = Field(strict=False)
    deadline_s: float | None
    retention_s: int
    reproducibility: Reproducibility = Field(strict=False)
    metadata: dict[str, JsonValue]
    webhook: JobWebhook | None = None

    @property
    def n(self) -> int:
        """How many images."""
        return len(self.seeds)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The pictures that it begins with, each once."""
        return tuple(dict.fromkeys(i for i in (self.image, self.mask) if i is not None))

    @property
    def size_class(self) -> str:
        """Jobs of one class can share a model call."""
        return "+".join([f"{self.width}x{self.height}", *sorted(x.name for x in self.loras)])

    @property
    def cost(self) -> float:
        """Work in megapixel-rows: images x steps x rows a step x megapixels."""
        rows = 2 if self.guidance_scale > 1 else 1
        return self.megapixel_steps * rows

    @property
    def megapixel_steps(self) -> float:
        """What usage counts: images x steps x megapixels, whatever a step costs."""
        steps = steps_taken(self.steps, self.strength)
        return self.n * steps * self.width * self.height / 1e6


def parse_request(body: bytes | str | dict[str, Any]) -> JobRequest:
    """Strictly read a request. Raises InvalidRequest with every problem, never echoing input."""
    try:
        if isinstance(body, dict):
            return JobRequest.model_validate(body)
        return JobRequest.model_validate_json(body)
    except ValidationError as error:
        raise InvalidRequest(problems_of(error, JobRequest)) from None
    except (UnicodeError, RecursionError, ValueError):
        # RecursionError: JSON nested a thousand deep; UnicodeError: a lone surrogate in a str
        raise InvalidRequest([Problem("", "invalid_json", "the body is not valid JSON")]) from None


# pydantic names the member of a union that it tried; in a pointer it would be a field of nothing
_UNION_MEMBER = re.compile(r"constrained-\w+|list\[.*\]")
MAX_PROBLEMS = 20  # a body can break in thousands of places; the answer stays short


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """A pydantic error as our problems: pointer, stable code, a sentence; no input echoed."""
    known = list(model.model_fields)
    problems: list[Problem] = []
    items = error.errors(include_url=False, include_context=False, include_input=False)
    for item in items[:MAX_PROBLEMS]:  # a hint for each of 4000 unknown fields took 0.6 s
        parts = [part for part in item["loc"] if not _UNION_MEMBER.fullmatch(str(part))]
        pointer = "".join(f"/{_escape(part)}" for part in parts)[:200]
        if item["type"] == "extra_forbidden":
            problems.append(
                Problem(pointer, "unknown_field", _unknown(str(item["loc"][-1]), known))
            )
        elif item["type"] == "json_invalid":
            problems.append(Problem("", "invalid_json", item["msg"][:200]))
        else:
            problems.append(Problem(pointer, item["type"], item["msg"][:300]))
    return problems


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(known)}"
    return f"unknown field; {hint}"


def _escape(part: str | int) -> str:
    """One reference token of a JSON pointer (RFC 6901 section 3)."""
    text = str(part).replace("~", "~0").replace("/", "~1")
    return text.encode("utf-8", "replace").decode()
