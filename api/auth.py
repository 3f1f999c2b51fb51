"""Who is asking: every route gets a `Caller`, or the request ends here.

Owns the reading of the Authorization header and the rule for requests without a key. Must not
know routes. Invariant: no route runs without a caller whose scopes include the route's own.
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase

from api import rates
from api.errors import Forbidden, HostNotAllowed, RateLimited, Unauthorized
from api.keystore import EVERYTHING, ApiKey, Scope
from api.settings import ApiSettings
from api.state import services_of
from jobs.admission import AdmitLimits

ANONYMOUS = "default"  # the tenant of those who need no key


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is asking, and what they may do. `key` is None for those who need none."""

    tenant: str
    scopes: frozenset[Scope]
    key: ApiKey | None = None

    def limits(self, settings: ApiSettings) -> AdmitLimits:
        """What admission allows this caller."""
        own = self.key.max_open_jobs if self.key else None
        return AdmitLimits(
            max_jobs=settings.max_queued,
            tenant_jobs=settings.max_open_jobs if own is None else own,
        )


class CallerOf(SecurityBase):
    """The dependency that says who is asking.

    One, not FastAPI's usual chain of a scheme and a function on top of it: each link costs every
    request about 50 us.
    """

    def __init__(self) -> None:
        self.model = HTTPBearerModel(
            bearerFormat="pw_...",
            description="An API key. Without keys on a loopback address, none is needed.",
        )
        self.scheme_name = "key"

    async def __call__(self, request: Request, needed: SecurityScopes) -> Caller:
        """The caller, or Unauthorized, or Forbidden."""
        found = await _found(request)
        if found.key and found.key.per_minute:
            await _within_rate(request, found.key, found.key.per_minute)
        request.scope["sees_rules"] = Scope.ADMIN in found.scopes
        missing = [scope for scope in needed.scopes if Scope(scope) not in found.scopes]
        if missing:
            raise Forbidden(f"this key lacks the scope {missing[0]}")
        return found


caller = CallerOf()


async def _found(request: Request) -> Caller:
    services = services_of(request)
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials:
        key = await services.keys.find(credentials)
        if key is None:
            raise Unauthorized("this key is unknown or revoked")
        return Caller(tenant=key.tenant, scopes=key.scopes, key=key)
    if services.settings.key_needed or "authorization" in request.headers:
        raise Unauthorized("send a key: Authorization: Bearer pw_...")
    if services.settings.anonymous == "on-loopback":
        check_host(request.headers.get("host", ""))
    return Caller(tenant=ANONYMOUS, scopes=EVERYTHING)


async def _within_rate(request: Request, key: ApiKey, quota: int) -> None:
    rate = await rates.count(services_of(request).store, key.id, quota)
    request.scope["answer_headers"] = rate.headers
    if rate.over:
        raise RateLimited(f"at most {quota} requests a minute", retry_after_s=rate.reset_s)


@functools.lru_cache(maxsize=256)  # of those that pass; a refusal is never kept
def check_host(host: str) -> None:
    """Refuse names that are not this machine's.

    A page in a browser here can have its own name point to 127.0.0.1 (DNS rebinding); the Host
    header still says that name. With keys there is nothing to win; without, this is the door.
    """
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise HostNotAllowed("without a key, ask for localhost or an IP address") from None


def needs(scope: Scope) -> Any:
    """The dependency of a route that only callers with `scope` may use."""
    return Security(caller, scopes=[scope.value])


Reader = Annotated[Caller, needs(Scope.JOBS_READ)]
Writer = Annotated[Caller, needs(Scope.JOBS_WRITE)]
Admin = Annotated[Caller, needs(Scope.ADMIN)]
