"""Connections of one process: their limit, and the order in which idle ones are closed.

Owns the limit, set below the process's limit of open files, and the list of connections that are
idle. Knows no HTTP. Invariant: idle connections never keep out a new client: at a
limit of 1,024 files 1,014 idle connections once shut out all others for 33 s, while asyncio
wrote 145,407 tracebacks.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from uvicorn.server import ServerState

from jobs.errors import SettingsError

log = logging.getLogger(__name__)
FILES = 8_192  # the soft limit is raised to this if the hard limit allows
OWN_FILES = 96  # Redis 32, S3 32, decoders 6, and Python's own
READ_BYTES = 8 * 1024  # read from a socket at a time: 1,400 chunks of one byte, parsed in 7 ms
ACCEPTS = 64  # new connections per turn of the loop, all before the first of them is served
WAITING = 2_048  # connections in the kernel's backlog meanwhile
STALLED_S = 5.0  # a client that has read nothing for so long may be closed for a new one


class Connection(Protocol):
    """A connection that can be closed to make room."""

    def evict(self) -> None:
        """Close the connection now, to make room for another."""


class Connections(ServerState):
    """uvicorn's server state, and the connections that may be closed, in order."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.most = most
        self.buffer = bytearray(READ_BYTES)  # shared by all reads: each is parsed before the next
        self._clock = clock
        self._idle: dict[Connection, None] = {}  # longest first
        self._stalled: dict[Connection, float] = {}  # longest first; since when
        self._seldom = Seldom(clock)

    def make_room(self, new: Connection) -> bool:
        """Return True if `new` may stay; above the limit, close the longest idle connection."""
        if len(self.connections) <= self.most:
            return True
        longest = next((c for c in self._idle if c is not new), None) or self._longest_stalled()
        left_out = self._seldom.due("full")
        if left_out is not None:
            said = {"most": self.most, "left_out": left_out, "closed_one": longest is not None}
            log.warning("api.connections_full", extra=said)
        if longest is None:
            return False
        self.forget(longest)
        longest.evict()
        return True

    def idle(self, connection: Connection) -> None:
        """Mark the connection as idle: no request is under way."""
        if connection not in self._idle:
            self._idle[connection] = None

    def busy(self, connection: Connection) -> None:
        """Mark the connection as busy: a request is under way."""
        self._idle.pop(connection, None)

    def stalled(self, connection: Connection) -> None:
        """Mark the connection as stalled: the client does not read its response."""
        self._stalled[connection] = self._clock()

    def reads(self, connection: Connection) -> None:
        """Mark the connection as no longer stalled: the client has read."""
        self._stalled.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        """Drop the connection: it is closed."""
        self._idle.pop(connection, None)
        self._stalled.pop(connection, None)
        self.connections.discard(connection)  # type: ignore[arg-type]

    def _longest_stalled(self) -> Connection | None:
        longest, since = next(iter(self._stalled.items()), (None, 0.0))
        return longest if self._clock() - since >= STALLED_S else None


class Seldom:
    """Rate limit of log lines: one per second at most for each cause."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, every_s: float = 1.0
    ) -> None:
        self._clock = clock
        self._every_s = every_s
        self._told: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def due(self, cause: str) -> int | None:
        """Return how often `cause` was left out since the last line; None: leave it out now."""
        now_s = self._clock()
        if now_s - self._told.get(cause, float("-inf")) < self._every_s:
            self._left_out[cause] += 1
            return None
        self._told[cause] = now_s
        return self._left_out.pop(cause, 0)


def log_seldom(loop: asyncio.AbstractEventLoop) -> None:
    """Make the loop log its errors once a second at most for each cause.

    Out of files, asyncio tries to accept once per entry of its backlog, with a traceback each.
    """
    seldom = Seldom()

    def tell(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        left_out = seldom.due(f"{context['message']} {type(error).__name__}")
        if left_out is not None:
            said = {"reason": context["message"], "left_out": left_out}
            known = isinstance(error, OSError)  # an error of the system: a traceback adds nothing
            if known:
                said["error"] = str(error)
            log.error("api.loop_error", exc_info=None if known else error, extra=said)

    loop.set_exception_handler(tell)
    logging.getLogger("uvicorn.error").addFilter(_SeldomFilter())


class _SeldomFilter(logging.Filter):
    """Filter that passes warnings of one text once a second: each request can cause one."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the record is to be written."""
        if record.levelno < logging.WARNING:
            return True
        left_out = self._seldom.due(str(record.msg))
        if left_out:
            record.left_out = left_out
        return left_out is not None


def open_files() -> int:
    """Return the limit of open files of this process, raised as far as possible up to `FILES`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = FILES if soft == resource.RLIM_INFINITY else soft
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # macOS has a lower limit than it reports
            return soft
    return max(soft, wanted)


def accepts_of(files: int) -> int:
    """Return the number of connections to accept in one turn of the loop."""
    return max(1, min(ACCEPTS, files // 8))


def downloads_of(files: int, asked: int) -> int:
    """Return the limit of downloads: each has a file of its own besides its connection."""
    return max(1, min(asked, files // 8))


def connections_of(files: int, asked: int | None, *, downloads: int) -> int:
    """Return the limit of connections. Raises SettingsError if `asked` is too high."""
    most = files - min(OWN_FILES, files // 3) - accepts_of(files) - downloads
    if asked is not None and asked > most:
        raise SettingsError(
            f"PRINTWORKS_API_MAX_CONNECTIONS={asked}, but {files} open files allow "
            f"{most} connections: lower the setting, or raise the limit (ulimit -n)"
        )
    return asked or most
