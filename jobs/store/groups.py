"""Groups of jobs: one ID for many jobs sent together.

Owns the reading of a group's record (tenant and jobs), and a group's idempotency. Must not know
HTTP. A group is accepted by `admit.lua`, whole or not at all, and never changes: nothing here
writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from jobs.contract.request_parts import GroupWebhook
from jobs.contract.spec import JobRequest
from jobs.contract.submission import Group, Idempotency
from jobs.errors import GroupMissing
from jobs.store import keys
from jobs.store.connection import translated


class GroupStore:
    """Groups of jobs in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def read(self, group_id: str, *, tenant: str) -> Group:
        """Return a group. Raises GroupMissing, also for another tenant's group."""
        with translated():
            text = await self._redis.get(keys.group(group_id))
        group = Group.model_validate_json(text) if text else None
        if group is None or group.tenant != tenant:
            raise GroupMissing("there is no such group")
        return group


def group_idempotency(
    scope_and_key: tuple[str, str] | None,
    tenant: str,
    requests: Sequence[JobRequest],
    webhook: GroupWebhook | None = None,
) -> Idempotency | None:
    """Return the idempotency of a whole group; None without a key."""
    if scope_and_key is None:
        return None
    scope, key = scope_and_key
    each = [Idempotency.of(key, scope=f"{tenant} {scope}", request=r) for r in requests]
    parts = [one.fingerprint for one in each] + ([webhook.url] if webhook else [])
    together = hashlib.sha256("".join(parts).encode()).hexdigest()
    return Idempotency(digest=each[0].digest, fingerprint=together)
