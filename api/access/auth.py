"""Authentication: every route gets a `Caller`, or the request ends here.

Owns the order: read credentials (api/access/credentials.py has where), look up the key, else apply
the rules for requests without a key (api/access/keyless.py). Must not know routes. Invariant: no
route runs without a caller whose scopes include the route's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase

from api.access import keyless
from api.access.credentials import CredentialScheme, CredentialSchemes
from api.errors import Forbidden, RateLimited, Unauthorized
from api.services.container import services_of
from api.settings import ApiSettings
from jobs.contract.submission import AdmitLimits
from jobs.store import rate_limit
from jobs.store.api_keys import ApiKey, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller of a request: tenant, scopes, API key. `key` is None for a keyless caller."""

    tenant: str
    scopes: frozenset[Scope]
    key: ApiKey | None = None

    @property
    def key_id(self) -> str | None:
        """ID of the API key, or None."""
        return self.key.id if self.key else None

    def limits(self, settings: ApiSettings) -> AdmitLimits:
        """Return the limits of admission for this caller."""
        own = self.key.max_open_jobs if self.key else None
        return AdmitLimits(
            max_jobs=settings.max_queued,
            tenant_jobs=settings.max_open_jobs if own is None else own,
        )


class AuthDependency(SecurityBase):
    """Dependency that authenticates the caller.

    One, not FastAPI's usual chain of a scheme and a function on top of it: each link costs every
    request about 50 us.
    """

    def __init__(self) -> None:
        self.model = HTTPBearerModel(
            bearerFormat="pw_...",
            description="An API key. A service on a loopback address needs none for jobs.",
        )
        self.scheme_name = "key"

    async def __call__(self, request: Request, needed: SecurityScopes) -> Caller:
        """Return the caller. Raises Unauthorized, Forbidden, RateLimited."""
        found = await _found(request)
        if found.key and found.key.per_minute:
            await _within_rate(request, found.key, found.key.per_minute)
        request.scope["sees_rules"] = Scope.ADMIN in found.scopes
        missing = [scope for scope in needed.scopes if Scope(scope) not in found.scopes]
        if missing and found.key is None:
            raise keyless.refused_scope(Scope(missing[0]))
        if missing:
            raise Forbidden(f"this key lacks the scope {missing[0]}; use a key that has it")
        return found


caller = AuthDependency()


async def _found(request: Request) -> Caller:
    services = services_of(request)
    settings = services.settings
    scheme = credentials_at(request)
    credentials = scheme.read(request.headers)
    sent = scheme.present(request.headers)
    if credentials and not settings.key_needed and scheme.may_be_none(credentials):
        credentials, sent = None, False
    if credentials:
        key = await services.keys.find(credentials)
        if key is None:
            raise Unauthorized("this key is unknown or revoked; ask an administrator for a new one")
        keyless.check_page(request, settings.origins)
        return Caller(tenant=key.tenant, scopes=key.scopes, key=key)
    if settings.key_needed or sent:
        raise Unauthorized(keyless.SEND_A_KEY)
    keyless.check(request, settings)
    return Caller(tenant=keyless.TENANT, scopes=keyless.SCOPES[settings.anonymous])


def credentials_at(request: Request) -> CredentialScheme:
    """Return the credential scheme of the request's path."""
    schemes: CredentialSchemes = request.app.state.credentials
    return schemes.at(request.url.path)


async def _within_rate(request: Request, key: ApiKey, quota: int) -> None:
    rate = await rate_limit.count(services_of(request).store, key.counted_as, quota)
    request.scope["answer_headers"] = rate.headers
    if rate.over:
        raise RateLimited(f"at most {quota} requests a minute", retry_after_s=rate.reset_s)


def needs(scope: Scope) -> Any:
    """Return the dependency of a route that requires `scope`."""
    return Security(caller, scopes=[scope.value])


Reader = Annotated[Caller, needs(Scope.JOBS_READ)]
Writer = Annotated[Caller, needs(Scope.JOBS_WRITE)]
