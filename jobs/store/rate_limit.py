"""How often a key may ask: counted in Redis, told in every answer.

Owns the window and the RateLimit fields (draft-ietf-httpapi-ratelimit-headers). Must not know
routes. Invariant: all processes share one count; a key without a limit costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.store import keys
from jobs.store.job_store import AsyncJobStore
from jobs.store.scripts import Call, load

WINDOW_S = 60


@dataclass(frozen=True, slots=True)
class Rate:
    """Where a key stands in its window."""

    quota: int
    used: int
    reset_s: int

    @property
    def over(self) -> bool:
        """Whether this request is one too many."""
        return self.used > self.quota

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The two fields: what is allowed, and what is left."""
        left = max(0, self.quota - self.used)
        return [
            (b"ratelimit-policy", f'"minute";q={self.quota};w={WINDOW_S}'.encode()),
            (b"ratelimit", f'"minute";r={left};t={self.reset_s}'.encode()),
        ]


async def count(store: AsyncJobStore, key_id: str, quota: int) -> Rate:
    """Count one request. A fixed window: simple to explain, and twice the quota at worst."""

    def parse(reply: Any) -> Rate:
        return Rate(quota=quota, used=int(reply[0]), reset_s=int(reply[1]))

    call = Call(load("rate"), (keys.rate(key_id),), (WINDOW_S,), parse)
    return await store.run(call)
