"""API keys over HTTP, for administrators: create, list, rotate, revoke.

Owns the resource `key`. Must not know how keys are stored. Invariant: a secret is only in the
response to the request that creates it; no response holds a digest.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from api.access.auth import needs
from api.access.request_body import body_as
from api.edge.openapi import json_body, problems
from api.edge.responses import json_answer
from api.services.container import ServicesDep
from api.views.jobs import View
from jobs.errors import KeyMissing, KeyRotated
from jobs.store.api_keys import ApiKey, NewKey, Scope, make_key

router = APIRouter(prefix="/v1/keys", tags=["keys"], dependencies=[needs(Scope.ADMIN)])
NO_KEY = problems(KeyMissing)
NO_KEY_OR_ROTATED = problems(KeyMissing, KeyRotated)
KeyId = Annotated[str, Path(description="ID of the key: its middle part.", max_length=40)]


class KeyRequest(BaseModel):
    """A new API key: tenant, name, scopes, limits."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
    tenant: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    name: str = Field("", max_length=100, description="Note on the key's use.")
    scopes: list[Annotated[Scope, Field(strict=False)]] = Field(
        [Scope.JOBS_READ, Scope.JOBS_WRITE], min_length=1, max_length=len(Scope)
    )
    max_open_jobs: int | None = Field(None, ge=0, description="Limit of unfinished jobs.")
    per_minute: int | None = Field(None, ge=1, description="Limit of requests per minute.")


class KeyView(View):
    """An API key without its secret."""

    id: str
    tenant: str
    name: str
    scopes: list[Scope]
    max_open_jobs: int | None
    per_minute: int | None
    created_at: datetime
    ends_at: datetime | None = Field(description="Time when a rotated key stops working.")
    revoked_at: datetime | None
    successor: str | None = Field(description="ID of the key that replaces a rotated one.")


class NewKeyView(KeyView):
    """A new API key with its secret, shown once."""

    secret: str


class KeyList(View):
    """All API keys, oldest first."""

    keys: list[KeyView]


@router.post(
    "",
    status_code=201,
    response_model=NewKeyView,
    summary="Create a key",
    openapi_extra=json_body(KeyRequest, {"least": {"value": {"tenant": "acme"}}}),
)
async def create_key(
    services: ServicesDep, asked: Annotated[KeyRequest, body_as(KeyRequest)]
) -> Response:
    """Create an API key; only this response holds the secret."""
    new = make_key(
        tenant=asked.tenant,
        name=asked.name,
        scopes=asked.scopes,
        max_open_jobs=asked.max_open_jobs,
        per_minute=asked.per_minute,
    )
    await services.keys.add(new.key)
    return json_answer(_new_view(new), status=201)


@router.get("", response_model=KeyList, summary="List the keys")
async def list_keys(services: ServicesDep) -> Response:
    """List all API keys, revoked ones included."""
    return json_answer(KeyList(keys=[_view(key) for key in await services.keys.list()]))


@router.post(
    "/{key_id}/rotate",
    response_model=NewKeyView,
    summary="Rotate a key",
    responses=NO_KEY_OR_ROTATED,
)
async def rotate_key(services: ServicesDep, key_id: KeyId) -> Response:
    """Create a key with the same rights; the old key works for 24 hours more. A key is rotated
    once: next time rotate its successor."""
    return json_answer(_new_view(await services.keys.rotate(key_id, overlap=timedelta(days=1))))


@router.delete("/{key_id}", response_model=KeyView, summary="Revoke a key", responses=NO_KEY)
async def revoke_key(services: ServicesDep, key_id: KeyId) -> Response:
    """Revoke a key: every API process refuses the key within five seconds."""
    return json_answer(_view(await services.keys.revoke(key_id)))


def _view(key: ApiKey) -> KeyView:
    return KeyView.model_validate(_fields(key))


def _new_view(new: NewKey) -> NewKeyView:
    return NewKeyView.model_validate({**_fields(new.key), "secret": new.secret})


def _fields(key: ApiKey) -> dict[str, object]:
    return {**key.model_dump(exclude={"digest", "line"}), "scopes": sorted(key.scopes)}
