"""One service: a program with its start, readiness check and stop.

Owns spawning (own session, ends with the parent), free ports and stopping by process ID. Knows no
particular program and nothing outside the standard library. Invariant: on Linux no process
started here outlives the process that started it, not even when the parent is SIGKILLed.
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
    """A program that did not start or is missing; the message says what to do next."""


@dataclass(kw_only=True)
class Service:
    """A program that is kept running. `start` may be called again after the program has died."""

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
        """Spawn the program, from the main thread (see `_die_with_parent`), without waiting."""
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
                start_new_session=True,  # a Ctrl-C reaches `up` alone, which stops all in order
                preexec_fn=_die_with_parent(os.getpid()) if LINUX else None,  # noqa: PLW1509
            )

    @property
    def pid(self) -> int:
        """Process ID. Raises ServiceError when the program was never started."""
        if self.process is None:
            raise ServiceError(f"{self.name} was never started")
        return self.process.pid

    def exit_code(self) -> int | None:
        """Return the exit status (negative: a signal), or None while running or never started."""
        return self.process.poll() if self.process else None

    def running(self) -> bool:
        """Return whether the program was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Block until the program is ready. Raises ServiceError, with the end of the log."""
        until = time.monotonic() + timeout_s
        while not self.ready():
            if not self.running():
                raise ServiceError(f"{self.name} ended with {self.exit_code()}:\n{self.log_tail()}")
            if time.monotonic() > until:
                raise ServiceError(f"{self.name} not ready in {timeout_s:g} s:\n{self.log_tail()}")
            time.sleep(POLL_S)  # noqa: TID251 - a server tells nobody when it is ready

    def terminate(self) -> None:
        """Send SIGTERM, without waiting."""
        if self.running():
            self.pid_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Send SIGTERM; after `stop_s` kill the program, with everything in its session."""
        self.terminate()
        if self.process is None:
            return
        try:
            self.process.wait(self.stop_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL the program and all processes of its session, and wait for its end."""
        if self.process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def pid_signal(self, number: int) -> None:
        """Send one signal to this process alone; none when the process has just ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def last_words(self) -> str:
        """Return the end of the log without its JSON lines."""
        said = [line for line in self.log_tail().splitlines() if not line.startswith("{")]
        return "\n".join(said) or self.log_tail()

    def log_tail(self, lines: int = 15) -> str:
        """Return the last `lines` lines of the log."""
        return tail(self.log, lines)


def _die_with_parent(parent: int) -> Callable[[], None]:
    """Return a function for the child, before exec: SIGKILL the child when its parent thread ends.

    Linux ties the signal to the *thread*: so start services from the main thread only.
    """

    def prepare() -> None:
        assert _libc is not None
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between the fork and prctl
            os._exit(1)

    return prepare


def free_port(*offsets: int, low: int = 12_000, high: int = 21_000) -> int:
    """Return a port P such that P and every P + offset are free on loopback and never returned yet.

    Below 32768, where Linux begins to take ports for outgoing connections: no other program of
    this machine takes the port before the bind. Random, so that parallel callers rarely collide.
    Raises ServiceError.
    """
    for _ in range(500):
        port = random.randrange(low, high)  # noqa: S311 - not a secret
        wanted = {port, *(port + offset for offset in offsets)}
        if not wanted & _handed_out and all(port_is_free(p) for p in wanted):
            _handed_out.update(wanted)
            return port
    raise ServiceError(f"no free port between {low} and {high} on 127.0.0.1")


def port_is_free(port: int) -> bool:
    """Return whether 127.0.0.1:port can be bound now."""
    with ExitStack() as stack:
        probe = stack.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is not in use
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
