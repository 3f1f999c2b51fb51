"""One entry for the worker's roles: read settings, set up logs, run the role.

Owns the command line, exit codes and signals. A role is a module with `run(settings, stop)`;
it is imported when it is chosen, so that a janitor needs neither torch nor Pillow.
Exit codes: 0 ended as told, 2 a setting or the server is not as it must be.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from jobs.errors import SettingsError
from jobs.logs import set_up
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

ROLES = {"gpu": "worker.gpu", "courier": "worker.courier.process", "janitor": "worker.janitor"}


class Stop:
    """What signals do: call whoever listens, and remember it. Nothing is raised in mid-write."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._listener: Callable[[], None] | None = None

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this at every signal; at once for one that came before."""
        self._listener = listener
        if self._asked.is_set():
            listener()

    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        self._asked.set()
        if self._listener:
            self._listener()

    @property
    def asked(self) -> bool:
        """Whether the process is to end."""
        return self._asked.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep, but not through a signal; True: the process is to end."""
        return self._asked.wait(timeout_s)


def main(argv: list[str] | None = None) -> int:
    """Run one role, or the command `models`."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["models"]:
        return int(importlib.import_module("worker.models.command").main(given[1:]))
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("role", nargs="?", choices=sorted(ROLES), default="gpu")
    role: str = parser.parse_args(given).role
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        settings = WorkerSettings.load()
        set_up(settings.log_level)
        log.info("role.started", extra={"role": role})
        importlib.import_module(ROLES[role]).run(settings, stop)
    except SettingsError as error:
        sys.stderr.write(f"worker: {error}\n")
        return 2
    log.info("role.ended", extra={"role": role})
    return 0
