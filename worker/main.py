"""Entry point of the worker's roles: read settings, set up logs, run the role.

Owns the command line, exit codes and signals. A role is a module with `run(settings, stop)`,
imported only when chosen, so that a janitor needs neither torch nor Pillow.
Exit codes: 0 stopped by a signal, 2 a setting or the Redis server is not fit for use.
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

DESCRIPTION = (
    "Run one role until SIGTERM or SIGINT. Settings are the PRINTWORKS_* environment variables"
    " (README.md, Settings)."
)
EPILOG = (
    "Model file: `python -m worker models --help` lists, checks and adds models. Exit status:"
    " 0 stopped by a signal, 2 a setting or the Redis server is not fit for use."
)
ROLE_HELP = (
    "gpu: generate images, on a GPU or a CPU (default); courier: deliver webhooks; janitor:"
    " requeue the jobs of dead workers, expire jobs, delete images that are due"
)
ROLES = {"gpu": "worker.gpu", "courier": "worker.courier.process", "janitor": "worker.janitor"}


class Stop:
    """Signal handler: record the request to stop and call the listener. Never raises mid-write."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._listener: Callable[[], None] | None = None

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` at every signal, and at once if a signal came before."""
        self._listener = listener
        if self._asked.is_set():
            listener()

    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        self._asked.set()
        if self._listener:
            self._listener()

    @property
    def asked(self) -> bool:
        """True once a signal asked the process to stop."""
        return self._asked.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep up to `timeout_s`, or until a signal. Return True if the process is to stop."""
        return self._asked.wait(timeout_s)


def main(argv: list[str] | None = None) -> int:
    """Run one role, or the command `models`. Return the exit status."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["models"]:
        return int(importlib.import_module("worker.models.command").main(given[1:]))
    parser = argparse.ArgumentParser(
        prog="python -m worker", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("role", nargs="?", choices=sorted(ROLES), default="gpu", help=ROLE_HELP)
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
