"""Health probes: alive (this process answers) and ready (a job sent now can make images).

Owns /livez and /readyz; they need no key and show nothing of tenants. Invariant: /livez never
touches Redis or S3, since a restart of this process would repair neither.
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.edge.responses import json_answer
from api.services.container import ServicesDep
from api.views.jobs import Health

router = APIRouter(tags=["health"])


@router.get("/livez", response_model=Health, summary="Liveness probe")
async def livez() -> Response:
    """Answer 200 while the process runs."""
    return json_answer(Health(status="alive"))


@router.get(
    "/readyz",
    response_model=Health,
    summary="Readiness probe",
    responses={503: {"model": Health, "description": "Not ready; `reasons` say why"}},
)
async def readyz(services: ServicesDep) -> Response:
    """Answer 200 if Redis takes writes, object storage answers and a worker is ready."""
    found = await services.readiness.look()
    if not found.reasons:
        return json_answer(Health(status="ready", degraded=dict(found.degraded)))
    view = Health(status="not ready", reasons=dict(found.reasons), degraded=dict(found.degraded))
    return json_answer(view, status=503, headers={"retry-after": "2"})
