"""Webhooks: endpoints, their secrets, their deliveries.

Owns the resource `endpoint` of docs/webhooks.md. The courier sends. Must not know Redis.
Invariant: an endpoint of another tenant is missing, never forbidden.
"""

from __future__ import annotations

import functools
import re
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel

from api.access.auth import Caller, needs
from api.access.request_body import parsed, read_as, read_body
from api.edge.openapi import problems
from api.edge.responses import json_answer
from api.services.container import ServicesDep
from api.views.webhooks import (
    DeliveryDetail,
    DeliveryPage,
    EndpointChange,
    EndpointList,
    EndpointRequest,
    EndpointView,
    NewEndpointView,
    Rotation,
    SecretView,
    body_schema,
    detail_of,
    endpoint_view,
    events_of,
    new_endpoint_view,
    page_of,
)
from jobs.contract.request_parts import EventType
from jobs.errors import (
    DeliveryMissing,
    EndpointMissing,
    InvalidRequest,
    Problem,
    SealingUnset,
    TooManyEndpoints,
)
from jobs.ids import new_job_id
from jobs.store.api_keys import Scope
from jobs.webhooks.endpoints import ENDPOINT_ID, Endpoint
from jobs.webhooks.events import test_body
from jobs.webhooks.service import Webhooks

DELIVERY_ID = re.compile(r"msg_[0-9a-f]{32,40}(-progress)?(-job)?")
NO_ENDPOINT = problems(EndpointMissing)
NO_DELIVERY = problems(EndpointMissing, DeliveryMissing)
router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], responses=problems(SealingUnset))
Owner = Annotated[Caller, needs(Scope.WEBHOOKS)]


def _body_as(model: type[BaseModel]) -> Any:
    """Return the dependency that parses the body as `model`; no body is an empty object."""

    async def read(request: Request) -> BaseModel:
        body = await read_body(request)
        return await parsed(request, body, functools.partial(read_as, model))

    return Depends(read)


async def webhooks_of(services: ServicesDep) -> Webhooks:
    """Return the webhook stores. Raises SealingUnset if this service has no webhooks."""
    services.webhooks.need()
    return services.webhooks


WebhooksDep = Annotated[Webhooks, Depends(webhooks_of)]


async def endpoint_of(
    owner: Owner,
    webhooks: WebhooksDep,
    endpoint_id: Annotated[str, Path(description="ID of the endpoint, we_...")],
) -> Endpoint:
    """Return the caller's endpoint named in the path. Raises EndpointMissing."""
    if not ENDPOINT_ID.fullmatch(endpoint_id):
        raise EndpointMissing("there is no such endpoint")
    return await webhooks.endpoints.get(endpoint_id, tenant=owner.tenant)


EndpointDep = Annotated[Endpoint, Depends(endpoint_of)]


def delivery_id_of(
    delivery_id: Annotated[str, Path(description="ID of the delivery, msg_...")],
) -> str:
    """Return the ID in the path; an ID of another form is refused before Redis is asked."""
    if not DELIVERY_ID.fullmatch(delivery_id):
        raise DeliveryMissing("there is no such delivery, or it is no longer stored")
    return delivery_id


DeliveryId = Annotated[str, Depends(delivery_id_of)]


@router.post(
    "",
    status_code=201,
    response_model=NewEndpointView,
    summary="Register an endpoint",
    responses=problems(InvalidRequest, TooManyEndpoints),
    openapi_extra=body_schema(EndpointRequest),
)
async def register(
    owner: Owner,
    webhooks: WebhooksDep,
    asked: Annotated[EndpointRequest, _body_as(EndpointRequest)],
) -> Response:
    """Register a webhook endpoint; only this response holds the signing secret."""
    await webhooks.check_url(asked.url, pointer="/url")
    endpoint, secret = await webhooks.endpoints.add(
        owner.tenant, asked.url, events=events_of(asked.events), description=asked.description
    )
    view = new_endpoint_view(endpoint, secret, now_s=time.time())
    return json_answer(view, status=201, headers={"location": f"/v1/webhooks/{endpoint.id}"})


@router.get("", response_model=EndpointList, summary="List your endpoints")
async def listing(owner: Owner, webhooks: WebhooksDep) -> Response:
    """List your webhook endpoints, oldest first."""
    found = await webhooks.endpoints.list(owner.tenant)
    now_s = time.time()
    return json_answer(EndpointList(endpoints=[endpoint_view(e, now_s=now_s) for e in found]))


@router.get(
    "/{endpoint_id}", response_model=EndpointView, summary="Get an endpoint", responses=NO_ENDPOINT
)
async def look(endpoint: EndpointDep) -> Response:
    """Return the endpoint: state, events, time of the first failure."""
    return json_answer(endpoint_view(endpoint, now_s=time.time()))


