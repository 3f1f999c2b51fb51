"""Rate limit of API keys: requests counted in Redis, reported in every response.

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
    """A key's rate: quota and use in this window, seconds to the next."""

    quota: int
    used: int
    reset_s: int

    @property
    def over(self) -> bool:
        """True if this request exceeds the quota."""
        return self.used > self.quota

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The two header fields: the quota, and the requests left."""
        left = max(0, self.quota - self.used)
        return [
            (b"ratelimit-policy", f'"minute";q={self.quota};w={WINDOW_S}'.encode()),
            (b"ratelimit", f'"minute";r={left};t={self.reset_s}'.encode()),
        ]


async def count(store: AsyncJobStore, key_id: str, quota: int) -> Rate:
    """Count one request in a fixed window: simple to explain, and twice the quota at worst."""

    def parse(reply: Any) -> Rate:
        return Rate(quota=quota, used=int(reply[0]), reset_s=int(reply[1]))

    call = Call(load("rate"), (keys.rate(key_id),), (WINDOW_S,), parse)
    return await store.run(call)
