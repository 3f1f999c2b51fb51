"""How long the device took for a group of model calls, without waiting for the device.

Owns the stopwatch. On a CPU a call is over when it returns; on a GPU it has only been queued, so
two events are put beside it in the queue and read when the device has passed them.
Knows no model. Invariant: timing never makes the engine wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

Tell = Callable[[float], None]  # gets the seconds that it took


class Laps:
    """The laps under way, oldest first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._queued: deque[tuple[torch.cuda.Event, torch.cuda.Event, Tell]] = deque()

    @contextmanager
    def lap(self, device: torch.device, tell: Tell) -> Generator[None]:
        """Time what is inside; nothing is told of what raised."""
        if device.type != "cuda":
            started_s = self._clock()
            yield
            tell(self._clock() - started_s)
            return
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record(torch.cuda.current_stream(device))
        yield
        ended.record(torch.cuda.current_stream(device))
        self._queued.append((started, ended, tell))

    def collect(self) -> None:
        """Tell of those that the device has passed by now."""
        while self._queued and self._queued[0][1].query():
            started, ended, tell = self._queued.popleft()
            tell(started.elapsed_time(ended) / 1000)
