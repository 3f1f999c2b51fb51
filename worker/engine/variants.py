"""The same modules under another pipeline class: picture to picture, and repainting.

Owns the making of such a pipeline and the pictures in a request. Knows no batch. Invariant: no
weight is loaded or copied twice, and the gates on the modules hold for every variant.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from PIL import Image

from worker.engine.errors import Unservable
from worker.engine.profiles.base import Arguments, Profile
from worker.messages import ImageRequest, Pixels


class Variants:
    """The pipelines of one model: its own, and those made of its modules when first needed."""

    def __init__(self, pipeline: Any, profile: Profile) -> None:
        self._text = pipeline
        self._profile = profile
        self._made: dict[str, Any] = {}

    def for_request(self, request: ImageRequest) -> Any:
        """The pipeline that serves this request. Raises Unservable where the family has none."""
        if request.image is None:
            return self._text
        where = self._profile.inpaint if request.mask else self._profile.image_to_image
        if where is None:
            wanted = "inpainting" if request.mask else "image to image"
            raise Unservable(f"{wanted} is not there for the family {self._profile.name!r}")
        if where not in self._made:
            self._made[where] = _remade(self._text, where)
        return self._made[where]


def picture_arguments(request: ImageRequest) -> Arguments:
    """The arguments that only picture-to-picture pipelines have. Raises Unservable."""
    if request.image is None:
        return {}
    arguments: Arguments = {"image": _picture(request.image, request), "strength": request.strength}
    if request.mask is not None:
        arguments["mask_image"] = _picture(request.mask, request).convert("L")
    return arguments


def steps_of(request: ImageRequest) -> int:
    """The steps that are taken: with a picture to start from, only the last part of them."""
    if request.image is None:
        return request.steps
    return max(1, min(request.steps, int(request.steps * request.strength)))


def _picture(pixels: Pixels, request: ImageRequest) -> Image.Image:
    if (pixels.width, pixels.height) != (request.width, request.height):
        # Never resized in silence: whoever submits decides how.
        raise Unservable(
            f"the given picture is {pixels.width}x{pixels.height}, "
            f"the request {request.width}x{request.height}"
        )
    return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data)


def _remade(pipeline: Any, where: str) -> Any:
    module, _, name = where.partition(":")
    cls = getattr(import_module(f"diffusers.pipelines.{module}"), name)
    wanted = inspect.signature(cls.__init__).parameters
    parts = {k: v for k, v in pipeline.components.items() if k in wanted}
    # Options such as `requires_safety_checker` are no components, but belong to the constructor.
    options = {k: v for k, v in pipeline.config.items() if k in wanted and k not in parts}
    made = cls(**parts, **options)
    made.set_progress_bar_config(disable=True)
    return made
