"""One program of ours: how to start it, see that it is ready, and stop it.

Owns spawning (own session, dies with us), free ports and stopping by own process ID. Knows no
particular program and nothing outside the standard library. Invariant: on Linux nothing
started here outlives the process that started it, not even when that one is SIGKILLed.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.logs import tail

PR_SET_PDEATHSIG = 1
LINUX = sys.platform == "linux"
# looked up before any fork: dlopen in a forked child of a threaded process can hang
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
_handed_out: set[int] = set()
POLL_S = 0.02


class ServiceError(Exception):
    """A program did not start, or is not there; the message says what to do."""


@dataclass(kw_only=True)
class Service:
    """A program that we keep running. `start` may be called again after it has died."""

    name: str
    argv: Sequence[str | Path]
    log: Path
    ready: Callable[[], bool]
    after: Sequence[str] = ()  # start once the services of these names are ready
    uses: Sequence[str] = ()  # stop before these, besides those in `after`
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])  # added to what it inherits
    inherits: Callable[[str], bool] = lambda _name: True  # which of our own variables it gets
    start_s: float = 120.0  # from its start to ready; a slow disk on a busy machine takes a minute
    stop_s: float = 10.0  # from SIGTERM to SIGKILL
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Spawn it, from the main thread (see `_die_with_parent`). Returns at once."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in self.argv],
                env={n: v for n, v in os.environ.items() if self.inherits(n)} | {**self.env},
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                umask=0o077,  # SeaweedFS puts Unix sockets where everybody may look
                start_new_session=True,  # a Ctrl-C reaches us alone: we drain in order
                preexec_fn=_die_with_parent(os.getpid()) if LINUX else None,  # noqa: PLW1509
            )

    @property
    def pid(self) -> int:
        """Its process ID. Raises ServiceError when it was never started."""
        if self.process is None:
            raise ServiceError(f"{self.name} was never started")
        return self.process.pid

    def exit_code(self) -> int | None:
        """How it ended (negative: by that signal), or None while it runs or was never started."""
        return self.process.poll() if self.process else None

    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Block until it is ready. Raises ServiceError, with the end of its log, when it is not."""
        until = time.monotonic() + timeout_s
        while not self.ready():
            if not self.running():
                raise ServiceError(f"{self.name} ended with {self.exit_code()}:\n{self.log_tail()}")
            if time.monotonic() > until:
                raise ServiceError(f"{self.name} not ready in {timeout_s:g} s:\n{self.log_tail()}")
            time.sleep(POLL_S)  # noqa: TID251 - a server tells nobody when it is ready

    def terminate(self) -> None:
        """Ask it to end, without waiting."""
        if self.running():
            self.pid_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask it to end; after `stop_s` make it, with everything in its session."""
        self.terminate()
        if self.process is None:
            return
        try:
            self.process.wait(self.stop_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL it and whatever it left in its session, and wait until it is gone."""
        if self.process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def pid_signal(self, number: int) -> None:
        """Send one signal to this process alone; none when it has just gone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def last_words(self) -> str:
        """The end of its log in sentences: without the lines that are for machines."""
        said = [line for line in self.log_tail().splitlines() if not line.startswith("{")]
        return "\n".join(said) or self.log_tail()

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that it printed."""
        return tail(self.log, lines)


def _die_with_parent(parent: int) -> Callable[[], None]:
    """Run in the child before exec: SIGKILL it when the thread that started it ends.

    Linux ties this to the *thread*: so start services from the main thread only.
    """

    def prepare() -> None:
        assert _libc is not None
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between the fork and prctl
            os._exit(1)

    return prepare


def free_port(*offsets: int, low: int = 12_000, high: int = 21_000) -> int:
    """A port P such that P and every P + offset are free on loopback, never handed out before.

    Below 32768, where Linux begins to take ports for outgoing connections: nothing else of this
    machine grabs it between here and the bind. Random, so that parallel callers rarely meet.
    """
    for _ in range(500):
        port = random.randrange(low, high)  # noqa: S311 - not a secret
        wanted = {port, *(port + offset for offset in offsets)}
        if not wanted & _handed_out and all(port_is_free(p) for p in wanted):
            _handed_out.update(wanted)
            return port
    raise ServiceError(f"no free port between {low} and {high} on 127.0.0.1")


def port_is_free(port: int) -> bool:
    """Whether 127.0.0.1:port can be bound now."""
    with ExitStack() as stack:
        probe = stack.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is not in use
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
