"""The words between the control process and its engine process, whole.

Owns one frozen dataclass a message; both sides import it, so it knows neither torch nor Redis.
One image is the unit: a job of n images is n requests, made by the control process.
Invariant: every submitted request ends in exactly one of Finished, Failed, Canceled, or in the
`lost_ids` of one EngineDied.

    control -> engine      Submit  Cancel  Stop
    engine -> control      about one image:   Started  Progress  Preview  Finished  Failed  Canceled
                           about the process: Loading  Unloadable  Ready  Beat  Fatal
    the link itself says   EngineDied
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
    """An RGB picture, 8 bits a channel; `data` is height x width x 3 bytes, row by row."""

    width: int
    height: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A picture that steers the layout (edges, depth, a pose), for one of a model's ControlNets."""

    name: str  # as the model entry's `controls` says
    picture: Pixels
    scale: float = 1.0  # how much it is heeded; 0: not at all
    start: float = 0.0  # from which share of the steps on
    end: float = 1.0  # and until which


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One adapter of the model entry's `loras` folder, and how strongly it acts."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One image to make. Every value is final: the engine fills in nothing."""

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
    exact: bool = True  # False: any batch size may be used, bits may differ by batch
    key: str = ""  # whose turn it is: fairness is between keys
    priority: int = 0  # larger goes first
    deadline_s: float | None = None  # on the system-wide monotonic clock; later: Failed
    image: Pixels | None = None  # start from this picture
    mask: Pixels | None = None  # repaint where this is white
    strength: float = 0.8  # with `image`: how much of it is let go of, 0 to 1
    control: Control | None = None
    loras: tuple[Lora, ...] = ()
    preview_every_s: float | None = None  # how often to send a Preview at most; None: never


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """All that an engine process is told; the first message it gets."""

    catalogue: Catalogue
    threads: int = 2  # torch's thread count: part of the fingerprint, never changed in flight
    max_live: int = 32  # pipeline calls under way at once
    memory_bytes: int | None = None  # budget; None: what the device has, less a tenth
    state_dir: Path | None = None  # measured caps and self-test verdicts are kept here
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...
    self_test: bool = True  # False promises nothing: every picture is reported "unpacked"


# --- control -> engine


@dataclass(frozen=True, slots=True)
class Submit:
    """Make this image."""

    request: ImageRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """Drop this image at its next model call; unknown IDs are ignored."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Exit now; what is under way is dropped. To drain first, stop submitting and wait."""


Command = Submit | Cancel | Stop

# --- engine -> control, about one image


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The image left the engine's own waiting line."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the image is: `calls` of `expected_calls` model calls are done."""

    id: str
    calls: int
    expected_calls: int
    steps: int
    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """About what the picture will be, small; `calls` model calls are done."""

    id: str
    calls: int
    pixels: Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The picture, and all that is needed to know how it was made."""

    id: str
    pixels: Pixels
    encode_ms: float  # wall time of each stage, waiting for other images included
    denoise_ms: float
    decode_ms: float
    batch_size_mean: float  # images sharing a model call, averaged over this image's calls
    calls: int
    fingerprint: str
    reproducibility: Reproducibility


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """This image cannot be made; its neighbours are not touched."""

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
    """A model is being loaded, or tested at a new size: be patient until `fraction` is 1."""

    model: str
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unloadable:
    """This model cannot be loaded, and why; the others are served."""

    model: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """What one model promises on this machine."""

    model: str
    load_s: float
    reproducibility: Reproducibility
    lane_widths: tuple[int, ...]  # row counts whose bits agree
    samplers: tuple[str, ...]
    fingerprint: str
    image_steps_per_s: float | None  # at the default size, best batch; None: not measured yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """All resident models are loaded: requests are taken from here on."""

    models: tuple[ModelReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The engine's loop still turns; sent at least once a second."""

    step_ms: float | None  # median time of the last model calls
    live: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fatal:
    """The engine process cannot go on and exits; the reason in words."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDied:
    """The engine process is gone; `lost_ids` were submitted to it and have no other ending."""

    cause: DeathCause
    exitcode: int | None  # negative: the signal that killed it
    detail: str
    lost_ids: tuple[str, ...]


ProcessEvent = Loading | Unloadable | Ready | Beat | Fatal
Event = ImageEvent | ProcessEvent | EngineDied
