"""One claimed job while this worker holds it: its images, their progress, its result.

Owns the bookkeeping from n image events to one job. Knows no Redis, no RQ and no engine process,
only the types of their messages. Invariant: a job is complete only when every image is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.contract.input_images import input_blob_key
from jobs.contract.record import Image, Stage
from jobs.contract.resolve_inputs import IMAGE_STRENGTH
from jobs.contract.spec import JobSpec, Priority, Reproducibility
from jobs.store.keys import HashField
from jobs.store.scripts.job_hash import RUN_LIMIT_S
from jobs.store.scripts.worker_calls import Claimed, Ending, Lease, as_json
from jobs.tracing.spans import NO_SPAN, Span
from worker.messages import Control, Finished, ImageRequest, Lora, Pixels, Progress, Started

PRIORITIES = {Priority.HIGH: 1, Priority.NORMAL: 0, Priority.LOW: -1}
# Fields of a spec that no image's pixels depend on and the engine need not know.
NOT_FOR_THE_ENGINE = frozenset({"output", "resize", "retention_s", "metadata", "webhook"})
PREVIEW_S = 0.4  # between two previews of one job, of any of its images
_ORDER = (Stage.WAITING, Stage.ENCODING, Stage.DENOISING, Stage.DECODING, Stage.UPLOADING)
# A job's reproducibility is the weakest of its images'.
_WEAKEST = ("free", "unpacked", "tolerance", "exact")


@dataclass(slots=True, kw_only=True)
class HeldImage:
    """One image of a held job."""

    index: int
    seed: int
    started: bool = False
    stage: Stage = Stage.WAITING
    calls: int = 0
    expected_calls: int = 0
    finished: Finished | None = None
    stored: Image | None = None
    upload_ms: float = 0.0

    @property
    def share_done(self) -> float:
        """Share of the model calls that are done, 0 to 1."""
        return self.calls / self.expected_calls if self.expected_calls else 0.0


@dataclass(slots=True, kw_only=True)
class HeldJob:
    """A job that this worker holds: lease, spec, limits and the state of its images."""

    lease: Lease
    spec: JobSpec
    tenant: str
    solo: bool
    attempts: int
    retries_left: int  # RQ's count, for retryable failures
    queue_ms: float
    stop_at_s: float  # on the monotonic clock: RQ's job timeout
    deadline_s: float | None  # on the monotonic clock
    images: list[HeldImage] = field(default_factory=list[HeldImage])
    trace: str | None = None  # W3C traceparent of the submission
    span: Span = NO_SPAN
    told: tuple[str, int, int] | None = None  # the progress last published
    input_keys: Mapping[str, str] = field(default_factory=dict[str, str])  # by input ID
    pictures: Mapping[str, Pixels] = field(default_factory=dict[str, Pixels])  # by input ID

    def __post_init__(self) -> None:
        self.images = [HeldImage(index=k, seed=seed) for k, seed in enumerate(self.spec.seeds)]

    def request(self, image: HeldImage) -> ImageRequest:
        """Return the engine's request for one image."""
        spec = self.spec
        return ImageRequest(
            id=self.image_id(image),
            model=spec.model,
            prompt=spec.prompt,
            negative_prompt=spec.negative_prompt,
            width=spec.width,
            height=spec.height,
            steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            seed=image.seed,
            sampler=spec.sampler,
            loras=tuple(Lora(name=lora.name, scale=lora.scale) for lora in spec.loras),
            exact=spec.reproducibility is Reproducibility.EXACT,
            key=self.tenant,
            priority=PRIORITIES[spec.priority],
            deadline_s=self.deadline_s,
            image=self.pictures[spec.image] if spec.image else None,
            mask=self.pictures[spec.mask] if spec.mask else None,
            control=self._control,
            preview_every_s=PREVIEW_S * spec.n if spec.preview else None,
            strength=IMAGE_STRENGTH if spec.strength is None else spec.strength,
        )

    @property
    def _control(self) -> Control | None:
        control = self.spec.control
        if control is None:
            return None
        return Control(
            name=control.name,
            picture=self.pictures[control.image],
            scale=control.scale,
            start=control.start,
            end=control.end,
        )

    @property
    def waits(self) -> bool:
        """True while input images of the job are still to be read."""
        return len(self.pictures) < len(self.input_keys)

    def image_id(self, image: HeldImage) -> str:
        """Return the engine's ID of one image, unique to this attempt."""
        return f"{self.lease.execution_id}/{image.index}"

    def note(self, image: HeldImage, event: Started | Progress | Finished) -> float:
        """Apply an engine event to one image. Return the work done since, in megapixel-rows."""
        before = image.share_done
        match event:
            case Started():
                image.started = True
            case Progress():
                image.calls, image.expected_calls = event.calls, event.expected_calls
                image.stage = Stage(event.stage)
            case Finished():
                image.finished, image.stage = event, Stage.UPLOADING
                image.calls = image.expected_calls = event.calls
        return self.spec.cost / len(self.images) * (image.share_done - before)

    @property
    def live(self) -> bool:
        """True while the engine works on the job: then an engine crash counts as an attempt."""
        return any(i.started and i.finished is None for i in self.images)

    @property
    def in_engine(self) -> int:
        """Number of images that the engine still has."""
        return sum(i.finished is None for i in self.images)

    @property
    def complete(self) -> bool:
        """True when every image is stored."""
        return all(i.stored is not None for i in self.images)

    @property
    def progress(self) -> tuple[str, int, int]:
        """Stage of the least advanced image, and model calls done and expected over all images."""
        stage = min((i.stage for i in self.images), key=_ORDER.index)
        known = [i.expected_calls for i in self.images if i.expected_calls]
        # images still waiting are expected to take as many calls as those that began
        expected = sum(i.expected_calls or (known[0] if known else 0) for i in self.images)
        return stage.value, sum(i.calls for i in self.images), expected

    @property
    def cost_left(self) -> float:
        """Work still to do, in megapixel-rows."""
        return self.spec.cost / len(self.images) * sum(1 - i.share_done for i in self.images)

    def success(self) -> Ending:
        """Return the ending of a job whose images are all stored."""
        finished = [i.finished for i in self.images if i.finished]
        stage, step, steps = self.progress
        return Ending(
            word="succeeded",
            rq_status="finished",
            result={},
            fields={
                "x_images": as_json([i.stored.model_dump() for i in self.images if i.stored]),
                "x_metrics": as_json(self._metrics(finished)),
                "x_fingerprint": as_json(fingerprint_fields(finished[0].fingerprint)),
                "x_repro": min((f.reproducibility for f in finished), key=_WEAKEST.index),
                "x_stage": stage,
                "x_step": step,
                "x_steps": steps,
            },
        )

    def _metrics(self, made: list[Finished]) -> dict[str, float]:
        """Return the metrics; images run side by side, so a stage's longest time counts."""
        calls = sum(f.calls for f in made)
        mean = sum(f.batch_size_mean * f.calls for f in made) / calls if calls else 0.0
        return {
            "queue_ms": round(self.queue_ms, 1),
            "encode_ms": round(max(f.encode_ms for f in made), 1),
            "denoise_ms": round(max(f.denoise_ms for f in made), 1),
            "decode_ms": round(max(f.decode_ms for f in made), 1),
            "upload_ms": round(max(i.upload_ms for i in self.images), 1),
            "batch_size_mean": round(mean, 2),
            "attempts": self.attempts,
        }


