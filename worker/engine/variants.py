"""The same modules under another pipeline class: picture to picture, and repainting.

Owns the making of such a pipeline and the pictures in a request. Knows no batch. Invariant: no
weight is loaded or copied twice, and the gates on the modules hold for every variant.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from PIL import Image

from jobs.inputs import steps_taken
from worker.engine.errors import Unservable
from worker.engine.profiles.base import Arguments, Profile
from worker.messages import ImageRequest, Pixels


class Variants:
    """The pipelines of one model: its own, and those made of its modules when first needed."""

    def __init__(self, pipeline: Any, profile: Profile, controls: Mapping[str, Any]) -> None:
        """`controls`: the ControlNets by the name that a request uses."""
        self._text = pipeline
        self._profile = profile
        self._controls = controls
        self._made: dict[str, Any] = {}

    def for_request(self, request: ImageRequest) -> Any:
        """The pipeline that serves this request. Raises Unservable where the family has none."""
        if request.control is not None:
            return self._with_control(request, request.control.name)
        if request.image is None:
            return self._text
        where = self._profile.inpaint if request.mask else self._profile.image_to_image
        if where is None:
            wanted = "inpainting" if request.mask else "image to image"
            raise Unservable(f"{wanted} is not there for the family {self._profile.name!r}")
        if where not in self._made:
            self._made[where] = _remade(self._text, where)
        return self._made[where]

    def _with_control(self, request: ImageRequest, name: str) -> Any:
        where = self._profile.control
        if where is None or name not in self._controls:
            known = ", ".join(self._controls) or "none"
            raise Unservable(f"this model has no ControlNet {name!r}; it has: {known}")
        if request.image is not None:
            raise Unservable("a control picture and a picture to start from do not go together")
        if name not in self._made:
            self._made[name] = _remade(self._text, where, controlnet=self._controls[name])
        return self._made[name]


def picture_arguments(request: ImageRequest, profile: Profile, pipeline: Any) -> Arguments:
    """The arguments that only pipelines with pictures in them have. Raises Unservable."""
    if (control := request.control) is not None:
        # Older pipelines have no picture of another kind and call it plainly `image`.
        name = "control_image" if profile.takes(pipeline, "control_image") else "image"
        picture = _picture(control.picture, request)
        return {
            name: picture,
            "controlnet_conditioning_scale": control.scale,
            "control_guidance_start": control.start,
            "control_guidance_end": control.end,
        }
    if request.image is None:
        return {}
    arguments: Arguments = {"image": _picture(request.image, request), "strength": request.strength}
    if request.mask is not None:
        arguments["mask_image"] = _picture(request.mask, request).convert("L")
    return arguments


def steps_of(request: ImageRequest, profile: Profile) -> int:
    """The steps that are taken: with a picture to start from, only the last part of them.

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
            f"the given picture is {pixels.width}x{pixels.height}, "
            f"the request {request.width}x{request.height}"
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
    if (unet := parts.get("unet")) is not None and name == "StableDiffusionInpaintPipeline":
        made.unet = _like_four_channels(unet, made.vae)
    return made


def _like_four_channels(unet: Any, vae: Any) -> Any:
    """The same network; where its latents have other than 4 channels, its config says 4.

    The repainting pipeline knows networks of 9 channels, which see mask and picture, and takes all
    others to have 4: it refuses ours, though it asks for the number nowhere else.
    """
    channels = unet.config.in_channels
    return unet if channels in (4, 9) or channels != vae.config.latent_channels else _Said4(unet)


class _Said4:
    """A UNet that says so."""

    def __init__(self, unet: Any) -> None:
        self._unet = unet
        self.config = type(unet.config)({**unet.config, "in_channels": 4})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._unet(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unet, name)
