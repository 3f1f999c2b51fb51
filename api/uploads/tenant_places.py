"""Fair sharing of places among tenants: decoders, memory for large bodies.

Owns the order of grants. Knows neither the use of a place nor HTTP. Invariant: one tenant never
holds all places, so that a slow tenant leaves one for another; and the tenant with the fewest
places is served first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Turns:
    """Grants of `places` in all, at most `most_each` to one tenant."""

    def __init__(self, places: int, *, most_each: int) -> None:
        self._free = places
        self._most_each = most_each
        self._held: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], str] = {}  # in the order they came

    @asynccontextmanager
    async def take(self, tenant: str, *, timeout_s: float) -> AsyncGenerator[None]:
        """Hold a place while the block runs. Raises TimeoutError if none is free in time."""
        await self._wait(tenant, timeout_s)
        try:
            yield
        finally:
            self._leave(tenant)

    async def _wait(self, tenant: str, timeout_s: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = tenant
        self._grant()
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except BaseException:
            if self._waiting.pop(turn, None) is None:  # granted at the moment of the timeout
                self._leave(tenant)
            raise

    def _leave(self, tenant: str) -> None:
        self._free += 1
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
        self._grant()

    def _grant(self) -> None:
        """Grant free places: to the tenant with the fewest, then to the first in the queue."""
        while self._free:
            allowed = [
                turn
                for turn, tenant in self._waiting.items()
                # done: timed out, but its task has not run yet
                if self._held[tenant] < self._most_each and not turn.done()
            ]
            turn = min(allowed, key=lambda t: self._held[self._waiting[t]], default=None)
            if turn is None:
                return
            self._free -= 1
            self._held[self._waiting.pop(turn)] += 1
            turn.set_result(None)
