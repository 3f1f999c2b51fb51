"""Operations: list and drain workers, pause and purge the queue, statistics, metrics.

Owns /v1/workers, /v1/stats, the actions under /v1/queue and /metrics. Pausing uses RQ's own flag:
`rq suspend` and pausing are the same. Must not know RQ.
"""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from api.access.auth import needs
from api.edge.openapi import problems
from api.edge.responses import json_answer
from api.errors import ModelMissing, WorkerMissing
from api.observability.fleet_counters import fleet_metrics
from api.observability.metrics import erase_metrics, gauge, queue_metrics, webhook_metrics
from api.services.container import Services, ServicesDep
from api.views.jobs import Paused, WorkerList
from api.views.operations import Draining, Purged, StatsList, WorkerDraining, stats_of
from jobs.errors import InvalidRequest, NotReplicated, Problem, StoreUnavailable
from jobs.store.api_keys import Scope
from jobs.store.scripts.erase_calls import KINDS, late
from jobs.version import own_version

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["operations"], dependencies=[needs(Scope.ADMIN)])
NOT_COPIED = problems(NotReplicated)
scraped = APIRouter(tags=["operations"], dependencies=[needs(Scope.METRICS)])


@router.get("/workers", response_model=WorkerList, summary="List the workers")
async def list_workers(services: ServicesDep) -> Response:
    """List the workers that reported within the last minute, and the jobs of each."""
    return json_answer(WorkerList(workers=list(await services.store.workers())))


@router.post("/queue/pause", response_model=Paused, summary="Pause the queue", responses=NOT_COPIED)
async def pause_queue(services: ServicesDep) -> Response:
    """Start no job from now on; running jobs go on, new jobs wait."""
    await services.store.pause(_models_named(services, None))
    return json_answer(Paused(paused=True))


@router.post(
    "/queue/resume", response_model=Paused, summary="Resume the queue", responses=NOT_COPIED
)
async def resume_queue(services: ServicesDep) -> Response:
    """Let workers take jobs again."""
    await services.store.resume(_models_named(services, None))
    return json_answer(Paused(paused=False))


@router.post(
    "/queue/drain", response_model=Draining, summary="Drain the queue", responses=NOT_COPIED
)
async def drain_queue(services: ServicesDep) -> Response:
    """Pause and return the number of running jobs. Call again until 0: the fleet is drained."""
    running = await services.store.pause(_models_named(services, None))
    return json_answer(Draining(paused=True, running=running))


@router.post(
    "/queue/purge",
    response_model=Purged,
    summary="Purge the queue",
    responses=problems(ModelMissing, NotReplicated),
)
async def purge_queue(
    services: ServicesDep,
    model: Annotated[str | None, Query(description="Only jobs of this model.")] = None,
    tenant: Annotated[
        str | None, Query(description="Only jobs of this tenant.", max_length=63)
    ] = None,
    *,
    dry_run: Annotated[bool, Query(description="Count only; cancel no job.")] = False,
) -> Response:
    """Cancel the queued jobs of a model, of a tenant, or of both. Running jobs go on."""
    if model is None and tenant is None:
        said = "name `model`, `tenant` or both"
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
    name: Annotated[str, Path(description="Name of the worker in /v1/workers.", max_length=100)],
) -> Response:
    """Give a worker no more jobs.

    The worker finishes the jobs that fit into its grace time, requeues the rest and exits.
    """
    known = {worker.name for worker in await services.store.workers()}
    if name not in known or not await services.store.drain_worker(name):
        raise WorkerMissing("there is no such worker now; /v1/workers lists them")
    return json_answer(WorkerDraining(name=name), status=202)


@router.get("/stats", response_model=StatsList, summary="Statistics by model")
async def get_stats(services: ServicesDep) -> Response:
    """Return totals of all workers: jobs by outcome and reason, images, stage times."""
    models = [entry.id for entry in services.catalogue.models]
    return json_answer(stats_of(models, await services.figures.counts()))


def _models_named(services: Services, model: str | None) -> list[str]:
    if model is None:
        return [entry.id for entry in services.catalogue.models]
    if services.catalogue.get(model) is None:
        raise ModelMissing("there is no such model; /v1/models lists them")
    return [model]


@scraped.get(
    "/metrics",
    response_class=Response,
    summary="Prometheus metrics",
    responses={
        200: {
            "description": "Prometheus text, or OpenMetrics if Accept asks for it",
            "content": {"text/plain": {}, "application/openmetrics-text": {}},
        }
    },
)
async def get_metrics(request: Request, services: ServicesDep) -> Response:
    """Return metrics of this process and the queue; without Redis, of this process only."""
    more = [
        gauge("build_info", "Version of the running code.", {(own_version(),): 1}, "version"),
        gauge("streams", "Open event streams and waits for jobs.", {(): services.following.count}),
        gauge("downloads", "Images being downloaded.", {(): services.downloads.count}),
    ]
    try:
        models = [entry.id for entry in services.catalogue.models]
        queues = await services.store.queue_state(models)
        more += queue_metrics(queues, await services.store.workers())
        more += erase_metrics([await services.store.run(late(kind)) for kind in KINDS])
        more += webhook_metrics(await services.webhooks.deliveries.figures())
        more += fleet_metrics(await services.figures.counts())
        redis_up = 1
    except StoreUnavailable as error:
        redis_up = 0  # a scrape must not fail because of the fault it has to report
        log.warning("metrics.store_away", extra={"reason": str(error)})
    more.append(gauge("redis_up", "Whether Redis answered this scrape.", {(): redis_up}))
    accept = request.headers.get("accept", "")
    body, content_type = services.metrics.rendered(more, accept=accept)
    headers = {"cache-control": "no-store", "content-type": content_type, "vary": "accept"}
    return Response(body, headers=headers)
