"""For operators: which workers there are, whether they take jobs, and metrics.

Owns /v1/workers, /metrics and pausing. RQ's own flag is used: `rq suspend` and pausing are one.
Must not know RQ.
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.answers import json_answer
from api.auth import needs
from api.keystore import Scope
from api.metrics import MEDIA_TYPE, family, queue_families, webhook_families
from api.schemas import Paused, WorkerList
from api.state import ServicesDep
from api.version import own_version
from jobs.errors import StoreUnavailable

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


@scraped.get(
    "/metrics",
    response_class=Response,
    summary="Prometheus metrics",
    responses={200: {"description": "Text, 0.0.4", "content": {"text/plain": {}}}},
)
async def get_metrics(services: ServicesDep) -> Response:
    """Of this process, and of the queue; without Redis, of this process only."""
    more = [family("streams", "gauge", "Followers of jobs.", {}, services.following.count)]
    try:
        models = [entry.id for entry in services.catalogue.models]
        queues = await services.store.queue_state(models)
        more += queue_families(queues, await services.store.workers())
        more += webhook_families(await services.webhooks.deliveries.figures())
        redis_up = 1
    except StoreUnavailable:
        redis_up = 0  # a scrape must not fail for what it is to report
    more.append(family("redis_up", "gauge", "Whether Redis answered this.", {}, redis_up))
    text = services.metrics.text(version=own_version(), more=more)
    return Response(text, media_type=MEDIA_TYPE, headers={"cache-control": "no-store"})
