"""Groups of jobs in Redis: one ID for many jobs sent together.

Owns the record of a group (whose it is, and which jobs, chosen before any is admitted), the list
of what has not ended, and its idempotency entry. Must not know HTTP. Invariant: the list of jobs is
written first, so a sending that broke off half-way is completed by sending it again, never doubled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis

from jobs import keys
from jobs.admission import Idempotency
from jobs.choices import GroupWebhook
from jobs.connection import translated
from jobs.errors import IdempotencyMismatch, PrintworksError
from jobs.ids import new_job_id
from jobs.spec import JobRequest


class GroupMissing(PrintworksError):
    """There is no such group (for this tenant)."""

    code = "group_not_found"


class Group(BaseModel):
    """One group as it is kept."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str
    tenant: str
    created_at: datetime
    jobs: tuple[str, ...]


class GroupStore:
    """All groups."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def open(
        self,
        tenant: str,
        count: int,
        idempotency: Idempotency | None,
        *,
        webhook: GroupWebhook | None = None,
    ) -> Group:
        """A new group of `count` jobs, or the one that the same idempotency key opened before."""
        group = Group(
            id=new_job_id(),
            tenant=tenant,
            created_at=datetime.now(UTC),
            jobs=tuple(new_job_id() for _ in range(count)),
        )
        with translated():
            await self._write(group, webhook)
            if idempotency is None:
                return group
            mine = f"{group.id} {idempotency.fingerprint}"
            key = keys.idempotency(idempotency.digest)
            first = await self._redis.set(key, mine, nx=True, get=True, ex=keys.LISTING_TTL_S)
            if first is None:
                return group
            await self._redis.delete(keys.group(group.id), keys.group_ends(group.id))
        group_id, fingerprint = first.split(" ")
        if fingerprint != idempotency.fingerprint:
            raise IdempotencyMismatch("this key was used for another request; use a new one")
        return await self.read(group_id, tenant=tenant)

    async def _write(self, group: Group, webhook: GroupWebhook | None) -> None:
        """The list, and what is left to end, which jobs/scripts/outbox.lua counts down."""
        ends: dict[str, str | int] = {**dict.fromkeys(group.jobs, ""), "left": len(group.jobs)}
        if webhook:
            ends["webhook"] = webhook.model_dump_json()
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(keys.group(group.id), group.model_dump_json(), ex=keys.LISTING_TTL_S)
            pipe.hset(keys.group_ends(group.id), mapping=ends)
            pipe.expire(keys.group_ends(group.id), keys.LISTING_TTL_S)
            await pipe.execute()

    async def read(self, group_id: str, *, tenant: str) -> Group:
        """A group. Raises GroupMissing; another tenant's is missing."""
        with translated():
            text = await self._redis.get(keys.group(group_id))
        group = Group.model_validate_json(text) if text else None
        if group is None or group.tenant != tenant:
            raise GroupMissing("there is no such group")
        return group

    async def forget(self, group: Group, idempotency: Idempotency | None) -> None:
        """Undo `open`: nothing of it was accepted."""
        names = [keys.group(group.id), keys.group_ends(group.id)]
        if idempotency:
            names.append(keys.idempotency(idempotency.digest))
        with translated():
            await self._redis.delete(*names)


def group_idempotency(
    scope_and_key: tuple[str, str] | None,
    tenant: str,
    requests: Sequence[JobRequest],
    webhook: GroupWebhook | None = None,
) -> Idempotency | None:
    """What is needed to know the whole group again."""
    if scope_and_key is None:
        return None
    scope, key = scope_and_key
    each = [Idempotency.of(key, scope=f"{tenant} {scope}", request=r) for r in requests]
    parts = [one.fingerprint for one in each] + ([webhook.url] if webhook else [])
    together = hashlib.sha256("".join(parts).encode()).hexdigest()
    return Idempotency(digest=each[0].digest, fingerprint=together)
