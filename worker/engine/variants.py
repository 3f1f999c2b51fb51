"""Pipeline variants on the same modules: image-to-image, inpaint and ControlNet.

Owns the making of such a pipeline and the pictures in a request. Knows no batch. Invariant: no
weight is loaded or copied twice, and the gates on the modules hold for every variant.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from PIL import Image

from jobs.contract.input_images import steps_taken
from worker.engine.errors import Unservable
from worker.engine.profiles.base import Arguments, Profile
from worker.messages import ImageRequest, Pixels

# Repainting pipelines that ask how many channels the network has (see `_like_four_channels`).
ASKING_FOR_4 = frozenset(
    {"StableDiffusionInpaintPipeline", "StableDiffusionControlNetInpaintPipeline"}
)


class Variants:
    """The pipelines of one model: its own, and variants made at their first use."""

    def __init__(self, pipeline: Any, profile: Profile, controls: Mapping[str, Any]) -> None:
        """Create the variants; `controls`: the ControlNets by the name that a request uses."""
        self._text = pipeline
        self._profile = profile
        self._controls = controls
        self._made: dict[tuple[str, str], Any] = {}  # by pipeline class and ControlNet

    def for_request(self, request: ImageRequest) -> Any:
        """Return the pipeline that serves a request. Raises Unservable if the family has none."""
        more: dict[str, Any] = {}
        name = request.control.name if request.control else ""
        if request.control is not None:
            if name not in self._controls:
                known = ", ".join(self._controls) or "none"
                raise Unservable(f"this model has no ControlNet {name!r}; it has: {known}")
            more["controlnet"] = self._controls[name]
        elif request.image is None:
            return self._text
        where = _place(request, self._profile)
        if (where, name) not in self._made:
            self._made[where, name] = _remade(self._text, where, **more)
        return self._made[where, name]


def _place(request: ImageRequest, profile: Profile) -> str:
    """Return the module and class of the pipeline for a request. Raises Unservable."""
    led = request.control is not None
    if request.mask:
        wanted, where = "inpaint", profile.control_inpaint if led else profile.inpaint
    elif request.image:
        plain, steered = profile.image_to_image, profile.control_image_to_image
        wanted, where = "image-to-image", steered if led else plain
    else:
        wanted, where = "text-to-image", profile.control
    if where is None:
        wanted += " with a ControlNet" if led else ""
        raise Unservable(f"the family {profile.name!r} has no {wanted}: choose another model")
    return where


def picture_arguments(request: ImageRequest, profile: Profile, pipeline: Any) -> Arguments:
    """Return the arguments for input image, mask and control image. Raises Unservable."""
    arguments: Arguments = {}
    if request.image is not None:
        arguments |= {"image": _picture(request.image, request), "strength": request.strength}
    if request.mask is not None:
        arguments["mask_image"] = _picture(request.mask, request).convert("L")
    if (control := request.control) is not None:
        # Older pipelines have no picture of another kind and call it plainly `image`.
        name = "control_image" if profile.takes(pipeline, "control_image") else "image"
        arguments |= {
            name: _picture(control.picture, request),
            "controlnet_conditioning_scale": control.scale,
            "control_guidance_start": control.start,
            "control_guidance_end": control.end,
        }
    return arguments


def steps_of(request: ImageRequest, profile: Profile) -> int:
    """Return the steps that are run: with an input image, only the last part of them.

    As the pipelines' own `get_timesteps` counts, each family's in its way.
    """
    steps = request.steps
    if request.image is None or profile.strength_takes == "all":
        return steps
    if profile.strength_takes == "begun":
        return steps - int(max(steps - min(steps * request.strength, steps), 0))
    return steps_taken(steps, request.strength)


def _picture(pixels: Pixels, request: ImageRequest) -> Image.Image:
    if (pixels.width, pixels.height) != (request.width, request.height):
        # Never resized in silence: whoever submits decides how.
        raise Unservable(
            f"the input image is {pixels.width}x{pixels.height}, "
            f"the request {request.width}x{request.height}: send both in one size"
        )
    return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data)


def _remade(pipeline: Any, where: str, **more: Any) -> Any:
    module, _, name = where.partition(":")
    cls = getattr(import_module(f"diffusers.pipelines.{module}"), name)
    wanted = inspect.signature(cls.__init__).parameters
    parts = {k: v for k, v in pipeline.components.items() if k in wanted}
    # Options such as `requires_safety_checker` are no components, but belong to the constructor.
    options = {k: v for k, v in pipeline.config.items() if k in wanted and k not in parts}
    made = cls(**parts, **options, **more)
    made.set_progress_bar_config(disable=True)
    if (unet := parts.get("unet")) is not None and name in ASKING_FOR_4:
        made.unet = _like_four_channels(unet, made.vae)
    if name == "ChromaInpaintPipeline":  # asks for a word that Chroma's configuration has not
        made.transformer = _Said(made.transformer, guidance_embeds=False)
    return made


def _like_four_channels(unet: Any, vae: Any) -> Any:
    """Return the same network; with other than 4 latent channels, its config says 4.

    The repainting pipeline knows networks of 9 channels, which see mask and picture, and takes all
    others to have 4: it refuses ours, though it asks for the number nowhere else.
    """
    channels = unet.config.in_channels
    if channels in (4, 9) or channels != vae.config.latent_channels:
        return unet
    return _Said(unet, in_channels=4)


class _Said:
    """Proxy of a network with some configuration values overridden."""

    def __init__(self, network: Any, **words: Any) -> None:
        self._network = network
        self.config = type(network.config)({**network.config, **words})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._network(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)