@router.patch(
    "/{endpoint_id}",
    response_model=EndpointView,
    summary="Change an endpoint, disable or enable it",
    responses=NO_ENDPOINT | problems(InvalidRequest),
    openapi_extra=body_schema(EndpointChange),
)
async def change(
    endpoint: EndpointDep,
    webhooks: WebhooksDep,
    asked: Annotated[EndpointChange, _body_as(EndpointChange)],
) -> Response:
    """Change an endpoint. Pending events go to the new URL; enabling sends the held events."""
    fields: dict[str, str] = {}
    if asked.url is not None:
        await webhooks.check_url(asked.url, pointer="/url")
        fields["url"] = asked.url
    if asked.events is not None:
        fields["events"] = " ".join(events_of(asked.events))
    if asked.description is not None:
        fields["description"] = asked.description
    changed = await webhooks.endpoints.change(endpoint, fields)
    if asked.state is not None and asked.state != changed.state:
        move = webhooks.endpoints.enable if asked.state == "enabled" else webhooks.endpoints.disable
        changed = await move(changed)
    return json_answer(endpoint_view(changed, now_s=time.time()))


@router.delete(
    "/{endpoint_id}", status_code=204, summary="Delete an endpoint", responses=NO_ENDPOINT
)
async def forget(endpoint: EndpointDep, webhooks: WebhooksDep) -> Response:
    """Delete the endpoint and all its deliveries."""
    await webhooks.endpoints.drop(endpoint)
    return Response(status_code=204)


@router.post(
    "/{endpoint_id}/rotate",
    response_model=SecretView,
    summary="Rotate the signing secret",
    responses=NO_ENDPOINT | problems(InvalidRequest),
    openapi_extra=body_schema(Rotation),
)
async def rotate(
    endpoint: EndpointDep, webhooks: WebhooksDep, asked: Annotated[Rotation, _body_as(Rotation)]
) -> Response:
    """Create a new signing secret; the old one signs too, for a day or for `overlap_s` seconds."""
    secret = await webhooks.endpoints.rotate(endpoint, overlap_s=asked.overlap_s)
    return json_answer(SecretView(secret=secret))


@router.post(
    "/{endpoint_id}/test",
    status_code=202,
    response_model=DeliveryDetail,
    summary="Send a test event",
    responses=NO_ENDPOINT,
)
async def test(endpoint: EndpointDep, webhooks: WebhooksDep) -> Response:
    """Send a test event, signed and retried like any other; get the delivery for its outcome."""
    event_id = f"msg_{new_job_id().replace('-', '')}00"
    body = test_body(endpoint.id, now_s=time.time())
    await webhooks.outbox.put(endpoint, event_id, EventType.TEST, body)
    one = await webhooks.deliveries.get(endpoint.id, event_id)
    return json_answer(detail_of(endpoint, one), status=202)


@router.get(
    "/{endpoint_id}/deliveries",
    response_model=DeliveryPage,
    summary="List deliveries",
    responses=NO_ENDPOINT,
)
async def deliveries(
    endpoint: EndpointDep,
    webhooks: WebhooksDep,
    state: Annotated[
        Literal["pending", "delivered", "exhausted"] | None,
        Query(description="Only deliveries of this state."),
    ] = None,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the previous page.", max_length=64)
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Deliveries per page.")] = 20,
) -> Response:
    """List deliveries, newest job first. Delivered ones are stored for 3 days, others for 30."""
    if cursor is not None and not DELIVERY_ID.fullmatch(cursor):
        raise InvalidRequest([Problem("?cursor", "invalid_cursor", "not a cursor of this list")])
    found, after = await webhooks.deliveries.list(
        endpoint.id, state=state or "", cursor=cursor, limit=limit
    )
    return json_answer(page_of(endpoint, found, after))


@router.get(
    "/{endpoint_id}/deliveries/{delivery_id}",
    response_model=DeliveryDetail,
    summary="Get a delivery with its log",
    responses=NO_DELIVERY,
)
async def delivery(
    endpoint: EndpointDep, webhooks: WebhooksDep, delivery_id: DeliveryId
) -> Response:
    """Return the payload and the outcome of each attempt."""
    return json_answer(detail_of(endpoint, await webhooks.deliveries.get(endpoint.id, delivery_id)))


@router.post(
    "/{endpoint_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    response_model=DeliveryDetail,
    summary="Redeliver an event",
    responses=NO_DELIVERY,
)
async def redeliver(
    endpoint: EndpointDep, webhooks: WebhooksDep, delivery_id: DeliveryId
) -> Response:
    """Send the event again: the same webhook-id, the same bytes, from the first attempt on."""
    await webhooks.deliveries.redeliver(endpoint.id, delivery_id)
    one = await webhooks.deliveries.get(endpoint.id, delivery_id)
    return json_answer(detail_of(endpoint, one), status=202)
