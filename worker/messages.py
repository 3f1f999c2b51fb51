"""Messages between the control process and its engine process.

Owns one frozen dataclass per message; both processes import this module, so it knows neither torch
nor Redis. One image is the unit: the control process turns a job of n images into n requests.
Invariant: every submitted request ends in exactly one of Finished, Failed, Canceled, or in the
`lost_ids` of one EngineDied.

    control -> engine      Submit  Cancel  Stop
    engine -> control      about one image:   Started  Progress  Preview  Finished  Failed  Canceled
                           about the process: Loading  Unloadable  Ready  Beat  Fatal
    engine_link itself     EngineDied
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.contract.model_file import Catalogue

Stage = Literal["encoding", "denoising", "decoding"]
Reproducibility = Literal["exact", "tolerance", "unpacked", "free"]
DeathCause = Literal["exited", "killed", "hung", "failed_to_start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """An RGB image, 8 bits per channel; `data` is height x width x 3 bytes, row by row."""

    width: int
    height: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A control image (edges, depth, a pose) for one of a model's ControlNets."""

    name: str  # one of the model entry's `controls`
    picture: Pixels
    scale: float = 1.0  # strength of the control; 0: none
    start: float = 0.0  # first share of the steps that it applies to, 0 to 1
    end: float = 1.0  # last share of the steps, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA of the model entry's `loras` folder, and its scale."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One image to generate. Every value is final: the engine fills in nothing."""

    id: str
    model: str
    prompt: str
    negative_prompt: str = ""
    width: int  # px
    height: int  # px
    steps: int
    guidance_scale: float
    seed: int
    sampler: str
    exact: bool = True  # False: any batch size may be used, bits may differ by batch peers
    key: str = ""  # the tenant: scheduling is fair between keys
    priority: int = 0  # larger goes first
    deadline_s: float | None = None  # on the system-wide monotonic clock; later: Failed
    image: Pixels | None = None  # input image of image-to-image
    mask: Pixels | None = None  # inpaint where the mask is white
    strength: float = 0.8  # image strength, 0 to 1; 1 ignores the input image
    control: Control | None = None
    loras: tuple[Lora, ...] = ()
    preview_every_s: float | None = None  # shortest time between Previews; None: no previews


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Configuration of an engine process; the first message sent to the process."""

    catalogue: Catalogue
    threads: int = 2  # torch's thread count: part of the fingerprint, never changed in flight
    max_live: int = 32  # most pipeline calls under way at once
    memory_bytes: int | None = None  # budget; None: 90 % of the device's memory
    state_dir: Path | None = None  # folder for measured batch sizes and self-test results
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...
    self_test: bool = True  # False: every image is reported "unpacked"


# --- control -> engine


@dataclass(frozen=True, slots=True)
class Submit:
    """Generate this image."""

    request: ImageRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """Drop this image at its next model call; unknown IDs are ignored."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Exit now and drop images under way. To drain first, stop submitting and wait."""


Command = Submit | Cancel | Stop

# --- engine -> control, about one image


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The image left the engine's own queue and its work began."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of the image: stage, and `calls` of `expected_calls` model calls done."""

    id: str
    calls: int
    expected_calls: int
    steps: int
    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A small approximation of the image after `calls` model calls."""

    id: str
    calls: int
    pixels: Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The generated image, with timings, fingerprint and reproducibility."""

    id: str
    pixels: Pixels
    encode_ms: float  # wall time of each stage, waiting for batch peers included
    denoise_ms: float
    decode_ms: float
    batch_size_mean: float  # images sharing a model call, averaged over this image's calls
    calls: int
    fingerprint: str
    reproducibility: Reproducibility


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The image cannot be generated; other images of the batch are unaffected."""

    id: str
    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Canceled:
    """The image was dropped after `calls` model calls."""

    id: str
    calls: int


ImageEvent = Started | Progress | Preview | Finished | Failed | Canceled

# --- engine -> control, about the process


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """A model is loading, or under test at a new size; no heartbeats until `fraction` is 1."""

    model: str
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unloadable:
    """A model cannot be loaded; `message` is the reason. Other models are served."""

    model: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """Reproducibility, batch sizes and speed of one model on this machine."""

    model: str
    load_s: float
    reproducibility: Reproducibility
    lane_widths: tuple[int, ...]  # row counts whose results are bit-equal
    samplers: tuple[str, ...]
    fingerprint: str
    image_steps_per_s: float | None  # at the default size, best batch; None: not measured yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """All resident models are loaded and the engine accepts requests."""

    models: tuple[ModelReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Heartbeat of the engine's loop; sent at least once a second."""

    step_ms: float | None  # median time of the last model calls
    live: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fatal:
    """The engine process cannot continue and exits; `message` is the reason."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDied:
    """The engine process ended; its images `lost_ids` end with this message and no other."""

    cause: DeathCause
    exitcode: int | None  # negative: the signal that killed it
    detail: str
    lost_ids: tuple[str, ...]


ProcessEvent = Loading | Unloadable | Ready | Beat | Fatal
Event = ImageEvent | ProcessEvent | EngineDied
