"""Profile: the properties of a family of pipelines, as plain data.

Owns the shape of a profile and its defaults, which serve any text-to-image pipeline that calls
`self.unet(...)` or `self.transformer(...)`. Knows no model and no batch. Invariant: a profile
describes a pipeline, it never re-implements one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from worker.messages import ImageRequest

# Arguments that say when, not what: rows of one model call may differ in them freely.
TIMES = frozenset({"timestep", "timesteps", "t"})
# Positional tables that belong to the whole call: two calls may meet only if theirs are equal.
SHARED = frozenset({"img_ids", "txt_ids", "image_rotary_emb"})

Arguments = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A family: which modules meet in a batch, and how a request becomes a pipeline call."""

    name: str
    pipelines: tuple[str, ...] = ()  # names of the pipeline classes it serves
    denoisers: tuple[str, ...] = ("unet", "transformer", "controlnet")
    encoders: tuple[str, ...] = ("text_encoder", "text_encoder_2", "text_encoder_3")
    decoder: str = "vae"
    times: frozenset[str] = TIMES
    shared: frozenset[str] = SHARED
    padded_to: int = 1  # tokens: a network of lists pads each item's text to such a multiple itself
    guidance: str = "guidance_scale"  # what the pipeline calls it; Qwen-Image: true_cfg_scale
    guided: Literal["row", "call", "input"] = "row"  # what guidance adds to a step, if anything
    empty_negative: str | None = None  # what to say where a request says nothing; None: nothing
    sets_sampler: tuple[str, ...] = ()  # what the pipeline passes to `set_timesteps` itself
    samplers: tuple[str, ...] = ()  # where the pipeline runs with these only; (): all that fit
    fixed: Mapping[str, object] = field(default_factory=dict)  # passed to every call
    load: Mapping[str, object] = field(default_factory=dict)  # passed to from_pretrained
    # Of steps x strength, where a picture is begun with: whole steps, one begun as well, or all.
    strength_takes: Literal["whole", "begun", "all"] = "whole"
    image_to_image: str | None = None  # "module:class" below diffusers.pipelines
    inpaint: str | None = None
    control: str | None = None  # the pipeline that applies a ControlNet, and its two variants below
    control_image_to_image: str | None = None
    control_inpaint: str | None = None

    def arguments(self, request: ImageRequest, pipeline: Any) -> Arguments:
        """Return the keyword arguments of `pipeline(...)` for an image, without unknown ones."""
        wanted: Arguments = {
            "prompt": request.prompt,
            "width": request.width,
            "height": request.height,
            "num_inference_steps": request.steps,
            self.guidance: request.guidance_scale,
            **self.fixed,
        }
        # Left out where it is empty: pipelines differ in what None and "" mean to them.
        negative = request.negative_prompt or self.empty_negative
        if negative is not None and request.guidance_scale > 1:
            wanted["negative_prompt"] = negative
        return {name: value for name, value in wanted.items() if self.takes(pipeline, name)}

    def fitted_to(self, pipeline: Any) -> Profile:
        """Adapt the profile to a distilled model, whose guidance is an input of its network."""
        config = getattr(getattr(pipeline, "unet", None), "config", None) or {}
        distilled = pipeline.config.get("is_distilled") or config.get("time_cond_proj_dim")
        return replace(self, guided="input") if distilled else self

    def takes(self, pipeline: Any, name: str) -> bool:
        """Return whether the pipeline's call has an argument of that name."""
        return name in _parameters(type(pipeline).__call__)

    def calls_per_step(self, request: ImageRequest) -> int:
        """Return the model calls for one step of the sampler."""
        return 2 if request.guidance_scale > 1 and self.guided == "call" else 1

    def rows(self, request: ImageRequest) -> int:
        """Return the rows of one model call of one image."""
        return 2 if request.guidance_scale > 1 and self.guided == "row" else 1


_seen: dict[Callable[..., object], frozenset[str]] = {}


def _parameters(function: Callable[..., object]) -> frozenset[str]:
    if function not in _seen:
        _seen[function] = frozenset(inspect.signature(function).parameters)
    return _seen[function]
