"""For operators: the workers, whether they take jobs, what waits and what was done, and metrics.

Owns /v1/workers, /v1/queue's levers and /metrics. RQ's own flag is used: `rq suspend` and pausing
are one. Must not know RQ.
"""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api.answers import json_answer
from api.auth import needs
from api.errors import ModelMissing, WorkerMissing
from api.keystore import Scope
from api.lasting import lasting_families
from api.metrics import MEDIA_TYPE, family, queue_families, webhook_families
from api.openapi import problems
from api.schemas import Paused, WorkerList
from api.state import Services, ServicesDep
from api.stats import Draining, Purged, StatsList, WorkerDraining, stats_of
from api.version import own_version
from jobs.errors import InvalidRequest, NotReplicated, Problem, StoreUnavailable

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["operations"], dependencies=[needs(Scope.ADMIN)])
scraped = APIRouter(tags=["operations"], dependencies=[needs(Scope.METRICS)])


@router.get("/workers", response_model=WorkerList, summary="List the workers")
async def list_workers(services: ServicesDep) -> Response:
    """Those that spoke within the last minute, and what each runs."""
    return json_answer(WorkerList(workers=list(await services.store.workers())))


@router.post("/queue/pause", response_model=Paused, summary="Pause the queue")
async def pause_queue(services: ServicesDep) -> Response:
    """Workers take no more jobs; those that run go on, and new ones wait."""
    await services.store.pause()
    return json_answer(Paused(paused=True))


@router.post("/queue/resume", response_model=Paused, summary="Resume the queue")
async def resume_queue(services: ServicesDep) -> Response:
    """Workers take jobs again."""
    await services.store.resume()
    return json_answer(Paused(paused=False))


@router.post("/queue/drain", response_model=Draining, summary="Drain the queue")
async def drain_queue(services: ServicesDep) -> Response:
    """Pause, and say how many jobs still run: at 0 the fleet is drained. Call it again to see."""
    return json_answer(Draining(paused=True, running=await services.store.drain()))


@router.post(
    "/queue/purge",
    response_model=Purged,
    summary="Purge the queue",
    responses=problems(ModelMissing, NotReplicated),
)
async def purge_queue(
    services: ServicesDep,
    model: Annotated[str | None, Query(description="What waits for this one.")] = None,
    tenant: Annotated[str | None, Query(description="What this one sent.", max_length=63)] = None,
    *,
    dry_run: Annotated[bool, Query(description="Count only.")] = False,
) -> Response:
    """Cancel what waits for a model, or of a tenant, or both. Jobs that run go on."""
    if model is None and tenant is None:
        said = "say what: `model`, `tenant` or both"
        raise InvalidRequest([Problem("?model", "missing", said)])
    models = _models_named(services, model)
    if dry_run:
        count = await services.store.waiting(models, tenant=tenant)
    else:
        count = await services.store.purge(models, tenant=tenant)
        log.warning("queue.purged", extra={"model": model, "tenant": tenant, "jobs": count})
    return json_answer(Purged(jobs=count, dry_run=dry_run))


@router.post(
    "/workers/{name}/drain",
    status_code=202,
    response_model=WorkerDraining,
    summary="Drain a worker",
    responses=problems(WorkerMissing),
)
async def drain_worker(
    services: ServicesDep,
    name: Annotated[str, Path(description="Its name in /v1/workers.", max_length=100)],
) -> Response:
    """It takes no more jobs, finishes what fits into its grace time, hands the rest back, ends."""
    known = {worker.name for worker in await services.store.workers()}
    if name not in known or not await services.store.drain_worker(name):
        raise WorkerMissing("there is no such worker, or no more")
    return json_answer(WorkerDraining(name=name), status=202)


@router.get("/stats", response_model=StatsList, summary="What was done, by model")
async def get_stats(services: ServicesDep) -> Response:
    """Since ever, by all workers together: jobs by outcome and reason, pictures, times."""
    models = [entry.id for entry in services.catalogue.models]
    return json_answer(stats_of(models, await services.figures.counts()))


def _models_named(services: Services, model: str | None) -> list[str]:
    if model is None:
        return [entry.id for entry in services.catalogue.models]
    if services.catalogue.get(model) is None:
        raise ModelMissing("there is no such model")
    return [model]


@scraped.get(
    "/metrics",
    response_class=Response,
    summary="Prometheus metrics",
    responses={200: {"description": "Text, 0.0.4", "content": {"text/plain": {}}}},
)
async def get_metrics(services: ServicesDep) -> Response:
    """Of this process, and of the queue; without Redis, of this process only."""
    more = [
        family("streams", "gauge", "Followers of jobs.", {}, services.following.count),
        family("downloads", "gauge", "Pictures being sent.", {}, services.downloads.count),
    ]
    try:
        models = [entry.id for entry in services.catalogue.models]
        queues = await services.store.queue_state(models)
        more += queue_families(queues, await services.store.workers())
        more += webhook_families(await services.webhooks.deliveries.figures())
        more += lasting_families(await services.figures.counts())
        redis_up = 1
    except StoreUnavailable as error:
        redis_up = 0  # a scrape must not fail for what it is to report
        log.warning("metrics.store_away", extra={"reason": str(error)})
    more.append(family("redis_up", "gauge", "Whether Redis answered this.", {}, redis_up))
    text = services.metrics.text(version=own_version(), more=more)
    return Response(text, media_type=MEDIA_TYPE, headers={"cache-control": "no-store"})
