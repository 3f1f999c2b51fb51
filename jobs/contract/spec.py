"""The generation request that a client sends, and the spec that the request resolves to.

Owns `JobRequest` (optional fields, strict types) and `JobSpec` (canonical: every value needed to
make the same images again). Knows no Redis, HTTP or torch. Invariants: a JobSpec never changes; a
field that both have unchanged is written once, in `Texts` or `Handling`. `jobs/contract/parsing.py`
reads a request, `jobs/contract/resolve.py` makes a spec of the request.
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
    """Priority of a job: each model has one queue a priority."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Reproducibility(StrEnum):
    """`exact`: the same bits in any batch. `fast`: any batch size, so rounding may differ."""

    EXACT = "exact"
    FAST = "fast"


class Texts(Frozen):
    """Prompt and negative prompt; both pass unchanged from a request into its spec."""

    prompt: str = Field(
        description="Text that describes the images.", min_length=1, max_length=20_000
    )
    negative_prompt: str = Field(
        "", description="Text that describes what the images should not show.", max_length=20_000
    )


class Handling(Frozen):
    """Queueing and delivery options of a job; they pass unchanged from a request into its spec."""

    resize: Resize | None = Field(
        None,
        description="Fit of an input or control image whose size is not the job's: `cover` crops "
        "to the middle, `stretch` distorts. Left out: such an image is refused.",
    )
    output: Output = Output()
    preview: bool = Field(
        False,
        description="Send `preview` events while the job runs: about two small images a second.",
    )
    priority: Priority = Field(Priority.NORMAL, strict=False)
    deadline_s: Annotated[float, Field(gt=0, le=7 * 86_400)] | None = Field(
        None, description="Seconds from now by which the job must be done; later the job expires."
    )
    reproducibility: Reproducibility = Field(Reproducibility.EXACT, strict=False)
    metadata: dict[str, JsonValue] = Field(
        {}, description="Your own data, returned in the job's record; at most 1 KiB of JSON."
    )
    webhook: JobWebhook | None = Field(None, description="A webhook for this job alone.")


class Choices(Frozen):
    """Options whose defaults depend on the model; `resolve` sets each that is left out."""

    model: Name | None = Field(
        None, description="Model ID. Default: the first model of the model file."
    )
    width: int | None = Field(None, description="Width in px; goes with `height`.")
    height: int | None = Field(None, description="Height in px; goes with `width`.")
    size: str | None = Field(
        None,
        description='Image size as "WIDTHxHEIGHT" in px, instead of `width` and `height`.',
        max_length=32,
    )
    aspect_ratio: str | None = Field(
        None,
        description='Aspect ratio as "W:H", such as "3:2"; sets the nearest legal image size.',
        max_length=32,
    )
    steps: int | None = Field(
        None, description="Denoising steps. More steps refine, with diminishing returns."
    )
    guidance_scale: float | None = Field(
        None, description="Weight of the prompt; 1 or less switches guidance off."
    )
    seed: Seed | Annotated[list[Seed], Field(min_length=1, max_length=HARD_MAX_N)] | None = Field(
        None,
        description="Seed: image k uses seed + k, or item k of a list. Default: a random seed, "
        "which the record shows.",
    )
    n: int | None = Field(
        None, description="Number of images. Default: 1, or the length of a list in `seed`."
    )
    sampler: Name | None = Field(
        None, description="Sampler name; see GET /v1/samplers. Default: the model's."
    )
    loras: LoraChoices = Field(
        (), description="LoRA adapters for this job; their order has no effect."
    )
    control: ControlChoice | None = Field(
        None,
        description="ControlNet and control image that guide the layout; with or without `image`.",
    )
    image: GivenPicture | None = Field(
        None,
        description="Input image for image-to-image: generation begins with the image instead of "
        "noise. A string is base64 or a data URI.",
    )
    mask: GivenPicture | None = Field(
        None,
        description="Inpaint mask, of the same size as `image`: white is repainted, black is kept.",
    )
    strength: Strength | None = Field(
        None,
        description="Image strength: the share of the input image to replace. Default: 0.8; with "
        "a mask 1. The last steps x strength steps run.",
    )
    retention_s: Annotated[int, Field(ge=60, le=30 * 86_400)] | None = Field(
        None, description="Seconds to keep images and record after the job has ended."
    )


class JobRequest(Handling, Choices, Texts):
    """A generation request. Options left out take defaults, which the job's record shows."""


# The fields that a spec copies from its request unchanged.
PASSED_ON = (*Texts.model_fields, *Handling.model_fields)


class JobSpec(Handling, Texts):
    """An accepted request with every value resolved. The same spec gives the same images."""

    model: str
    width: int  # px
    height: int  # px
    steps: int
    guidance_scale: float
    seeds: tuple[Seed, ...] = Field(min_length=1)  # one an image
    sampler: str
    loras: tuple[LoraChoice, ...] = ()
    control: Control | None = None
    image: str | None = None  # ID of the input image, whose size is the job's
    mask: str | None = None  # ID of the inpaint mask, white where to repaint
    strength: Strength | None = None  # None: there is no input image
    retention_s: int

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.seeds)

    @property
    def inputs(self) -> tuple[str, ...]:
        """IDs of the input images that the job needs, each once."""
        steering = self.control.image if self.control else None
        named = (self.image, self.mask, steering)
        return tuple(dict.fromkeys(i for i in named if i is not None))

    @property
    def size_class(self) -> str:
        """Key of the jobs that can share a model call: size, ControlNet and LoRAs."""
        control = [f"control:{self.control.name}"] if self.control else []
        names = [*control, *sorted(x.name for x in self.loras)]
        return "+".join([f"{self.width}x{self.height}", *names])

    @property
    def cost(self) -> float:
        """Work in megapixel-rows: images x steps x rows per step x megapixels."""
        rows = 2 if self.guidance_scale > 1 else 1
        return self.megapixel_steps * rows * (CONTROL_COST if self.control else 1)

    @property
    def megapixel_steps(self) -> float:
        """Work as usage counts it: images x steps x megapixels, whatever one step costs."""
        steps = steps_taken(self.steps, self.strength)
        return self.n * steps * self.width * self.height / 1e6
