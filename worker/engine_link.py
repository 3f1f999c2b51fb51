"""Supervises the engine process: spawn, send and receive messages, detect hangs, respawn.

Owns the child process, its socket and the set of images submitted to the child. Knows no torch, no
Redis and no job. One thread calls EngineLink; a second, private thread only reads the socket, so
that a child stopped in mid-message can never stop its parent. Invariant: every image submitted ends
in one event, if need be as a lost ID of EngineDied.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

from worker.engine_environ import engine_environ
from worker.messages import (
    Beat,
    Cancel,
    Canceled,
    Command,
    DeathCause,
    EngineConfig,
    EngineDied,
    Event,
    Failed,
    Fatal,
    Finished,
    ImageRequest,
    Loading,
    Ready,
    Stop,
    Submit,
    Unloadable,
)

log = logging.getLogger(__name__)

QUIET_S = 30.0  # no message for so long, and for ten steps: the child hangs in a kernel or a loop
QUIET_STEPS = 10
LOOK_S = 3.0  # longest time one check counts; a loop that waits for Redis takes about two
LOADING_QUIET_S = 600.0  # weights from a slow disk, a self-test at a new size: no beats meanwhile
SEND_TIMEOUT_S = 10  # a child that reads no commands for this long hangs, too
ENGINE = (sys.executable, "-m", "worker.engine")  # arguments: socket, parent's PID
FIRST_RESPAWN_S, LAST_RESPAWN_S = 0.1, 30.0


class EngineAway(RuntimeError):
    """The engine is not ready to take images; check `ready` first."""


class EngineLink:
    """One engine process, respawned when it dies; call `poll` and `wait` in turn, `stop` to end."""

    def __init__(
        self,
        config: EngineConfig,
        program: Sequence[str] = ENGINE,
        *,
        quiet_s: float = QUIET_S,
        clock: Callable[[], float] = time.monotonic,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config
        self._environ = engine_environ() if environ is None else environ
        self._program = program
        self._silence = lambda: HangDetector(quiet_s, clock)
        self._clock = clock
        self._child: _Child | None = None
        self._given: set[str] = set()
        self._respawn_s = FIRST_RESPAWN_S
        self._respawn_at_s: float | None = None
        self._wake = threading.Event()

    def start(self) -> None:
        """Spawn the engine process; `ready` becomes true some seconds later."""
        self._child = _Child(
            self._program, self._config, self._environ, self._wake, self._silence()
        )
        self._respawn_at_s = None

    @property
    def ready(self) -> bool:
        """True while models are loaded and images may be submitted."""
        return self._child is not None and self._child.ready

    @property
    def pid(self) -> int | None:
        """The engine's process ID, or None between death and respawn."""
        return self._child.pid if self._child else None

    def submit(self, request: ImageRequest) -> None:
        """Submit one image to the engine. Raises EngineAway unless `ready`."""
        if self._child is None or not self._child.ready:
            raise EngineAway("the engine is loading or being respawned; submit once it is ready")
        self._given.add(request.id)
        self._child.send(Submit(request))

    def cancel(self, request_id: str) -> None:
        """Cancel one image, which then ends as Canceled, or as Finished or Failed before that."""
        if self._child is not None:
            self._child.send(Cancel(request_id))

    def poll(self) -> list[Event]:
        """Return the engine's events since the last call. Never blocks."""
        self._wake.clear()
        events: list[Event] = []
        if self._child is not None:
            events += [self._seen(event) for event in self._child.received()]
            if (cause := self._child.dead_or_hung()) is not None:
                events.append(self._bury(self._child, cause))
        if self._respawn_at_s is not None and self._clock() >= self._respawn_at_s:
            self.start()
        return events

    def wait(self, timeout_s: float) -> bool:
        """Sleep up to `timeout_s`, or until an event came. Return True if an event came."""
        return self._wake.wait(timeout_s)

    def stop(self, grace_s: float) -> None:
        """Stop the engine process and kill it after `grace_s`. Lost images are not reported."""
        self._respawn_at_s = None
        if self._child is not None:
            self._child.end(grace_s)
            self._child = None
        self._given.clear()

    def _seen(self, event: Event) -> Event:
        match event:
            case Ready():
                self._respawn_s = FIRST_RESPAWN_S
            case Finished(id=ended) | Failed(id=ended) | Canceled(id=ended):
                self._given.discard(ended)
            case _:
                pass
        return event

    def _bury(self, child: _Child, cause: DeathCause) -> EngineDied:
        exitcode = child.kill()
        lost, self._given = tuple(sorted(self._given)), set()
        self._child = None
        self._respawn_at_s = self._clock() + self._respawn_s
        self._respawn_s = min(LAST_RESPAWN_S, self._respawn_s * 2)
        log.warning("engine.died", extra={"cause": cause, "exitcode": exitcode, "lost": len(lost)})
        return EngineDied(cause=cause, exitcode=exitcode, detail=child.detail, lost_ids=lost)


