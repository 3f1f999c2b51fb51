"""Running images in the tests: through the engine, and through the plain pipeline beside it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from worker.engine.batcher import Engine
from worker.engine.image_call import to_pixels
from worker.engine.model import Model
from worker.engine.samplers import RECIPES
from worker.messages import Canceled, Event, Failed, Finished, ImageRequest

Ending = Finished | Failed | Canceled


def plain(model: Model, request: ImageRequest, **more: Any) -> bytes:
    """The same picture by `pipeline(...)` itself, called from outside: no gate takes notice."""
    pipeline = copy.copy(model.pipeline)
    generator = torch.Generator().manual_seed(request.seed)
    pipeline.scheduler = model.samplers.take(request.sampler, generator)
    made = pipeline(
        **model.profile.arguments(request, pipeline),
        **RECIPES[request.sampler].call,
        **more,
        generator=generator,
        output_type="np",
    )
    return to_pixels(made.images[0]).data


def with_text(model: Model, request: ImageRequest) -> Any:
    """The pipeline that serves the request; tiny ones say by hand what a prompt becomes."""
    variant = model._gated.variants.for_request(request)
    if "encode_prompt" in vars(model.pipeline):
        variant.encode_prompt = model.pipeline.encode_prompt
    return variant


def finish(engine: Engine) -> list[Event]:
    """Tick until nothing is left."""
    events: list[Event] = []
    while not engine.idle:
        events += engine.tick()
    return events


def endings(events: Iterable[Event]) -> dict[str, Ending]:
    """How each image ended; an image that ended twice is a bug of the engine."""
    found: dict[str, Ending] = {}
    for event in events:
        if isinstance(event, Finished | Failed | Canceled):
            assert event.id not in found, f"{event.id} ended twice"
            found[event.id] = event
    return found


def run(model: Model, requests: Sequence[ImageRequest]) -> dict[str, Ending]:
    """All requests together through a fresh engine."""
    engine = Engine([model])
    for request in requests:
        engine.submit(request)
    return endings(finish(engine))


def alone(model: Model, request: ImageRequest) -> bytes:
    """The picture of one request with the engine to itself."""
    return pixels(run(model, [request])[request.id])


def pixels(ending: Ending) -> bytes:
    assert isinstance(ending, Finished), ending
    return ending.pixels.data
