"""Loads: a closed loop with so many in flight, or an open one of Poisson arrivals.

Owns the clock and the counting. Must not know a system: it gets a coroutine that makes one picture.
Invariant: only what began and ended inside the window counts for a rate; what failed is counted
apart, never as a fast answer.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from benchmarks.side_by_side.jobs import Job

Make = Callable[[Job], Awaitable[None]]
TAIL_S = 120.0  # for what is under way when an open loop ends


@dataclass
class Outcome:
    """The measured latencies of one load, in seconds, and what became of its jobs."""

    seconds: float
    latencies: list[float] = field(default_factory=list[float])
    failures: list[str] = field(default_factory=list[str])
    unfinished: int = 0

    def figures(self) -> dict[str, Any]:
        """Return images/s, latencies at the 50th, 95th and 99th percentile, and failures."""
        ordered = sorted(self.latencies)
        cut = statistics.quantiles(ordered, n=100) if len(ordered) > 1 else ordered * 99
        p50, p95, p99 = (round(cut[k - 1], 3) for k in (50, 95, 99)) if ordered else (None,) * 3
        return {
            "images_per_s": round(len(ordered) / self.seconds, 3),
            "images": len(ordered),
            "p50_s": p50,
            "p95_s": p95,
            "p99_s": p99,
            "failed": len(self.failures),
            "unfinished": self.unfinished,
            "first_failure": self.failures[0] if self.failures else None,
        }


async def closed(
    make: Make, job_at: Callable[[int], Job], *, in_flight: int, warm_s: float, seconds: float
) -> Outcome:
    """Keep `in_flight` jobs under way; measure those that end after `warm_s`, for `seconds`."""
    began, counter = time.perf_counter(), iter(range(10**9))
    starts, ends = began + warm_s, began + warm_s + seconds
    outcome = Outcome(seconds)

    async def one_after_another() -> None:
        while (at := time.perf_counter()) < ends:
            failure = await _tried(make, job_at(next(counter)))
            now = time.perf_counter()
            if failure:
                outcome.failures.append(failure)
            elif starts <= now <= ends:
                outcome.latencies.append(now - at)

    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    return outcome


async def open_loop(
    make: Make, job_at: Callable[[int], Job], *, per_s: float, seconds: float
) -> Outcome:
    """Send jobs as a Poisson process of `per_s`, whatever comes back."""
    draw, outcome = Random(f"arrivals {per_s:.3f}"), Outcome(seconds)
    began = due = time.perf_counter()
    tasks: list[asyncio.Task[None]] = []

    async def one(job: Job) -> None:
        at = time.perf_counter()
        failure = await _tried(make, job)
        if failure:
            outcome.failures.append(failure)
        elif at - began <= seconds:
            outcome.latencies.append(time.perf_counter() - at)

    index = 0
    while True:
        due += draw.expovariate(per_s)
        if due > began + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(job_at(index))))
        index += 1
    done, late = await asyncio.wait(tasks, timeout=TAIL_S) if tasks else (set(), set())
    del done
    for task in late:
        task.cancel()
    outcome.unfinished = len(late)
    return outcome


async def _tried(make: Make, job: Job) -> str | None:
    """Make one picture; return what went wrong, or None."""
    try:
        await make(job)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is a failure of its own
        return f"{type(error).__name__}: {error}"[:200]
    return None
