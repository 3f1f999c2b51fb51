"""A pool of daemon threads, which a process does not join at its exit.

The standard pool joins its threads at exit, however long an upload hangs: 36 s against object
storage that never answers, and the worker is killed in mid-drain. Owns the threads and their queue.
Knows nothing of the work. Invariant: work begins in the order in which it was submitted.
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
    """Pool of `count` daemon threads, which run until `close`."""

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
        """Call `do(*arguments)` in one of the threads. Exceptions are logged."""
        self._work.put((do, arguments))

    def close(self, timeout_s: float) -> bool:
        """Begin no more work. Return True if all work under way ended within `timeout_s`."""
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
            except Exception:  # top of the thread: later work must still run
                log.exception("thread.failed")
