"""Models, samplers and the queue of each model.

Owns the resources `model`, `sampler` and `queue`. The lists come from the model file, the
numbers from the store. Must not know torch.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Response

from api.access.auth import needs
from api.edge.openapi import problems
from api.edge.responses import json_answer
from api.errors import ModelMissing
from api.services.container import Services, ServicesDep
from api.views.jobs import (
    ModelList,
    ModelQueueView,
    ModelView,
    QueueList,
    SamplerList,
    SamplerView,
    model_of,
)
from jobs.contract.loras import LoraFile
from jobs.contract.model_file import ModelEntry
from jobs.contract.samplers import SAMPLERS
from jobs.store.api_keys import Scope

router = APIRouter(prefix="/v1", tags=["models"], dependencies=[needs(Scope.JOBS_READ)])


@router.get("/models", response_model=ModelList, summary="List the models")
async def list_models(services: ServicesDep) -> Response:
    """List the models; the first is the default."""
    return json_answer(ModelList(models=await _views(services, services.catalogue.models)))


@router.get(
    "/models/{model_id}",
    response_model=ModelView,
    summary="Get a model",
    responses=problems(ModelMissing),
)
async def get_model(
    services: ServicesDep,
    model_id: Annotated[str, Path(description="ID of the model.", examples=["demo"])],
) -> Response:
    """Return limits, defaults, samplers and queue of a model."""
    entry = services.catalogue.get(model_id)
    if entry is None:
        known = ", ".join(m.id for m in services.catalogue.models)
        raise ModelMissing(f"there is no such model; choose one of: {known}")
    (view,) = await _views(services, (entry,))
    return json_answer(view)


async def _views(services: Services, entries: tuple[ModelEntry, ...]) -> list[ModelView]:
    queues = await services.store.queue_state([entry.id for entry in entries])
    kept = await _reproducibility(services)
    default = services.catalogue.default.id
    return [
        model_of(
            e,
            default=e.id == default,
            queue=q,
            reproducibility=kept.get(e.id),
            loras=await _loras(services, e),
        )
        for e, q in zip(entries, queues, strict=True)
    ]


async def _loras(services: Services, entry: ModelEntry) -> tuple[LoraFile, ...]:
    """List the LoRA files of a model; a new file is read whole, once, in a thread."""
    shelf = services.catalogue.loras_of(entry)
    return () if shelf is None else await asyncio.to_thread(shelf.files)


async def _reproducibility(services: Services) -> dict[str, str]:
    """Return the reproducibility of the workers by model; the weakest where they differ."""
    strength = ("unpacked", "tolerance", "exact")
    kept: dict[str, str] = {}
    for report in await services.store.workers():
        for pace in report.models:
            said = [kept.get(pace.model, "exact"), pace.reproducibility]
            kept[pace.model] = min(said, key=lambda s: strength.index(s) if s in strength else -1)
    return kept


@router.get("/samplers", response_model=SamplerList, summary="List the samplers")
async def list_samplers() -> Response:
    """List the samplers: use, kinds of model, cost of a step."""
    views = [
        SamplerView(
            id=name,
            title=sampler.title,
            good_for=sampler.good_for,
            predictions=list(sampler.predictions),
            adds_noise=sampler.adds_noise,
            from_image=sampler.from_image,
            calls_per_step=sampler.calls_per_step,
            max_steps=sampler.max_steps,
        )
        for name, sampler in SAMPLERS.items()
    ]
    return json_answer(SamplerList(samplers=views))


@router.get("/queue", response_model=QueueList, summary="Get the queue")
async def get_queue(services: ServicesDep) -> Response:
    """Return jobs waiting and running and the expected wait, by model."""
    states = await services.store.queue_state([m.id for m in services.catalogue.models])
    views = [
        ModelQueueView(
            model=s.model,
            queued=s.queued,
            running=s.running,
            eta_seconds=s.eta_s,
            workers=s.workers,
        )
        for s in states
    ]
    total = QueueList(
        queued=sum(s.queued for s in states),
        running=sum(s.running for s in states),
        paused=await services.store.paused(),
        models=views,
    )
    return json_answer(total)
