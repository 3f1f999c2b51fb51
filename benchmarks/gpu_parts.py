"""A part of a run on a GPU, and the time that it may take.

Owns the alarm. Knows no torch. Invariant: a part that is cut short leaves the rows that it gave.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from benchmarks.gpu_report import Row


class OutOfTime(BaseException):
    """A part's time is up. No Exception: the engine's fences around an image must let it out."""


@dataclass(frozen=True)
class Part:
    """One or more rows of a table: `of` names them, `run` finds the rest."""

    table: str
    of: Row
    run: Callable[[], Row | Iterable[Row]]
    most_s: float  # beyond this it is cut short
    needs: str = "engine"  # engine, torch; cuda: a CUDA device besides


class Clock:
    """The time left, for all parts and for the current one."""

    def __init__(self, minutes: float) -> None:
        self._ends_s = time.monotonic() + minutes * 60

    @property
    def left_s(self) -> float:
        return self._ends_s - time.monotonic()

    @contextmanager
    def at_most(self, seconds: float) -> Generator[None]:
        """Raise OutOfTime inside when so many seconds are over, or all of them."""

        def ring(_number: int, _frame: FrameType | None) -> None:
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(0.1, min(seconds, self.left_s)))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