class HangDetector:
    """Measures how long a child has sent no message while the control process was reading.

    A worker that was frozen for an hour (SIGSTOP, a host at its limit) wakes with an hour of
    messages to read: one check adds LOOK_S at most, however long ago the last check was.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self.heard = 0  # messages so far; counted by the reading thread
        self.step_ms = 0.0
        self._noted = 0
        self._looked_s = clock()
        self._silent_s = 0.0

    def too_long(self, *, loading: bool) -> bool:
        """Return True if the child counts as hung; ten of the child's steps are never too long."""
        now_s, heard = self._clock(), self.heard
        self._silent_s += min(LOOK_S, now_s - self._looked_s)
        self._looked_s = now_s
        if heard != self._noted:
            self._noted, self._silent_s = heard, 0.0
        limit_s = max(self._limit_s, QUIET_STEPS * self.step_ms / 1000)
        return self._silent_s > (LOADING_QUIET_S if loading else limit_s)


class _Child:
    """One incarnation of the engine process: its socket, its inbox, its hang detector."""

    def __init__(
        self,
        program: Sequence[str],
        config: EngineConfig,
        environ: Mapping[str, str],
        wake: threading.Event,
        silence: HangDetector,
    ) -> None:
        ours, theirs = socket.socketpair()
        # Raw timeval (s, us): a child that hangs must not block our writes without end.
        timeout = SEND_TIMEOUT_S.to_bytes(8, sys.byteorder) + bytes(8)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*program, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environ,
            )
        self._pipe: Connection[Command | EngineConfig, Event] = Connection(ours.detach())
        self._inbox: deque[Event] = deque()
        self._wake = wake
        self._silence = silence
        self._eof = False
        self._stuck = False
        self._loading = True
        self.ready = False
        self.detail = ""
        self.send(config)
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Command | EngineConfig) -> None:
        """Send one message; a dead child shows as EOF, a child that does not read as hung."""
        try:
            self._pipe.send(message)
        except BlockingIOError:
            self._stuck = True
        except OSError:
            pass  # the child died: the reader meets the EOF and `dead_or_hung` reports the death

    def received(self) -> list[Event]:
        events: list[Event] = []
        while self._inbox:
            event = self._inbox.popleft()
            self._note(event)
            events.append(event)
        return events

    def _note(self, event: Event) -> None:
        match event:
            case Ready():
                self.ready, self._loading = True, False
            case Loading(fraction=fraction):
                self._loading = fraction < 1.0
            case Unloadable():
                self._loading = False
            case Beat(step_ms=step_ms):
                self._silence.step_ms = step_ms or 0.0
            case Fatal(code=code, message=message):
                self.detail = f"{code}: {message}"
            case _:
                pass

    def dead_or_hung(self) -> DeathCause | None:
        if self._eof and not self._inbox:
            if not self.ready:
                return "failed_to_start"
            code = self._reap(timeout_s=1.0)
            return "killed" if code is not None and code < 0 else "exited"
        if self._silence.too_long(loading=self._loading or not self.ready) or self._stuck:
            return "hung"
        return None

    def kill(self) -> int | None:
        """Kill the child if it still runs. Return its exit code."""
        with suppress(ProcessLookupError):
            self._process.kill()
        code = self._reap(timeout_s=5.0)
        self._reader.join(timeout=1.0)
        self._pipe.close()
        return code

    def end(self, grace_s: float) -> None:
        self.send(Stop())
        if self._reap(timeout_s=grace_s) is None:
            log.warning("engine.killed", extra={"pid": self.pid, "grace_s": grace_s})
        self.kill()

    def _reap(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _read(self) -> None:
        try:
            while True:
                event = self._pipe.recv()
                self._silence.heard += 1
                self._inbox.append(event)
                self._wake.set()
        except (EOFError, OSError):
            self._eof = True
            self._wake.set()
