"""Options of a request, as typed dictionaries: what a caller may send.

Owns the client's view of the request in docs/openapi.json; tests/client compares the two. Must not
know answers. `printworks.types` has the same names.
"""

from __future__ import annotations

from typing import Any, Literal, Required, TypedDict


class OutputOptions(TypedDict, total=False):
    """Output file options: format, quality, metadata."""

    format: Literal["png", "jpeg", "webp"]
    quality: int  # 1 to 100; jpeg and webp
    metadata: bool  # write seed and settings into the file


class WebhookOptions(TypedDict, total=False):
    """A webhook of one job: URL and events."""

    url: str
    events: list[str]


class PictureOptions(TypedDict, total=False):
    """An input image: give one of data, input or job."""

    data: str  # base64, or a data: URI
    background: str  # with data: "#rrggbb" under transparent parts
    input: str  # the ID of an uploaded input image
    job: str  # the ID of an earlier job of yours ...
    index: int  # ... and the index of one of its images


class LoraOptions(TypedDict, total=False):
    """A LoRA adapter by its name in the model's list, and its weight."""

    name: Required[str]
    scale: float  # weight; 1: as the adapter was trained


class ControlOptions(TypedDict, total=False):
    """A ControlNet of the model, its input image, and its weight."""

    name: Required[str]
    image: Required[str | PictureOptions]
    scale: float  # weight; 0: not applied
    start: float  # first step with the ControlNet, as a share of all steps, 0 to 1
    end: float  # last step with the ControlNet, as a share of all steps, 0 to 1


class JobOptions(TypedDict, total=False):
    """All options of a job besides its prompt. Options left out get the model's defaults."""

    model: str
    negative_prompt: str
    width: int  # px, with height
    height: int
    size: str  # "WIDTHxHEIGHT", instead of width and height
    aspect_ratio: str  # "3:2", instead of width and height
    steps: int
    guidance_scale: float
    seed: int | list[int]  # image k uses seed + k, or the k-th of a list
    n: int  # number of images
    sampler: str
    loras: list[LoraOptions]  # LoRA adapters for this job
    control: ControlOptions  # a ControlNet for this job
    image: str | PictureOptions  # input image: base64 or data URI, an input, a job's image
    mask: str | PictureOptions  # inpaint where the mask is white
    strength: float  # image strength: how much of the input image is changed, 0 to 1
    resize: Literal["cover", "stretch"]  # how an input image of another size is fitted
    output: OutputOptions
    preview: bool  # send `preview` events while the images are made
    priority: Literal["high", "normal", "low"]
    deadline_s: float
    retention_s: int
    reproducibility: Literal["exact", "fast"]
    metadata: dict[str, Any]  # your own values, returned with the job
    webhook: WebhookOptions  # the endpoint that gets this job's events


class JobRequest(JobOptions, total=False):
    """A job of a group: its prompt, and its options."""

    prompt: Required[str]
