"""Reader of fleet-wide counts (for /metrics and the statistics of models) and of usage.

Owns the reading only; jobs/store/scripts/counting.lua writes the counts in the step that ends a
job. Must not know HTTP. Invariant: nothing here writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from redis.asyncio import Redis

from jobs.store import counters
from jobs.store.connection import translated
from jobs.store.counters import Count, Usage


class UsageStore:
    """Counts and usage in Redis. One a process."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def counts(self) -> list[Count]:
        """Return all total counts, of all processes together."""
        with translated():
            fields: dict[str, str] = await self._redis.hgetall(counters.COUNTS)
        return list(counters.counts_in(fields))

    async def usage(self, first: date, last: date, tenant: str | None) -> list[Usage]:
        """Return usage from `first` to `last` inclusive, newest first; no tenant: of all."""
        days = [last - timedelta(days=k) for k in range((last - first).days + 1)]
        entries = [(day, tenant) for day in days] if tenant else await self._seen(days)
        with translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                for day, who in entries:
                    pipe.hgetall(counters.usage_key(day, who))
                found: Sequence[dict[str, str]] = await pipe.execute() if entries else []
        told = zip(entries, found, strict=True)
        return [one for (day, who), fields in told for one in counters.usage_in(day, who, fields)]

    async def _seen(self, days: Sequence[date]) -> list[tuple[date, str]]:
        with translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                for day in days:
                    pipe.smembers(counters.usage_day(day))
                found: Sequence[set[str]] = await pipe.execute()
        return [(day, who) for day, names in zip(days, found, strict=True) for who in sorted(names)]
