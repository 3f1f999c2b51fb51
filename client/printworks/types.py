"""Typed requests and answers of the service; answers are frozen.

Owns the client's view of docs/openapi.json; tests/client compares the two. Invariant: a newer
service may answer more fields than are named here, and an older one fewer, and nothing breaks: a
field is required only if it identifies an object or is the whole answer, so that another service
is still noticed.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from printworks.options import (
    ControlOptions as ControlOptions,
)
from printworks.options import (
    JobOptions as JobOptions,
)
from printworks.options import (
    JobRequest as JobRequest,
)
from printworks.options import (
    LoraOptions as LoraOptions,
)
from printworks.options import (
    OutputOptions as OutputOptions,
)
from printworks.options import (
    PictureOptions as PictureOptions,
)
from printworks.options import (
    WebhookOptions as WebhookOptions,
)

EPOCH = datetime.fromtimestamp(0, UTC)
FINAL = frozenset({"succeeded", "failed", "canceled", "expired"})


class Answer(BaseModel):
    """An immutable answer; unknown fields are ignored, and missing optional fields get defaults."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Output(Answer):
    """Output file options as applied: format, quality, metadata."""

    format: str = ""
    quality: int | None = None
    metadata: bool = False


class Picture(Answer):
    """An input image of a job, by ID."""

    input: str = ""


class Input(Answer):
    """An uploaded input image: 8-bit RGB, sides in px."""

    id: str
    width: int = 0
    height: int = 0
    pixel_sha256: str = ""
    changes: list[str] = []  # changes made by decoding: orientation, transparency ...
    kept_until: datetime = EPOCH
    url: str = ""


class LoraChoice(Answer):
    """A LoRA adapter that was applied, and its weight."""

    name: str
    scale: float = 1.0


class ControlChoice(Answer):
    """The ControlNet that was applied: name, input image, weight, share of the steps."""

    name: str
    image: Picture = Picture()
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


class Resolved(Answer):
    """Every value that the images were made with: submit them to make the same images again."""

    model: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    width: int = 0
    height: int = 0
    steps: int = 0
    guidance_scale: float = 0.0
    seed: list[int] = []
    n: int = 0
    sampler: str = ""
    loras: list[LoraChoice] = []
    control: ControlChoice | None = None
    image: Picture | None = None
    mask: Picture | None = None
    strength: float | None = None
    resize: str | None = None
    output: Output = Output()
    preview: bool = False
    priority: str = ""
    deadline_s: float | None = None
    retention_s: int = 0
    reproducibility: str = ""
    metadata: dict[str, Any] = {}


class Image(Answer):
    """One image; sides in px. `pixel_sha256` is the SHA-256 of the decoded RGB bytes."""

    index: int
    seed: int = 0
    url: str = ""
    pixel_sha256: str = ""
    width: int = 0
    height: int = 0
    content_type: str = ""
    bytes: int = 0


class Progress(Answer):
    """Model calls done and expected, over all images of the job; `fraction` is 0 to 1."""

    step: int = 0
    steps: int = 0
    fraction: float = 0.0


class QueuePlace(Answer):
    """The job's place in the queue: jobs ahead (0: next), expected seconds until the start."""

    position: int | None = None
    eta_seconds: float | None = None


class JobError(Answer):
    """The reason for a job's failure."""

    code: str
    message: str = ""
    retryable: bool = False


class Urls(Answer):
    """Links of a job."""

    self: str = ""
    events: str = ""
    cancel: str = ""


class Job(Answer):
    """The state of one job at the time of the request."""

    id: str
    status: str  # an unknown status is not final
    stage: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    queue: QueuePlace | None = None
    progress: Progress = Progress()
    images: list[Image] = []
    resolved: Resolved = Resolved()
    reproducibility: str | None = None
    fingerprint: dict[str, Any] | None = None
    metrics: dict[str, float] = {}
    error: JobError | None = None
    urls: Urls = Urls()

    @property
    def final(self) -> bool:
        """True if the job has ended."""
        return self.status in FINAL


