"""Probes: alive (this process answers) and ready (a job sent now could become a picture).

Owns /livez and /readyz; they need no key, and say nothing about tenants. Invariant: /livez never
touches Redis or S3, since a restart of this process would mend neither.
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.answers import json_answer
from api.schemas import Health
from api.state import ServicesDep

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
    reasons = await services.readiness.reasons()
    if not reasons:
        return json_answer(Health(status="ready"))
    view = Health(status="not ready", reasons=reasons)
    return json_answer(view, status=503, headers={"retry-after": "2"})
