"""The connections of one process: how many there may be, and which are closed first.

Owns their number, set below the process's limit of open files, and the line of those that wait for
nothing. Knows no HTTP. Invariant: a new client is never kept out by those who ask for nothing: at a
limit of 1,024 files 1,014 idle connections once shut everybody else out for 33 s, while asyncio
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
FILES = 8_192  # what the soft limit is raised to, where the hard one allows it
OWN_FILES = 96  # Redis 32, S3 32, decoders 6, and what Python has open
READ_BYTES = 8 * 1024  # taken from a socket at a time: 1,400 chunks of one byte, parsed in 7 ms
ACCEPTS = 64  # new connections a turn of the loop, all before the first of them is looked at
WAITING = 2_048  # connections that the kernel keeps meanwhile
STALLED_S = 5.0  # a client that has read nothing for so long may be closed for a new one


class Connection(Protocol):
    """What this file knows of one."""

    def evict(self) -> None:
        """Close it now, for another's sake."""


class Connections(ServerState):
    """uvicorn's state of a server, and the line of connections that may be closed."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.most = most
        self.buffer = bytearray(READ_BYTES)  # every read's: it is parsed before the next
        self._clock = clock
        self._idle: dict[Connection, None] = {}  # longest first
        self._stalled: dict[Connection, float] = {}  # longest first; since when
        self._seldom = Seldom(clock)

    def make_room(self, new: Connection) -> bool:
        """Whether `new` may stay; where there are too many, the longest idle one is closed."""
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
        """It waits for nothing of ours: no request of it is under way."""
        if connection not in self._idle:
            self._idle[connection] = None

    def busy(self, connection: Connection) -> None:
        """A request of it is under way."""
        self._idle.pop(connection, None)

    def stalled(self, connection: Connection) -> None:
        """Its client does not read what it asked for."""
        self._stalled[connection] = self._clock()

    def reads(self, connection: Connection) -> None:
        """Its client has read."""
        self._stalled.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._idle.pop(connection, None)
        self._stalled.pop(connection, None)
        self.connections.discard(connection)  # type: ignore[arg-type]

    def _longest_stalled(self) -> Connection | None:
        longest, since = next(iter(self._stalled.items()), (None, 0.0))
        return longest if self._clock() - since >= STALLED_S else None


class Seldom:
    """One line a second at most for each cause."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, every_s: float = 1.0
    ) -> None:
        self._clock = clock
        self._every_s = every_s
        self._told: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def due(self, cause: str) -> int | None:
        """How often `cause` was left out since it was told; None: leave it out now."""
        now_s = self._clock()
        if now_s - self._told.get(cause, float("-inf")) < self._every_s:
            self._left_out[cause] += 1
            return None
        self._told[cause] = now_s
        return self._left_out.pop(cause, 0)


def log_seldom(loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop log what goes wrong in it once a second for each cause.

    Out of files, asyncio tries to accept as often as its backlog is long, with a traceback each.
    """
    seldom = Seldom()

    def tell(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        left_out = seldom.due(f"{context['message']} {type(error).__name__}")
        if left_out is not None:
            said = {"reason": context["message"], "left_out": left_out}
            known = isinstance(error, OSError)  # the system's doing: where it was met says nothing
            if known:
                said["error"] = str(error)
            log.error("api.loop_error", exc_info=None if known else error, extra=said)

    loop.set_exception_handler(tell)
    logging.getLogger("uvicorn.error").addFilter(_SeldomFilter())


class _SeldomFilter(logging.Filter):
    """Warnings of one text pass once a second: a client can have one written for each request."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if record.levelno < logging.WARNING:
            return True
        left_out = self._seldom.due(str(record.msg))
        if left_out:
            record.left_out = left_out
        return left_out is not None


def open_files() -> int:
    """How many files this process may open; raised as far as it may be, up to `FILES`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = FILES if soft == resource.RLIM_INFINITY else soft
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # macOS has a lower limit than it says
            return soft
    return max(soft, wanted)


def accepts_of(files: int) -> int:
    """How many connections may be accepted in one turn of the loop."""
    return max(1, min(ACCEPTS, files // 8))


def downloads_of(files: int, asked: int) -> int:
    """How many pictures may be sent at once: each has a file of its own besides its connection."""
    return max(1, min(asked, files // 8))


def connections_of(files: int, asked: int | None, *, downloads: int) -> int:
    """How many connections there may be. Raises SettingsError where `asked` is too many."""
    most = files - min(OWN_FILES, files // 3) - accepts_of(files) - downloads
    if asked is not None and asked > most:
        raise SettingsError(
            f"PRINTWORKS_API_MAX_CONNECTIONS={asked}, but with {files} open files there is room "
            f"for {most}: ask for fewer, or raise the limit (ulimit -n)"
        )
    return asked or most
