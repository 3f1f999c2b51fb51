"""Device timer: measure the device time of model calls, and limit the queue ahead of it.

Owns the stopwatch. On a CPU a call is over when it returns; on a GPU it has only been queued, so
two marks are put beside it in the queue and read when the device has passed them.
Knows no model. Invariants: timing never makes the engine wait; and it is never more than `AHEAD`
groups ahead of the device. Else a small model's whole picture would lie in the queue before its
second step was made: canceled work would still be done, newcomers would wait behind it, and
progress would be reported of steps that the device had not run yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

Tell = Callable[[float], None]  # receives the seconds that a lap took

AHEAD = 2  # one that the device works on, one that it goes on with while Python makes the next


class Mark(Protocol):
    """A place in the device's queue."""

    def query(self) -> bool: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, end_event: Any, /) -> float: ...


def cuda_mark(device: torch.device) -> Mark:
    """Record an event after all that is queued now; waiting for the event sleeps, not spins."""
    event = torch.cuda.Event(enable_timing=True, blocking=True)
    event.record(torch.cuda.current_stream(device))
    return event


class Laps:
    """The laps under way, oldest first."""

    def __init__(
        self, clock: Callable[[], float], mark: Callable[[torch.device], Mark] = cuda_mark
    ) -> None:
        self._clock = clock
        self._mark = mark
        self._queued: deque[tuple[Mark, Mark, Tell]] = deque()

    @contextmanager
    def lap(self, device: torch.device, tell: Tell) -> Generator[None]:
        """Time the body, and pass its seconds to `tell`; not if the body raises."""
        if device.type != "cuda":
            started_s = self._clock()
            yield
            tell(self._clock() - started_s)
            return
        while len(self._queued) >= AHEAD:
            self._queued[0][1].synchronize()
            self.collect()
        started = self._mark(device)
        yield
        self._queued.append((started, self._mark(device), tell))

    def collect(self) -> None:
        """Report the laps that the device has finished by now."""
        while self._queued and self._queued[0][1].query():
            started, ended, tell = self._queued.popleft()
            tell(started.elapsed_time(ended) / 1000)

    def finish(self) -> None:
        """Wait for all queued laps, and report them."""
        if self._queued:
            self._queued[-1][1].synchronize()
        self.collect()
