"""What the service answers, typed and frozen; and what can be asked.

Owns the client's view of docs/openapi.json; tests/client holds the two together. Invariant: a
newer service may say more than is named here, and an older one less, and nothing breaks: required
is only what identifies a thing or is all of an answer, so that another service is still noticed.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Literal, Required, TypedDict

from pydantic import BaseModel, ConfigDict

EPOCH = datetime.fromtimestamp(0, UTC)
FINAL = frozenset({"succeeded", "failed", "canceled", "expired"})


class Answer(BaseModel):
    """Immutable; unknown fields of a newer service are left aside, missing ones of an older too."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class OutputOptions(TypedDict, total=False):
    """How the pixels are written to a file."""

    format: Literal["png", "jpeg", "webp"]
    quality: int  # 1 to 100; jpeg and webp
    metadata: bool  # write seed and settings into the file


class WebhookOptions(TypedDict, total=False):
    """Whom to call back, and when."""

    url: str
    events: list[str]


class PictureOptions(TypedDict, total=False):
    """A picture to begin with: data, input or job."""

    data: str  # base64, or a data: URI
    background: str  # with data: "#rrggbb" under what is transparent
    input: str  # the ID of one that was sent before
    job: str  # an earlier job of yours ...
    index: int  # ... and which of its images


class LoraOptions(TypedDict, total=False):
    """One LoRA adapter, as the model lists it."""

    name: Required[str]
    scale: float  # 1: as it was trained


class ControlOptions(TypedDict, total=False):
    """A picture that the layout follows, for one of the model's ControlNets."""

    name: Required[str]
    image: Required[str | PictureOptions]
    scale: float  # how much it is heeded; 0: not at all
    start: float  # from which share of the steps on, 0 to 1
    end: float  # and until which


class JobOptions(TypedDict, total=False):
    """Everything that a job may say besides its prompt. What is left out, the model decides."""

    model: str
    negative_prompt: str
    width: int  # px, with height
    height: int
    size: str  # "WIDTHxHEIGHT", instead
    aspect_ratio: str  # "3:2", instead
    steps: int
    guidance_scale: float
    seed: int | list[int]  # image k uses seed + k, or the k-th of a list
    n: int  # images
    sampler: str
    loras: list[LoraOptions]  # adapters to put on the model for this job
    control: ControlOptions  # a picture that the layout follows
    image: str | PictureOptions  # base64 or data URI, an input, or an earlier job's image
    mask: str | PictureOptions  # repaint where it is white
    strength: float  # how much of the image is let go of, 0 to 1
    resize: Literal["cover", "stretch"]  # an image of another size than the job's
    output: OutputOptions
    preview: bool  # send `preview` events while it is made
    priority: Literal["high", "normal", "low"]
    deadline_s: float
    retention_s: int
    reproducibility: Literal["exact", "fast"]
    metadata: dict[str, Any]  # yours, echoed
    webhook: WebhookOptions  # whom to call back


class Output(Answer):
    """How the pixels were written."""

    format: str = ""
    quality: int | None = None
    metadata: bool = False


class Picture(Answer):
    """A picture that a job began with, by the ID of its input."""

    input: str = ""


class Input(Answer):
    """A picture that jobs can begin with: plain 8-bit RGB."""

    id: str
    width: int = 0
    height: int = 0
    pixel_sha256: str = ""
    changes: list[str] = []  # what decoding changed: orientation, transparency ...
    kept_until: datetime = EPOCH
    url: str = ""


class LoraChoice(Answer):
    """One LoRA adapter that a picture was made with."""

    name: str
    scale: float = 1.0


class ControlChoice(Answer):
    """The picture that steered the layout, and how."""

    name: str
    image: Picture = Picture()
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


class Resolved(Answer):
    """Every value that the pictures were made with: submit it to make them again."""

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
    """One picture. `pixel_sha256` is of the decoded RGB bytes: equal pixels, equal hash."""

    index: int
    seed: int = 0
    url: str = ""
    pixel_sha256: str = ""
    width: int = 0
    height: int = 0
    content_type: str = ""
    bytes: int = 0


class Progress(Answer):
    """Model calls done and expected, over all images of the job."""

    step: int = 0
    steps: int = 0
    fraction: float = 0.0


class QueuePlace(Answer):
    """Jobs ahead of this one (0: next), and the expected seconds until it starts."""

    position: int | None = None
    eta_seconds: float | None = None


class JobError(Answer):
    """Why a job failed."""

    code: str
    message: str = ""
    retryable: bool = False


class Urls(Answer):
    """Where to go from here."""

    self: str = ""
    events: str = ""
    cancel: str = ""


class Job(Answer):
    """One job as it stood when it was asked for."""

    id: str
    status: str  # one that you do not know is not final
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
        """Whether nothing more will happen."""
        return self.status in FINAL


class JobPage(Answer):
    """Some jobs, newest first; `next_cursor` leads on, None at the end."""

    jobs: list[Job]
    next_cursor: str | None = None


class Quote(Answer):
    """What a request would come to."""

    resolved: Resolved = Resolved()
    cost: float = 0.0
    eta_seconds: float | None = None
    run_seconds: float | None = None
    queued: int = 0


class Limits(Answer):
    """What a model allows; sides in px."""

    min_side: int = 0
    max_side: int = 0
    side_multiple: int = 0
    max_pixels: int = 0
    max_steps: int = 0
    max_guidance: float = 0.0
    max_n: int = 0
    max_prompt_chars: int = 0


class Defaults(Answer):
    """What a model does where it is not told."""

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
    """One model, and how busy it is."""

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
    controls: list[str] = []  # its ControlNets
    queued: int = 0
    running: int = 0
    workers: int = 0
    reproducibility: str | None = None


class Sampler(Answer):
    """One way from noise to picture."""

    id: str
    title: str = ""
    good_for: str = ""
    predictions: list[str] = []
    adds_noise: bool = False
    from_image: bool = False
    calls_per_step: int = 0
    max_steps: int = 0


class UsageEntry(Answer):
    """What one API key had made on one day (UTC). `megapixel_steps`: of what succeeded."""

    day: date
    tenant: str = ""
    key: str = ""  # the key's ID; -: jobs sent without one
    jobs: dict[str, int] = {}  # ended that day, by status
    images: int = 0
    megapixel_steps: float = 0.0


class UsageTotal(Answer):
    """All entries together."""

    jobs: dict[str, int] = {}
    images: int = 0
    megapixel_steps: float = 0.0


class Usage(Answer):
    """Usage from one day to another, both included."""

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
    successor: str | None = None  # ID of the key that a rotated one was rotated to


class NewKey(Key):
    """One just made. `secret` is told this once."""

    secret: str


class KeyList(Answer):
    """All keys, oldest first; those revoked, too."""

    keys: list[Key]


class ModelList(Answer):
    """All models; the first is the default."""

    models: list[Model]


class SamplerList(Answer):
    """All samplers."""

    samplers: list[Sampler]
