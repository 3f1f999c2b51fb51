"""Checks of a request's input image and mask against the model and against each other.

Owns the rules of image, mask, strength and resize. Pure: both images are IDs by now, and an ID
gives the size. Invariant: no image is resized unless the request says how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.contract.input_images import size_of
from jobs.contract.model_file import Catalogue, ModelEntry
from jobs.contract.request_parts import Picture, Resize
from jobs.contract.samplers import SAMPLERS
from jobs.contract.spec import JobRequest
from jobs.errors import Problem

IMAGE_STRENGTH, MASK_STRENGTH = 0.8, 1.0  # diffusers' own defaults of the two


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start of a job: input image, mask and image strength; all None: noise."""

    image: str | None = None
    mask: str | None = None
    strength: float | None = None
    resize: Resize | None = None


def resolve_start_image(
    request: JobRequest, catalogue: Catalogue, entry: ModelEntry, problems: list[Problem]
) -> Start:
    """Return the start of a request whose images are stored; appends faults to `problems`."""
    image, mask = _id(request.image), _id(request.mask)
    if image is None:
        given = {"mask": mask, "strength": request.strength}
        if request.control is None:
            given["resize"] = request.resize
        problems += [
            Problem(f"/{name}", "conflict", f"{name} goes with image")
            for name, value in given.items()
            if value is not None
        ]
        return Start()
    kind = "mask" if mask else "image"
    if kind not in entry.inputs:
        problems.append(_not_taken(kind, catalogue, entry))
        return Start()
    if mask and size_of(mask) != size_of(image):
        problems.append(
            Problem(
                "/mask",
                "size_differs",
                f"the mask is {_px(mask)}, the image {_px(image)}: send both in one size",
            )
        )
    default = MASK_STRENGTH if mask else IMAGE_STRENGTH
    strength = default if request.strength is None else request.strength
    return Start(image=image, mask=mask, strength=strength, resize=request.resize)


def check_inputs(
    start: Start,
    size: tuple[int, int],
    steps: int,
    sampler: str,
    entry: ModelEntry,
    problems: list[Problem],
) -> None:
    """Append the problems of the start that depend on the job's size, steps and sampler."""
    if start.image is None or start.strength is None:
        return
    if sampler in SAMPLERS and not SAMPLERS[sampler].from_image:
        able = [name for name in entry.legal_samplers if SAMPLERS[name].from_image]
        problems.append(
            Problem(
                "/sampler",
                "not_with_image",
                f"samplers that take an image: {', '.join(able) or 'none'}",
            )
        )
    if size_of(start.image) != size and start.resize is None and not _at(problems, "/image"):
        problems.append(
            Problem(
                "/image",
                "size_differs",
                f"the image is {_px(start.image)} and the job {size[0]}x{size[1]}: leave the size "
                'out, or set "resize" to "cover" or "stretch"',
            )
        )
    # a flow's pipelines round up, and always take one step
    if entry.prediction != "flow" and steps >= 1 and int(steps * start.strength) < 1:
        problems.append(
            Problem("/strength", "out_of_range", f"at least {1 / steps:.3g} with {steps} steps")
        )


def _id(picture: Picture | None) -> str | None:
    assert picture is None or picture.input, "pictures are taken in before a request is resolved"
    return picture.input if picture else None


def _not_taken(name: Literal["image", "mask"], catalogue: Catalogue, entry: ModelEntry) -> Problem:
    able = [m.id for m in catalogue.models if name in m.inputs]
    others = f"these do: {', '.join(able)}" if able else "no model here does"
    return Problem(f"/{name}", "not_taken", f"{entry.id} takes no {name}; {others}")


def _at(problems: list[Problem], pointer: str) -> bool:
    return any(problem.pointer == pointer for problem in problems)


def _px(an_id: str) -> str:
    return an_id.partition("-")[0]
