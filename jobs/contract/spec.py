"""What was asked: the request as a client may write it, and the spec it becomes.

Owns `JobRequest` (optional fields, strict types) and `JobSpec` (canonical: every value needed to
make the same pictures again). Knows no Redis, HTTP or torch. Invariants: a JobSpec never changes; a
field that both have unchanged is written once, in `Texts` or `Handling`. `jobs/contract/parsing.py`
reads a request, `jobs/contract/resolve.py` makes a spec of it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue

from jobs.contract.input_images import steps_taken
from jobs.contract.request_parts import (
    HARD_MAX_N,
    Control,
    ControlChoice,
    Frozen,
    GivenPicture,
    JobWebhook,
    LoraChoice,
    LoraChoices,
    Name,
    Output,
    Resize,
    Strength,
)

MAX_SEED = 2**32 - 1
CONTROL_COST = 1.5  # a ControlNet is the first half of the denoiser once more, at each step
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class Priority(StrEnum):
    """Which of a model's three waiting lists a job joins."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Reproducibility(StrEnum):
    """`exact`: the same bits alone or in company. `fast`: free widths, rounding may differ."""

    EXACT = "exact"
    FAST = "fast"


class Texts(Frozen):
    """The words of a request, which pass unchanged into its spec."""

    prompt: str = Field(description="What the picture shows.", min_length=1, max_length=20_000)
    negative_prompt: str = Field("", description="What it should not show.", max_length=20_000)


class Handling(Frozen):
    """How a job is treated and its pictures delivered; passes unchanged into the spec."""

    resize: Resize | None = Field(
        None,
        description="An image (or a control's) of another size than the job's: `cover` crops its "
        "middle, `stretch` changes its shape. Left out: it is refused.",
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
    reproducibility: Reproducibility = Field(Reproducibility.EXACT, strict=False)
    metadata: dict[str, JsonValue] = Field(
        {}, description="Yours, echoed in the record; at most 1 KiB of JSON."
    )
    webhook: JobWebhook | None = Field(None, description="Call back when something happens.")


class Choices(Frozen):
    """Values that the model decides where a request leaves them out; `resolve` settles each."""

    model: Name | None = Field(
        None, description="A model's ID; left out: the first of the model file."
    )
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
        description="Image k uses seed + k, or the k-th of a list. Left out: random, and recorded.",
    )
    n: int | None = Field(None, description="How many images; 1 unless `seed` is a list.")
    sampler: Name | None = Field(
        None, description="See GET /v1/samplers; left out: the model's default."
    )
    loras: LoraChoices = Field(
        (), description="LoRA adapters to put on the model for this job; their order is nothing."
    )
    control: ControlChoice | None = Field(
        None, description="A picture that the layout follows, beginning with noise or with `image`."
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
    retention_s: Annotated[int, Field(ge=60, le=30 * 86_400)] | None = Field(
        None, description="Seconds that pictures and record are kept after the end."
    )


class JobRequest(Handling, Choices, Texts):
    """A generation request as a client may send it. What is left out is resolved, and recorded."""


# The fields that a spec takes from its request as they are.
PASSED_ON = (*Texts.model_fields, *Handling.model_fields)


class JobSpec(Handling, Texts):
    """One accepted request, every value definite. The same spec gives the same pictures."""

    model: str
    width: int  # px
    height: int  # px
    steps: int
    guidance_scale: float
    seeds: tuple[Seed, ...] = Field(min_length=1)  # one an image
    sampler: str
    loras: tuple[LoraChoice, ...] = ()
    control: Control | None = None
    image: str | None = None  # ID of the input that it begins with, of the job's own size
    mask: str | None = None  # ID of the input that is white where to repaint
    strength: Strength | None = None  # None: there is no image
    retention_s: int

    @property
    def n(self) -> int:
        """How many images."""
        return len(self.seeds)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The pictures that it needs, each once."""
        steering = self.control.image if self.control else None
        named = (self.image, self.mask, steering)
        return tuple(dict.fromkeys(i for i in named if i is not None))

    @property
    def size_class(self) -> str:
        """Jobs of one class can share a model call."""
        control = [f"control:{self.control.name}"] if self.control else []
        names = [*control, *sorted(x.name for x in self.loras)]
        return "+".join([f"{self.width}x{self.height}", *names])

    @property
    def cost(self) -> float:
        """Work in megapixel-rows: images x steps x rows a step x megapixels."""
        rows = 2 if self.guidance_scale > 1 else 1
        return self.megapixel_steps * rows * (CONTROL_COST if self.control else 1)

    @property
    def megapixel_steps(self) -> float:
        """What usage counts: images x steps x megapixels, whatever a step costs."""
        steps = steps_taken(self.steps, self.strength)
        return self.n * steps * self.width * self.height / 1e6
