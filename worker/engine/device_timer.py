"""How long the device took for a group of model calls, and how far ahead of it Python may be.

Owns the stopwatch. On a CPU a call is over when it returns; on a GPU it has only been queued, so
two marks are put beside it in the queue and read when the device has passed them.
Knows no model. Invariants: timing never makes the engine wait; and it is never more than `AHEAD`
groups ahead of the device. Else a small model's whole picture would lie in the queue before its
second step was made: canceled work would still be done, newcomers would wait behind it, and
progress would be told of steps that nobody had taken yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

Tell = Callable[[float], None]  # gets the seconds that it took

AHEAD = 2  # one that the device works on, one that it goes on with while Python makes the next


class Mark(Protocol):
    """A place in the device's queue."""

    def query(self) -> bool: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, end_event: Any, /) -> float: ...


def cuda_mark(device: torch.device) -> Mark:
    """Here, after all that was queued by now. Who waits for it sleeps."""
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
        """Time what is inside; nothing is told of what raised."""
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
        """Tell of those that the device has passed by now."""
        while self._queued and self._queued[0][1].query():
            started, ended, tell = self._queued.popleft()
            tell(started.elapsed_time(ended) / 1000)

    def finish(self) -> None:
        """Wait for all that is queued, and tell of it."""
        if self._queued:
            self._queued[-1][1].synchronize()
        self.collect()
