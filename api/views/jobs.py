"""Response models of the API: jobs, images, input images, models, samplers, the queue.

Owns the public shape of every response and the one translation from `JobRecord`. Must not know
connections. Invariant: no tenant and no blob key is ever in a response; `resolved` is itself a
request that makes the same images again.
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
    """Base class of the response models: immutable, no undeclared fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageView(View):
    """One image of a job: seed, size, hash and download URL."""

    index: int
    seed: int = Field(description="Seed of this image; with n = 1 the same request makes it alone.")
    url: str
    pixel_sha256: str = Field(
        description="SHA-256 of the decoded RGB bytes: equal pixels, equal hash."
    )
    width: int = Field(description="px")
    height: int = Field(description="px")
    content_type: str
    bytes: int


class PictureView(View):
    """An input image of a job."""

    input: str = Field(description="Input ID: width, height and SHA-256 of the RGB bytes.")


class ControlView(View):
    """The ControlNet of a job, its control image and its strength."""

    name: str
    image: PictureView
    scale: float
    start: float
    end: float


class Resolved(View):
    """Every value of a request, defaults included; sent as a request they make the same images."""

    model: str
    prompt: str
    negative_prompt: str
    width: int = Field(description="px")
    height: int = Field(description="px")
    steps: int
    guidance_scale: float
    seed: list[int] = Field(description="Random seeds, one per image.")
    n: int
    sampler: str
    loras: list[LoraChoice]
    control: ControlView | None = Field(description="ControlNet; null: none.")
    image: PictureView | None = Field(description="Input image; null: text-to-image.")
    mask: PictureView | None = Field(
        description="Inpaint mask, white where the image was repainted."
    )
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
    """Position and expected wait of a queued job."""

    position: int | None = Field(description="Jobs ahead of this one; 0: next.")
    eta_seconds: float | None = Field(description="Expected wait until it starts, if known.")


class Urls(View):
    """URLs of a job: the job itself, its event stream, its cancellation."""

    self: str
    events: str
    cancel: str


class Job(View):
    """A job: status, progress, images, resolved values. Treat an unknown status as not final."""

    id: str
    status: Status
    stage: Stage | None = Field(description="Current stage of a job that has not ended.")
    created_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None = Field(
        description="Time when the record and the images are deleted."
    )
    queue: QueueView | None
    progress: Progress
    images: list[ImageView]
    resolved: Resolved
    reproducibility: str | None = Field(description="Level reached: exact, tolerance or unpacked.")
    fingerprint: dict[str, Any] | None = Field(
        description="Software, hardware and files that the pixels depend on."
    )
    metrics: dict[str, float]
    error: JobError | None
    urls: Urls


class InputView(View):
    """An uploaded image, stored as 8-bit RGB, for image-to-image, inpainting or ControlNet."""

    id: str = Field(description='Input ID for `"image": {"input": ...}`: size and pixel SHA-256.')
    width: int = Field(description="px")
    height: int = Field(description="px")
    pixel_sha256: str = Field(description="SHA-256 of the RGB bytes, as for a job's images.")
    changes: list[str] = Field(description="Changes made in decoding, such as a rotation.")
    kept_until: datetime = Field(
        description="Earliest deletion; jobs that use the image prolong it."
    )
    url: str = Field(description="URL of the pixels, as a PNG.")


class JobPage(View):
    """One page of your jobs, newest first."""

    jobs: list[Job]
    next_cursor: str | None = Field(description="Value of `cursor` for the next page; null: none.")


class LoraView(View):
    """One LoRA adapter of a model."""

    name: str
    digest: str = Field(description="SHA-256 of the file.")
    bytes: int


class ModelView(View):
    """A model: limits, defaults, samplers, LoRAs, ControlNets, queue."""

    id: str
    title: str
    default: bool = Field(description="Used if a request names no model.")
    prediction: str
    revision: str | None
    limits: Limits
    defaults: Defaults
    inputs: list[str] = Field(description="Kinds of input image accepted: image, mask.")
    samplers: list[str]
    loras: list[LoraView] = Field(description="LoRA adapters that a request may name.")
    controls: list[str] = Field(description="ControlNets that a request may name.")
    queued: int
    running: int
    workers: int = Field(description="Workers that serve the model now.")
    reproducibility: str | None = Field(
        description="Level that its workers reach; null: no worker."
    )


class ModelList(View):
    """All models, the default first."""

    models: list[ModelView]


class SamplerView(View):
    """A sampler and its cost per step."""

    id: str
    title: str
    good_for: str
    predictions: list[str] = Field(description="Kinds of model that the sampler fits.")
    adds_noise: bool
    from_image: bool = Field(description="Whether image-to-image is possible.")
    calls_per_step: int = Field(description="Model calls per step: the cost of a step.")
    max_steps: int = Field(description="Maximum; a model's limit may be lower.")


class SamplerList(View):
    """All samplers."""

    samplers: list[SamplerView]


class ModelQueueView(View):
    """Queue of one model: jobs waiting and running, expected wait, workers."""

    model: str
    queued: int
    running: int
    eta_seconds: float | None = Field(description="Expected wait of a new job, if known.")
    workers: int


class QueueList(View):
    """Queue of the service, in all and by model."""

    queued: int
    running: int
    paused: bool = Field(description="Whether an operator has paused the queue.")
    models: list[ModelQueueView]


class Paused(View):
    """Pause state of the queue."""

    paused: bool


class WorkerList(View):
    """Workers that reported within the last minute."""

    workers: list[WorkerReport]


class Health(View):
    """Health of the process or of the service; `reasons` say why it is not ready."""

    status: str
    reasons: dict[str, str] = Field(
        default={}, description="Faults that stop image generation, by part."
    )
    degraded: dict[str, str] = Field(
        default={}, description="Faults that do not stop image generation, by part."
    )


def job_of(record: JobRecord, base_url: str) -> Job:
    """Return the public view of a record. `base_url`: the API's public URL without a last slash."""
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


# Fields of a spec that `resolved` leaves out: a webhook's URL may hold a secret of its owner.
NOT_RESOLVED = frozenset({"webhook"})


def resolved_of(spec: JobSpec) -> Resolved:
    """Return the spec in the fields of a request; a field that Resolved lacks is an error."""
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
    """Return the public view of an input image."""
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
    """Return the public view of one page of jobs."""
    return JobPage(jobs=[job_of(r, base_url) for r in page.jobs], next_cursor=page.next_cursor)


def model_of(
    entry: ModelEntry,
    *,
    default: bool,
    queue: ModelQueue,
    reproducibility: str | None,
    loras: Sequence[LoraFile] = (),
) -> ModelView:
    """Return the public view of a model, without the paths of its files."""
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
    """Result of a dry run: resolved values, cost and expected times."""

    resolved: Resolved
    cost: float = Field(description="Megapixel-rows: images x steps x rows per step x megapixels.")
    eta_seconds: float | None = Field(description="Expected wait before the start, if known.")
    run_seconds: float | None = Field(description="Expected run time, alone on a worker, if known.")
    queued: int = Field(description="Jobs queued for this model now.")


def quote_of(resolved: Resolved, *, cost: float, queue: ModelQueue) -> Quote:
    """Return the cost and the expected times of a job that was not sent."""
    return Quote(
        resolved=resolved,
        cost=round(cost, 4),
        eta_seconds=queue.eta_s,
        run_seconds=round(cost / queue.cost_per_s, 2) if queue.cost_per_s else None,
        queued=queue.queued,
    )