def held_from(claimed: Claimed, spec: JobSpec, *, now_s: float) -> HeldJob | None:
    """Return a claimed job as held from `now_s` on (monotonic; Redis's clock is in `claimed`).

    None: a field of the job's hash is not a number, so this service did not write the hash.
    """

    def number(name: str, default: float) -> float:
        return float(claimed.fields.get(name) or default)

    deadline = claimed.fields.get(HashField.DEADLINE)
    try:
        return HeldJob(
            lease=claimed.lease,
            spec=spec,
            tenant=claimed.fields.get(HashField.TENANT, b"").decode(),
            solo=claimed.fields.get(HashField.SOLO) == b"1",
            attempts=int(number(HashField.ATTEMPTS, 1)),
            retries_left=int(number("retries_left", 0)),
            queue_ms=number(HashField.QUEUE_MS, 0),
            stop_at_s=now_s + number("timeout", RUN_LIMIT_S),
            trace=claimed.fields.get(HashField.TRACE, b"").decode() or None,
            deadline_s=now_s + float(deadline) - claimed.now_s if deadline else None,
            input_keys=_input_keys(claimed.fields.get(HashField.INPUTS, b"").decode(), spec),
        )
    except ValueError:
        return None


def _input_keys(members: str, spec: JobSpec) -> dict[str, str]:
    """Return the input images' storage keys by input ID. Raises ValueError on other IDs."""
    keys = {member.split("/")[-2]: input_blob_key(member) for member in members.split()}
    if set(keys) != set(spec.inputs):
        raise ValueError("the input images held are not those of the spec")
    return keys


def fingerprint_fields(fingerprint: str) -> dict[str, str]:
    """Return the engine's fingerprint (words of name=value) as the fields of the job record."""
    words = fingerprint.split()
    named = dict(word.split("=", 1) for word in words if "=" in word)
    return named or {"id": fingerprint}
