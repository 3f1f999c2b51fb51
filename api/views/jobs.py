"""What clients see: the job, its pictures, models, samplers, the queue.

Owns the public shape of every answer and the one translation from `JobRecord`. Must not know
connections. Invariant: no tenant and no blob key is ever in an answer; `resolved` is itself a
request that makes the same pictures again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from jobs.contract.input_images import Input, sha256_of, size_of
from jobs.contract.loras import LoraFile
from jobs.contract.model_file import Defaults, Limits, ModelEntry
from jobs.contract.record import Image, JobError, JobRecord, Progress, Stage, Status
from jobs.contract.reports import ModelQueue, Page, WorkerReport
from jobs.contract.request_parts import Control, LoraChoice, Output, Resize
from jobs.contract.spec import JobSpec, Priority, Reproducibility


class View(BaseModel):
    """A public answer: immutable, and nothing in it that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageView(View):
    """One picture, and where to get it."""

    index: int
    seed: int = Field(description="Makes this picture alone: the same request with n = 1.")
    url: str
    pixel_sha256: str = Field(description="Of the decoded RGB bytes: equal pixels, equal hash.")
    width: int = Field(description="px")
    height: int = Field(description="px")
    content_type: str
    bytes: int


class PictureView(View):
    """A picture that a job began with."""

    input: str = Field(description="Its ID: width, height, and the SHA-256 of its RGB bytes.")


class ControlView(View):
    """The picture that steered the layout, and how."""

    name: str
    image: PictureView
    scale: float
    start: float
    end: float


class Resolved(View):
    """Every value the pictures were made with. Send it as a request to make them again."""

    model: str
    prompt: str
    negative_prompt: str
    width: int = Field(description="px")
    height: int = Field(description="px")
    steps: int
    guidance_scale: float
    seed: list[int] = Field(description="One an image.")
    n: int
    sampler: str
    loras: list[LoraChoice]
    control: ControlView | None = Field(description="What steered the layout.")
    image: PictureView | None = Field(description="What it began with; null: noise.")
    mask: PictureView | None = Field(description="White where the image was repainted.")
    strength: float | None
    resize: Resize | None
    output: Output
    preview: bool
    priority: Priority
    deadline_s: float | None
    retention_s: int
    reproducibility: Reproducibility
    metadata: dict[str, JsonValue]


class QueueView(View):
    """Where a waiting job stands."""

    position: int | None = Field(description="Jobs ahead of it; 0: next.")
    eta_seconds: float | None = Field(description="Expected wait until it starts, if known.")


class Urls(View):
    """Where to go from here."""

    self: str
    events: str
    cancel: str


class Job(View):
    """A job as it stands now. A status you do not know is not final."""

    id: str
    status: Status
    stage: Stage | None = Field(description="What a job that is not final is doing.")
    created_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None = Field(description="When record and pictures go.")
    queue: QueueView | None
    progress: Progress
    images: list[ImageView]
    resolved: Resolved
    reproducibility: str | None = Field(description="What was kept: exact, tolerance or unpacked.")
    fingerprint: dict[str, Any] | None = Field(description="What the bits depend on besides.")
    metrics: dict[str, float]
    error: JobError | None
    urls: Urls


class InputView(View):
    """A picture that jobs can begin with: plain 8-bit RGB, whatever was sent."""

    id: str = Field(description='For `"image": {"input": ...}`: size and SHA-256 of its pixels.')
    width: int = Field(description="px")
    height: int = Field(description="px")
    pixel_sha256: str = Field(description="Of the RGB bytes: as `pixel_sha256` of a job's images.")
    changes: list[str] = Field(description="What decoding changed beyond unpacking.")
    kept_until: datetime = Field(description="Longer, while a job that began with it has a record.")
    url: str = Field(description="Its pixels, as a PNG.")


class JobPage(View):
    """Some of your jobs, newest first."""

    jobs: list[Job]
    next_cursor: str | None = Field(description="For `cursor`; null: the last page.")


class LoraView(View):
    """One LoRA adapter of a model."""

    name: str
    digest: str = Field(description="SHA-256 of its file.")
    bytes: int


class ModelView(View):
    """A model, what it allows, and what it does when not told."""

    id: str
    title: str
    default: bool = Field(description="Used where a request names no model.")
    prediction: str
    revision: str | None
    limits: Limits
    defaults: Defaults
    inputs: list[str] = Field(description="Pictures that a job may begin with: image, mask.")
    samplers: list[str]
    loras: list[LoraView] = Field(description="The LoRA adapters that a job may name.")
    controls: list[str] = Field(description="The ControlNets that a job may name.")
    queued: int
    running: int
    workers: int = Field(description="Workers that serve it now.")
    reproducibility: str | None = Field(description="What its workers keep; null: none is there.")


class ModelList(View):
    """All models; the first is the default."""

    models: list[ModelView]


class SamplerView(View):
    """One way from noise to picture."""

    id: str
    title: str
    good_for: str
    predictions: list[str] = Field(description="The kinds of model that it fits.")
    adds_noise: bool
    from_image: bool = Field(description="Whether it can begin with an image.")
    calls_per_step: int = Field(description="Model calls a step: what a step costs.")
    max_steps: int = Field(description="It takes no more; a model's limit may be lower.")


