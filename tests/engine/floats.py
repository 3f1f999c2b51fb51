"""Latents as they leave the denoising: floats, which hide no last bit as 8-bit pictures do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from worker.engine.batcher import Engine
from worker.engine.gates import Kind
from worker.engine.lane_widths import LaneRule
from worker.engine.model import Model
from worker.messages import Failed, ImageRequest


def latents(model: Model, requests: Sequence[ImageRequest]) -> dict[str, torch.Tensor]:
    """Return each image's latents before decoding, all made together in a fresh engine."""
    engine, found = Engine([model]), dict[str, torch.Tensor]()
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        failed = [event for event in engine.tick() if isinstance(event, Failed)]
        assert not failed, failed
        for live in engine._live.values():
            parked = live.call.parked
            if parked and parked.gate.kind is Kind.DECODE:
                found[live.id] = next(iter(parked.arguments.values())).clone()
    return found


def differing(model: Model, alone: dict[str, torch.Tensor], company: Iterable[ImageRequest]):
    """The IDs of those whose latents, made together, are not bit for bit what they were alone."""
    together = latents(model, list(company))
    return [id_ for id_, one in together.items() if not torch.equal(one, alone[id_])]


def each_alone(model: Model, requests: Iterable[ImageRequest]) -> dict[str, torch.Tensor]:
    """Each of them with an engine to itself."""
    return {request.id: latents(model, [request])[request.id] for request in requests}


def in_lanes_of(model: Model, width: int, request: ImageRequest) -> torch.Tensor:
    """The latents of one image alone, in lanes of that width: padded where it has fewer rows.

    A width that is not its own is what an engine takes that found it cheaper under load.
    """
    verdicts = model.promises._verdicts
    known = dict(verdicts)
    for size, verdict in known.items():
        verdicts[size] = replace(verdict, lanes=LaneRule((width,)), cap_rows=width)
    try:
        return latents(model, [request])[request.id]
    finally:
        verdicts.update(known)
