"""For operators: which workers there are, and whether they take jobs.

Owns /v1/workers and pausing; RQ's own flag is used, so `rq suspend` and these are one. Must not
know RQ.
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.answers import json_answer
from api.auth import needs
from api.keystore import Scope
from api.schemas import Paused, WorkerList
from api.state import ServicesDep

router = APIRouter(prefix="/v1", tags=["operations"], dependencies=[needs(Scope.ADMIN)])


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
