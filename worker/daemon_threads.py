"""A few threads that do what they are given, and that a process does not wait for at its end.

The standard pool joins its threads at exit, however long an upload hangs: 36 s against a store
that never answers, and the worker is killed in mid-drain. Knows no work. Invariant: work begins in
the order in which it came.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

log = logging.getLogger(__name__)


class Threads:
    """`count` of them, until `close`."""

    def __init__(self, count: int, *, name: str) -> None:
        self._work: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{k}", daemon=True)
            for k in range(count)
        ]
        self._closed = False
        for thread in self._threads:
            thread.start()

    def submit(self, do: Callable[..., None], *arguments: Any) -> None:
        """Have `do(*arguments)` called by one of them. What it raises is logged."""
        self._work.put((do, arguments))

    def close(self, timeout_s: float) -> bool:
        """Begin nothing more; True: all that was begun has ended in that time."""
        self._closed = True
        for _ in self._threads:
            self._work.put(None)
        until_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (work := self._work.get()) is not None and not self._closed:
            do, arguments = work
            try:
                do(*arguments)
            except Exception:  # the edge of a thread: the next work is not to suffer
                log.exception("thread.failed")
