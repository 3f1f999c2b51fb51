"""Usage of a tenant's keys by day; of all tenants, for administrators.

Owns the resource `usage`. A job counts on the day it ended (UTC). Must not know Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from api.access.auth import Reader, needs
from api.edge.responses import json_answer
from api.services.container import ServicesDep
from api.views.jobs import View
from jobs.errors import InvalidRequest, Problem
from jobs.store.api_keys import Scope
from jobs.store.counters import Usage

router = APIRouter(prefix="/v1/usage", tags=["usage"])
USUAL_DAYS, MOST_DAYS = 30, 366


class UsageEntry(View):
    """Jobs and images of one API key on one day."""

    day: date
    tenant: str
    key: str = Field(description="ID of the API key; -: jobs sent without a key.")
    jobs: dict[str, int] = Field(description="Jobs that ended on the day, by status.")
    images: int = Field(description="Images of succeeded jobs.")
    megapixel_steps: float = Field(description="Images x steps x megapixels of succeeded jobs.")


class UsageTotal(View):
    """Sum of all entries."""

    jobs: dict[str, int]
    images: int
    megapixel_steps: float


class UsageView(View):
    """Usage from `since` to `until`, both days included: total and entries."""

    since: date
    until: date
    total: UsageTotal
    entries: list[UsageEntry] = Field(description="Newest day first.")


Period = tuple[date, date]


async def period(
    since: Annotated[
        date | None, Query(description="First day (UTC); default: 29 days before `until`.")
    ] = None,
    until: Annotated[date | None, Query(description="Last day (UTC); default: today.")] = None,
) -> Period:
    """Return the first and the last day of the query. Raises InvalidRequest."""
    last = until or datetime.now(UTC).date()
    try:
        first = since or last - timedelta(days=USUAL_DAYS - 1)
    except OverflowError:
        first = last
    if not 0 <= (last - first).days < MOST_DAYS:
        said = f"must be from 1 to {MOST_DAYS} days, `since` not after `until`"
        raise InvalidRequest([Problem("?since", "period", said)])
    return first, last


PeriodDep = Annotated[Period, Depends(period)]


@router.get("", response_model=UsageView, summary="Your usage")
async def get_usage(services: ServicesDep, caller: Reader, days: PeriodDep) -> Response:
    """Return jobs and images of your keys, by day and key; stored for 400 days."""
    found = await services.figures.usage(*days, caller.tenant)
    return json_answer(view_of(days, found))


@router.get(
    "/tenants",
    response_model=UsageView,
    summary="Usage of all tenants",
    dependencies=[needs(Scope.ADMIN)],
)
async def get_tenants_usage(
    services: ServicesDep,
    days: PeriodDep,
    tenant: Annotated[
        str | None, Query(description="Only this tenant's usage.", max_length=63)
    ] = None,
) -> Response:
    """Return the usage of every tenant, or of one."""
    return json_answer(view_of(days, await services.figures.usage(*days, tenant)))


def view_of(days: Period, found: Sequence[Usage]) -> UsageView:
    """Return the public view of the entries and their sum."""
    jobs: Counter[str] = Counter()
    for one in found:
        jobs.update(one.jobs)
    return UsageView(
        since=days[0],
        until=days[1],
        total=UsageTotal(
            jobs=dict(jobs),
            images=sum(one.images for one in found),
            megapixel_steps=round(sum(one.megapixel_steps for one in found), 6),
        ),
        entries=[
            UsageEntry(
                day=one.day,
                tenant=one.tenant,
                key=one.key,
                jobs=dict(one.jobs),
                images=one.images,
                megapixel_steps=one.megapixel_steps,
            )
            for one in found
        ],
    )
