"""The model file: models with their limits and defaults.

Owns `models/models.toml` as frozen values, so that the API can validate and price a request
without torch. Knows no Redis and no HTTP. Invariant: every entry's defaults are legal under
the entry's own limits (checked when the file is read).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from jobs.contract.loras import LoraFolder, shelf_at
from jobs.contract.samplers import SAMPLERS, Prediction, samplers_for
from jobs.errors import SettingsError

ControlName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Limits(_Frozen):
    """Limits of a request for one model; sides in px, pixels of one image."""

    min_side: Annotated[int, Field(ge=8)] = 64
    max_side: Annotated[int, Field(ge=8)] = 2048
    side_multiple: Annotated[int, Field(ge=1)] = 8
    max_pixels: Annotated[int, Field(ge=64)] = 2048 * 2048
    max_steps: Annotated[int, Field(ge=1)] = 150
    max_guidance: Annotated[float, Field(ge=0)] = 30.0
    max_n: Annotated[int, Field(ge=1)] = 8
    max_prompt_chars: Annotated[int, Field(ge=1)] = 2000


class Defaults(_Frozen):
    """Defaults of the options that a request leaves out; sides in px."""

    width: int
    height: int
    steps: int = 25
    guidance_scale: float = 7.0
    sampler: str = "dpmpp_2m"


class NetworkSource(_Frozen):
    """Source of a network added to a model, such as a ControlNet."""

    source: str  # a folder (relative to the model file) or a hub repository
    revision: str | None = None  # a hub commit; required for a hub repository
    variant: str | None = None


class Speed(_Frozen):
    """Options that trade bits, memory or start-up time for speed; all are in the fingerprint."""

    compile: Literal["regional"] | None = None  # torch.compile, of the repeated blocks
    channels_last: bool = False
    attention: str | None = None  # a backend of diffusers' dispatcher: native, flash, sage ...
    vae_tiling: bool = False  # large pictures decoded in pieces: seams may show
    vae_slicing: bool = False
    quantize: Literal["nf4", "int8"] | None = None
    offload: str | None = None
    cache: str | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.cache is not None:
            raise ValueError(
                "step caches (FirstBlockCache, TaylorSeer, DeepCache ...) keep one image's state "
                "in the network between steps, and a batch has many images: remove `cache`"
            )
        if self.offload is not None:
            raise ValueError(
                "diffusers' offloading replaces the engine's own hooks after every image: remove "
                "`offload`; to save memory use `quantize`, a smaller dtype or resident = false"
            )
        if self.attention is not None and self.attention.endswith("_hub"):
            raise ValueError(
                "attention backends named *_hub download code when they run: name another backend"
            )
        return self


class ModelEntry(_Frozen):
    """A model of the file: source, execution options, limits and defaults."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    title: str = ""
    source: str  # a folder (relative to the model file) or a hub repository
    revision: str | None = None  # a hub commit; required for a hub repository
    family: str = "auto"  # a profile's name in worker/engine/profiles, or auto
    prediction: Prediction = "diffusion"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    variant: str | None = None  # the hub's file variant, such as fp16
    lane_width: int | None = None  # rows of one model call: 1, 2, 4, 8, 16; None: measured
    resident: bool = True
    controls: dict[ControlName, NetworkSource] = {}  # ControlNets by the name that a request uses
    speed: Speed = Speed()
    loras: str | None = None  # a folder of LoRA files (*.safetensors) that requests may name
    lora_sets: Annotated[int, Field(ge=1)] = 8  # sets of adapters kept in memory at once
    # Input images that a request may send: an image, an image with a mask. The engine checks that
    # the family can do so.
    inputs: tuple[Literal["image", "mask"], ...] = ()
    samplers: tuple[str, ...] = ()  # empty: every sampler that fits `prediction`
    limits: Limits = Limits()
    defaults: Defaults

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.loras is not None and (self.speed.compile or self.speed.quantize):
            raise ValueError("loras go with neither compile nor quantize: remove one of the two")
        unknown = [name for name in self.samplers if name not in SAMPLERS]
        if unknown:
            raise ValueError(f"unknown samplers {unknown}; known: {', '.join(SAMPLERS)}")
        if self.defaults.sampler not in self.legal_samplers:
            raise ValueError(
                f"default sampler {self.defaults.sampler!r} is not among the model's samplers"
            )
        most = SAMPLERS[self.defaults.sampler].max_steps
        if self.defaults.steps > most:
            raise ValueError(
                f"{self.defaults.sampler!r} takes at most {most} steps: lower defaults.steps"
            )
        for side in (self.defaults.width, self.defaults.height):
            if side % self.limits.side_multiple or not (
                self.limits.min_side <= side <= self.limits.max_side
            ):
                raise ValueError(f"default side {side} px breaks the model's own limits")
        return self

    @property
    def legal_samplers(self) -> tuple[str, ...]:
        """The samplers that a request may name, in the catalogue's order."""
        return self.samplers or samplers_for(self.prediction)


class Catalogue(_Frozen):
    """All models of this installation; the first is the default."""

    models: tuple[ModelEntry, ...] = Field(min_length=1)
    folder: Path = Path()  # the base of relative sources

    @model_validator(mode="after")
    def _unique(self) -> Self:
        ids = [m.id for m in self.models]
        if len(set(ids)) != len(ids):
            raise ValueError(f"model IDs repeat: {ids}")
        return self

    def get(self, model_id: str) -> ModelEntry | None:
        """Return the entry of the model `model_id`, or None."""
        return next((m for m in self.models if m.id == model_id), None)

    @property
    def default(self) -> ModelEntry:
        """The model used where a request names none."""
        return self.models[0]

    def path_of(self, entry: ModelEntry | NetworkSource) -> Path | None:
        """Return the folder of a local model or network, or None for a hub repository."""
        path = self.folder / entry.source
        return path if path.is_dir() else None

    def loras_of(self, entry: ModelEntry) -> LoraFolder | None:
        """Return the adapters that a request for this model may name, or None."""
        return None if entry.loras is None else shelf_at(self.folder / entry.loras)


def load_catalogue(path: Path) -> Catalogue:
    """Read the model file. Raises SettingsError with the wrong entry and the reason."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"model file {path}: {error}") from error
    try:
        models = [ModelEntry.model_validate(_tuples(m)) for m in raw.get("model", [])]
        return Catalogue(models=tuple(models), folder=path.parent)
    except ValidationError as error:
        raise SettingsError(f"model file {path}: {error}") from error


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    """Turn TOML's arrays into tuples, which strict validation needs."""
    return {k: tuple(cast("list[Any]", v)) if isinstance(v, list) else v for k, v in entry.items()}
