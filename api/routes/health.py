"""Probes: alive (this process answers) and ready (a job sent now could become a picture).

Owns /livez and /readyz; they need no key, and say nothing about tenants. Invariant: /livez never
touches Redis or S3, since a restart of this process would mend neither.
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.edge.responses import json_answer
from api.services.container import ServicesDep
from api.views.jobs import Health

router = APIRouter(tags=["health"])


@router.get("/livez", response_model=Health, summary="Is the process alive?")
async def livez() -> Response:
    """Yes, if this answers."""
    return json_answer(Health(status="alive"))


@router.get(
    "/readyz",
    response_model=Health,
    summary="Can it make pictures now?",
    responses={503: {"model": Health, "description": "Not now; `reasons` say why"}},
)
async def readyz(services: ServicesDep) -> Response:
    """Redis takes writes, the picture store answers, a worker is ready."""
    found = await services.readiness.look()
    if not found.reasons:
        return json_answer(Health(status="ready", degraded=dict(found.degraded)))
    view = Health(status="not ready", reasons=dict(found.reasons), degraded=dict(found.degraded))
    return json_answer(view, status=503, headers={"retry-after": "2"})
