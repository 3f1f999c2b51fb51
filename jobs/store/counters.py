"""Fleet-wide counts of ended jobs and of usage, as counting.lua keeps them in Redis.

Owns the closed sets that label the counts (failures, buckets), the keys, and the reading of both
hashes. Knows no connection. Invariant: a count is written by the script that does what it counts,
so it is whole after any crash, and the same for every process that reads it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

COUNTS = "pw:counts"
USAGE_TTL_S = 400 * 86_400  # a year and the month in which an operator reads it
NO_KEY = "-"  # the key of jobs sent without an API key

# Error codes of failed jobs: every code that worker/ gives. Any other is counted as `other`.
FAILURES = (
    "abandoned",
    "check_failed",
    "crashed",
    "deadline_exceeded",
    "degenerate_output",
    "engine_error",
    "image_blocked",
    "input_missing",
    "internal",
    "invalid_input",
    "invalid_job",
    "model_load_failed",
    "nan_output",
    "out_of_memory",
    "pipeline_error",
    "timeout",
    "unservable",
)
JOB_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Count:
    """A counter: name, labels, value."""

    name: str
    labels: tuple[str, ...]
    value: float


class PendingCounts:
    """Counts of one process not yet sent to Redis, where no script counts. Thread-safe.

    Sent with the worker's heartbeat, and again where the answer was lost: at least once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, *labels: str) -> None:
        """Add one to a count."""
        with self._lock:
            self._counts["|".join((name, *labels))] += 1

    def take(self) -> Mapping[str, int]:
        """Remove and return all counts; the caller sends them or puts them back."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return taken

    def put_back(self, untold: Mapping[str, int]) -> None:
        """Return counts that failed to send."""
        with self._lock:
            self._counts.update(untold)


def counts_in(fields: Mapping[str, str]) -> Iterator[Count]:
    """Yield every count of the hash, sorted by name."""
    for field, value in sorted(fields.items()):
        name, *labels = field.split("|")
        yield Count(name, tuple(labels), float(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Usage of one API key of a tenant on one day (UTC)."""

    day: date
    tenant: str
    key: str  # ID of the API key; NO_KEY for jobs without one
    jobs: Mapping[str, int]  # ended that day, by status
    images: int  # of the jobs that succeeded
    megapixel_steps: float  # the same jobs: images x steps x megapixels


def usage_day(day: date) -> str:
    """Return the key of the set of tenants with usage on `day`."""
    return f"pw:usage:{day.isoformat()}"


def usage_key(day: date, tenant: str) -> str:
    """Return the key of a tenant's usage on `day`."""
    return f"{usage_day(day)}:{tenant}"


def usage_in(day: date, tenant: str, fields: Mapping[str, str]) -> list[Usage]:
    """Return the usage in one hash, one entry an API key."""
    found: dict[str, dict[str, float]] = {}
    for field, value in sorted(fields.items()):
        key, _, what = field.rpartition("|")
        found.setdefault(key, {})[what] = float(value)
    return [
        Usage(
            day=day,
            tenant=tenant,
            key=key,
            images=int(told.pop("images", 0)),
            megapixel_steps=round(told.pop("work", 0.0), 6),
            jobs={status: int(n) for status, n in told.items()},
        )
        for key, told in found.items()
    ]