class JobPage(Answer):
    """One page of jobs, newest first; `next_cursor` is None on the last page."""

    jobs: list[Job]
    next_cursor: str | None = None


class Quote(Answer):
    """The cost of a request, its expected times in seconds, and the number of queued jobs."""

    resolved: Resolved = Resolved()
    cost: float = 0.0
    eta_seconds: float | None = None
    run_seconds: float | None = None
    queued: int = 0


class Group(Answer):
    """Jobs that were submitted together. `gone`: IDs of jobs that were deleted or have expired."""

    id: str
    created_at: datetime = EPOCH
    done: bool = False
    counts: dict[str, int] = {}  # jobs by status
    jobs: list[Job] = []
    gone: list[str] = []
    url: str = ""


class ModelQueue(Answer):
    """Queue of one model."""

    model: str
    queued: int = 0
    running: int = 0
    eta_seconds: float | None = None
    workers: int = 0


class Queue(Answer):
    """Queue of the service, in all and by model."""

    queued: int
    running: int = 0
    paused: bool = False
    models: list[ModelQueue] = []


class Limits(Answer):
    """Limits of a model; sides in px."""

    min_side: int = 0
    max_side: int = 0
    side_multiple: int = 0
    max_pixels: int = 0
    max_steps: int = 0
    max_guidance: float = 0.0
    max_n: int = 0
    max_prompt_chars: int = 0


class Defaults(Answer):
    """Default values of a model; sides in px."""

    width: int = 0
    height: int = 0
    steps: int = 0
    guidance_scale: float = 0.0
    sampler: str = ""


class Lora(Answer):
    """One LoRA adapter of a model."""

    name: str
    digest: str = ""  # SHA-256 of its file
    bytes: int = 0


class Model(Answer):
    """One model: limits, defaults, and its queued jobs, running jobs and workers."""

    id: str
    title: str = ""
    default: bool = False
    prediction: str = ""
    revision: str | None = None
    limits: Limits = Limits()
    defaults: Defaults = Defaults()
    inputs: list[str] = []
    samplers: list[str] = []
    loras: list[Lora] = []
    controls: list[str] = []  # names of the model's ControlNets
    queued: int = 0
    running: int = 0
    workers: int = 0
    reproducibility: str | None = None


class Sampler(Answer):
    """One sampler."""

    id: str
    title: str = ""
    good_for: str = ""
    predictions: list[str] = []
    adds_noise: bool = False
    from_image: bool = False
    calls_per_step: int = 0
    max_steps: int = 0


class UsageEntry(Answer):
    """Usage of one API key on one day (UTC). `megapixel_steps` counts succeeded jobs."""

    day: date
    tenant: str = ""
    key: str = ""  # the key's ID; -: jobs sent without one
    jobs: dict[str, int] = {}  # ended that day, by status
    images: int = 0
    megapixel_steps: float = 0.0


class UsageTotal(Answer):
    """The total of all entries."""

    jobs: dict[str, int] = {}
    images: int = 0
    megapixel_steps: float = 0.0


class Usage(Answer):
    """Usage from the day `since` to the day `until`, both included."""

    since: date
    until: date
    total: UsageTotal = UsageTotal()
    entries: list[UsageEntry] = []


class Key(Answer):
    """An API key without its secret."""

    id: str
    tenant: str = ""
    name: str = ""
    scopes: list[str] = []
    max_open_jobs: int | None = None
    per_minute: int | None = None
    created_at: datetime = EPOCH
    ends_at: datetime | None = None  # when a rotated key stops working
    revoked_at: datetime | None = None
    successor: str | None = None  # ID of the key that replaces a rotated key


class NewKey(Key):
    """A newly created key. `secret` is shown this once."""

    secret: str


class KeyList(Answer):
    """All keys, oldest first, revoked keys included."""

    keys: list[Key]


class ModelList(Answer):
    """All models; the first is the default."""

    models: list[Model]


class SamplerList(Answer):
    """All samplers."""

    samplers: list[Sampler]