class SamplerList(View):
    """All samplers."""

    samplers: list[SamplerView]


class ModelQueueView(View):
    """How busy one model is."""

    model: str
    queued: int
    running: int
    eta_seconds: float | None = Field(description="Expected wait of a job sent now, if known.")
    workers: int


class QueueList(View):
    """How busy the service is."""

    queued: int
    running: int
    paused: bool = Field(description="Whether an operator has workers take no jobs.")
    models: list[ModelQueueView]


class Paused(View):
    """Whether workers take no jobs."""

    paused: bool


class WorkerList(View):
    """The workers that spoke within the last minute."""

    workers: list[WorkerReport]


class Health(View):
    """Whether the process, or the service behind it, can work; `reasons` where it cannot."""

    status: str
    reasons: dict[str, str] = Field(default={}, description="What is amiss, by part.")
    degraded: dict[str, str] = Field(
        default={}, description="What is amiss though pictures are made, by part."
    )


def job_of(record: JobRecord, base_url: str) -> Job:
    """The public view of a record. `base_url`: how the caller reaches us, without a last slash."""
    url = f"{base_url}/v1/jobs/{record.id}"
    queue = record.queue
    return Job(
        id=record.id,
        status=record.status,
        stage=record.stage,
        created_at=record.created_at,
        started_at=record.started_at,
        completed_at=record.completed_at,
        expires_at=record.expires_at,
        queue=QueueView(position=queue.position, eta_seconds=queue.eta_seconds) if queue else None,
        progress=record.progress,
        images=[_image(image, url) for image in record.images],
        resolved=resolved_of(record.spec),
        reproducibility=record.reproducibility,
        fingerprint=record.fingerprint,
        metrics=record.metrics,
        error=record.error,
        urls=Urls(self=url, events=f"{url}/events", cancel=f"{url}/cancel"),
    )


def _image(image: Image, job_url: str) -> ImageView:
    return ImageView(
        index=image.index,
        seed=image.seed,
        url=f"{job_url}/images/{image.index}",
        pixel_sha256=image.pixel_sha256,
        width=image.width,
        height=image.height,
        content_type=image.content_type,
        bytes=image.bytes,
    )


# What of a spec `resolved` does not repeat: a webhook's URL may hold a secret of its owner.
NOT_RESOLVED = frozenset({"webhook"})


def resolved_of(spec: JobSpec) -> Resolved:
    """Return the spec in the words of a request; a field that Resolved lacks is an error."""
    values = {name: value for name, value in spec if name not in NOT_RESOLVED}
    values["seed"], values["n"] = list(values.pop("seeds")), spec.n
    values["loras"] = list(spec.loras)
    values["control"] = _control(spec.control) if spec.control else None
    values |= {
        name: PictureView(input=an_id) if (an_id := values[name]) else None
        for name in ("image", "mask")
    }
    return Resolved(**values)


def _control(control: Control) -> ControlView:
    return ControlView(
        name=control.name,
        image=PictureView(input=control.image),
        scale=control.scale,
        start=control.start,
        end=control.end,
    )


def input_of(found: Input, base_url: str) -> InputView:
    """The public view of an input."""
    width, height = size_of(found.id)
    return InputView(
        id=found.id,
        width=width,
        height=height,
        pixel_sha256=sha256_of(found.id),
        changes=list(found.changes),
        kept_until=datetime.fromtimestamp(found.kept_until, UTC),
        url=f"{base_url}/v1/inputs/{found.id}/content",
    )


def page_of(page: Page, base_url: str) -> JobPage:
    """One page of a listing."""
    return JobPage(jobs=[job_of(r, base_url) for r in page.jobs], next_cursor=page.next_cursor)


def model_of(
    entry: ModelEntry,
    *,
    default: bool,
    queue: ModelQueue,
    reproducibility: str | None,
    loras: Sequence[LoraFile] = (),
) -> ModelView:
    """A model as clients see it: not where its files are."""
    return ModelView(
        id=entry.id,
        title=entry.title,
        default=default,
        prediction=entry.prediction,
        revision=entry.revision,
        limits=entry.limits,
        defaults=entry.defaults,
        inputs=list(entry.inputs),
        samplers=list(entry.legal_samplers),
        controls=list(entry.controls),
        loras=[LoraView(name=x.name, digest=x.digest, bytes=x.size_bytes) for x in loras],
        queued=queue.queued,
        running=queue.running,
        workers=queue.workers,
        reproducibility=reproducibility,
    )


class Quote(View):
    """What a request would come to: a dry run's answer."""

    resolved: Resolved
    cost: float = Field(description="Megapixel-rows: images x steps x rows a step x megapixels.")
    eta_seconds: float | None = Field(description="Expected wait until it would start, if known.")
    run_seconds: float | None = Field(description="Expected time to make it, alone, if known.")
    queued: int = Field(description="Jobs waiting for this model now.")


def quote_of(resolved: Resolved, *, cost: float, queue: ModelQueue) -> Quote:
    """The price and the wait of a job that was not sent."""
    return Quote(
        resolved=resolved,
        cost=round(cost, 4),
        eta_seconds=queue.eta_s,
        run_seconds=round(cost / queue.cost_per_s, 2) if queue.cost_per_s else None,
        queued=queue.queued,
    )
