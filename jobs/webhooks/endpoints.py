"""Webhook endpoints of tenants: URL, subscribed events, state, signing secrets.

Owns the endpoints' hash, their IDs and the rotation of secrets. Must not know HTTP or the courier.
Invariant: a secret leaves this module in plain text once, when made, and later only to sign.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis

from jobs.contract.request_parts import EventType
from jobs.errors import (
    EndpointMissing,
    StoreUnavailable,
    TooManyEndpoints,
)
from jobs.ids import new_job_id
from jobs.store.connection import translated
from jobs.webhooks import keys
from jobs.webhooks.events import DEFAULT
from jobs.webhooks.scripts import load
from jobs.webhooks.secret_box import SecretBox
from jobs.webhooks.signing import new_secret

MAX_ENDPOINTS = 50  # of one tenant: every event is compared with each of them
MAX_SECRETS = 10  # that sign at once
OVERLAP_S = 86_400  # an old secret signs beside the new one for a day
ENDPOINT_ID = re.compile(r"we_[0-9a-f]{32}")
_TRIES = 5  # two rotations at once: the second sees the first's


class KeptSecret(BaseModel):
    """A stored, encrypted secret. `until_s`: Unix time of its last signature; None: the newest."""

    model_config = ConfigDict(frozen=True)
    sealed: str
    made_s: float
    until_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A webhook endpoint: URL, events, state, secrets. Times are Unix seconds."""

    id: str
    tenant: str
    url: str
    events: tuple[EventType, ...] = DEFAULT
    description: str = ""
    state: Literal["enabled", "disabled"] = "enabled"
    reason: str | None = None  # why disabled: failing, gone, by_hand
    disabled_at: float | None = None
    failing_since: float | None = None
    created_at: float = 0.0
    dropped: int = 0  # events left out, because the endpoint's queue was full
    secrets: tuple[KeptSecret, ...] = ()

    @classmethod
    def of(cls, endpoint_id: str, fields: dict[str, str]) -> Self:
        """Build an endpoint from the fields of its hash."""
        return cls(
            id=endpoint_id,
            tenant=fields["tenant"],
            url=fields["url"],
            events=tuple(EventType(word) for word in fields["events"].split()),
            description=fields.get("description", ""),
            state="enabled" if fields["state"] == "enabled" else "disabled",
            reason=fields.get("reason"),
            disabled_at=_number(fields.get("disabled_at")),
            failing_since=_number(fields.get("failing_since")),
            created_at=float(fields["created_at"]),
            dropped=int(fields.get("dropped", 0)),
            secrets=secrets_in(fields["secrets"]),
        )


def secrets_in(text: str) -> tuple[KeptSecret, ...]:
    """Parse the hash field `secrets`; newest first."""
    return tuple(KeptSecret.model_validate(item) for item in json.loads(text))


def live(secrets: Sequence[KeptSecret], now_s: float) -> tuple[KeptSecret, ...]:
    """Return the secrets that sign at `now_s`."""
    return tuple(s for s in secrets if s.until_s is None or s.until_s > now_s)


class Endpoints:
    """Webhook endpoints of all tenants, in Redis."""

    def __init__(
        self, redis: Redis, sealing: SecretBox, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._redis = redis
        self._sealing = sealing
        self._clock = clock
        self._put = redis.register_script(load("endpoint_put").text)
        self._drop = redis.register_script(load("endpoint_drop").text)

    async def add(
        self, tenant: str, url: str, *, events: Sequence[EventType], description: str = ""
    ) -> tuple[Endpoint, str]:
        """Create an endpoint and return it with its secret, this once. Raises TooManyEndpoints."""
        endpoint_id = "we_" + new_job_id().replace("-", "")
        now_s, secret = self._clock(), new_secret()
        kept = KeptSecret(sealed=self._sealing.seal(secret, owner=endpoint_id), made_s=now_s)
        fields = {
            "tenant": tenant,
            "url": url,
            "events": " ".join(events),
            "description": description,
            "state": "enabled",
            "created_at": str(now_s),
            "secrets": _text([kept]),
        }
        if await self._write(endpoint_id, tenant, fields, new=True) == "full":
            raise TooManyEndpoints(
                f"you have {MAX_ENDPOINTS} endpoints, which is the limit; delete one first"
            )
        return await self.get(endpoint_id, tenant=tenant), secret

    async def get(self, endpoint_id: str, *, tenant: str) -> Endpoint:
        """Return an endpoint. Raises EndpointMissing, also for another tenant's endpoint."""
        with translated():
            fields: dict[str, str] = await _awaited(self._redis.hgetall(keys.endpoint(endpoint_id)))
        if fields.get("tenant") != tenant:
            raise EndpointMissing("there is no such endpoint")
        return Endpoint.of(endpoint_id, fields)

    async def list(self, tenant: str) -> list[Endpoint]:
        """Return a tenant's endpoints, oldest first."""
        with translated():
            ids: set[str] = await _awaited(self._redis.smembers(keys.tenant_endpoints(tenant)))
            pipe = self._redis.pipeline(transaction=False)
            for endpoint_id in sorted(ids):
                pipe.hgetall(keys.endpoint(endpoint_id))
            found: list[dict[str, str]] = await pipe.execute()
        pairs = zip(sorted(ids), found, strict=True)
        return [Endpoint.of(endpoint_id, fields) for endpoint_id, fields in pairs if fields]

    async def change(self, endpoint: Endpoint, fields: dict[str, str]) -> Endpoint:
        """Write some fields; an empty value removes a field. Raises EndpointMissing."""
        await self._write(endpoint.id, endpoint.tenant, fields)
        return await self.get(endpoint.id, tenant=endpoint.tenant)

    async def enable(self, endpoint: Endpoint) -> Endpoint:
        """Enable an endpoint; the events it missed meanwhile are sent now, five at a time."""
        fresh = {"state": "enabled", "reason": "", "disabled_at": "", "failing_since": ""}
        return await self.change(endpoint, fresh)

    async def disable(self, endpoint: Endpoint) -> Endpoint:
        """Disable an endpoint; its events are kept and not sent."""
        stopped = {"state": "disabled", "reason": "by_hand", "disabled_at": str(self._clock())}
        return await self.change(endpoint, stopped)

    async def rotate(self, endpoint: Endpoint, *, overlap_s: float = OVERLAP_S) -> str:
        """Make and return a new secret; old secrets sign for `overlap_s` more (0: after a leak)."""
        for _ in range(_TRIES):
            now_s, secret = self._clock(), new_secret()
            kept = KeptSecret(sealed=self._sealing.seal(secret, owner=endpoint.id), made_s=now_s)
            until = [_until(s, now_s + overlap_s) for s in live(endpoint.secrets, now_s)]
            older = live(until, now_s)[: MAX_SECRETS - 1]
            fields = {"secrets": _text([kept, *older])}
            was = _text(endpoint.secrets)
            if await self._write(endpoint.id, endpoint.tenant, fields, was=was) != "changed":
                return secret
            endpoint = await self.get(endpoint.id, tenant=endpoint.tenant)
        raise StoreUnavailable("this endpoint's secrets are being changed by others; try again")

    async def reseal(self) -> int:
        """Re-encrypt secrets under an older key of the settings; return the number of endpoints."""
        changed = 0
        with translated():  # the scan, too: a courier that started before Redis ended by it
            async for name in self._redis.scan_iter(match=keys.endpoint("*"), count=1000):
                endpoint_id = name.removeprefix(keys.endpoint(""))
                fields: dict[str, str] = await _awaited(self._redis.hgetall(name))
                if fields:
                    changed += await self._reseal_one(Endpoint.of(endpoint_id, fields))
        return changed

    async def _reseal_one(self, endpoint: Endpoint) -> int:
        owner = endpoint.id
        if all(self._sealing.current(s.sealed, owner=owner) for s in endpoint.secrets):
            return 0
        anew = [
            s.model_copy(update={"sealed": self._sealing.seal(opened, owner=owner)})
            for s in endpoint.secrets
            for opened in [self._sealing.open(s.sealed, owner=owner)]
        ]
        fields = {"secrets": _text(anew)}
        # an endpoint rotated meanwhile was encrypted anew by the rotation
        await self._write(owner, endpoint.tenant, fields, was=_text(endpoint.secrets))
        return 1

    async def drop(self, endpoint: Endpoint) -> None:
        """Delete an endpoint with all its pending deliveries."""
        with translated():
            await self._drop(keys=_keys(endpoint.id, endpoint.tenant), args=[endpoint.id])

    def open(self, endpoint_id: str, secrets: Sequence[KeptSecret], now_s: float) -> list[str]:
        """Decrypt the secrets that sign at `now_s`, newest first. Raises SealBroken."""
        kept = live(secrets, now_s)
        return [self._sealing.open(s.sealed, owner=endpoint_id) for s in kept]

    async def _write(
        self,
        endpoint_id: str,
        tenant: str,
        fields: dict[str, str],
        *,
        new: bool = False,
        was: str = "",
    ) -> str:
        pairs = [part for pair in fields.items() for part in pair]
        args = [endpoint_id, MAX_ENDPOINTS, was, int(new), *pairs]
        with translated():
            result: str = await self._put(keys=_keys(endpoint_id, tenant), args=args)
        if result == "missing":
            raise EndpointMissing("there is no such endpoint")
        return result


def _keys(endpoint_id: str, tenant: str) -> list[str]:
    every = keys.tenant_endpoints(tenant)
    return [keys.endpoint(endpoint_id), every, f"{every}:events"]


def _until(secret: KeptSecret, until_s: float) -> KeptSecret:
    """Return `secret`, ending at `until_s` at the latest."""
    ends = until_s if secret.until_s is None else min(secret.until_s, until_s)
    return secret.model_copy(update={"until_s": ends})


def _text(secrets: Sequence[KeptSecret]) -> str:
    return json.dumps([s.model_dump() for s in secrets], separators=(",", ":"))


def _number(text: str | None) -> float | None:
    return float(text) if text else None


async def _awaited(answer: Any) -> Any:
    """Await an answer; redis-py types its async commands as sync or async."""
    return await answer
