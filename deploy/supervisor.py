"""Keep a set of services running: start in order, restart what dies, stop in reverse order.

Owns the life cycle of services as a whole. Knows no service by name and nothing of their work.
Invariants: when `stop` has returned, no process that was started here is running; once all were
ready, no error during supervision (a full disk, an odd answer) ends the supervision.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from deploy.logs import MOST_BYTES, bound
from deploy.progress import Progress
from deploy.service import Service, ServiceError

SLOW_S = 30.0  # of starting; then the terminal shows the path of the log
FIRST_TRIES = 3  # a service that ends three times before it was ever ready will not come up
REFUSED = 2  # exit status of a role whose settings must be corrected: no second try helps
BACKOFF_S = 0.25  # doubled by every death in a row
MAX_BACKOFF_S = 10.0
STEADY_S = 30.0  # alive for so long, the next death counts as the first again
TELL_AGAIN_S = 1.0  # until up.json is written again after a failure: the disk may be full
LOGS_S = 1.0  # between two checks of the logs' sizes
STARTING_POLL_S = 0.05
STEADY_POLL_S = 0.1  # the longest delay until a death is noticed


class State(Enum):
    """The state of a service."""

    WAITING = auto()  # for services that start before, or for the backoff
    STARTING = auto()
    READY = auto()


@dataclass
class SupervisedService:
    """One service, its state, and its deaths in a row."""

    service: Service
    state: State = State.WAITING
    since: float = 0.0  # of the last start, on the monotonic clock
    not_before: float = 0.0
    deaths: int = 0  # in a row
    was_ready: bool = False
    troubles: set[str] = field(default_factory=set[str])  # errors so far, each reported once


class Supervisor:
    """A supervisor of `services`, given in the order of their start."""

    def __init__(
        self,
        services: Sequence[Service],
        progress: Progress,
        *,
        changed: Callable[[Mapping[str, int]], None],
        most_log_bytes: int = MOST_BYTES,
    ) -> None:
        self._kept = {service.name: SupervisedService(service) for service in services}
        self._progress = progress
        self._slow_said = ""
        self._changed = changed  # called with all process IDs when one of them changes
        self._most_log_bytes = most_log_bytes
        self._untold = False
        self._tell_at = self._bound_at = 0.0

    def pids(self) -> dict[str, int]:
        """Return the process IDs, by service name."""
        return {n: k.service.pid for n, k in self._kept.items() if k.service.process}

    def start(self, interrupted: Callable[[], bool]) -> bool:
        """Start all; False when interrupted. Raises ServiceError when a service does not start."""
        while not self.ready():
            if interrupted():
                return False
            self.tick()
            self._show_start()
            time.sleep(STARTING_POLL_S)  # noqa: TID251 - processes tell nobody when they are ready
        self._progress.clear()
        return True

    def watch(self, interrupted: Callable[[], bool]) -> None:
        """Keep all running until interrupted."""
        while not interrupted():
            self.tick()
            time.sleep(STEADY_POLL_S)  # noqa: TID251 - a signal ends it early

    def ready(self) -> bool:
        """Return whether every service is ready."""
        return all(kept.state is State.READY for kept in self._kept.values())

    def tick(self) -> None:
        """Check every service once: start, restart or bound its log as needed.

        Raises ServiceError where a service does not start at all; any other error is reported
        once, and the step is tried again at the next tick.
        """
        now = time.monotonic()
        for kept in self._kept.values():
            self._fenced(kept, lambda kept=kept: self._look_after(kept, now))
        if now >= self._bound_at:
            self._bound_at = now + LOGS_S
            for kept in self._kept.values():
                self._fenced(kept, lambda kept=kept: self._bound_log(kept))
        if self._untold and now >= self._tell_at:
            self.tell()

    def tell(self) -> None:
        """Publish the process IDs; report a failure once and try again in a later tick."""
        try:
            self._changed(self.pids())
        except OSError as error:
            if not self._untold:
                self._progress.say(f"cannot write the process IDs yet: {_why(error)}; trying again")
            self._untold, self._tell_at = True, time.monotonic() + TELL_AGAIN_S
        else:
            self._untold = False

    def _bound_log(self, kept: SupervisedService) -> None:
        bound(kept.service.log, self._most_log_bytes)

    def _look_after(self, kept: SupervisedService, now: float) -> None:
        if kept.state is State.WAITING:
            self._start_if_due(kept, now)
        elif kept.service.exit_code() is not None:
            self._note_death(kept, now)
        elif kept.state is State.STARTING:
            self._note_ready_or_late(kept, now)

    def _fenced(self, kept: SupervisedService, act: Callable[[], object]) -> bool:
        """Run `act`; return False after an error, so that no service's error stops the others."""
        try:
            act()
        except ServiceError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are looked after
            if (why := _why(error)) not in kept.troubles:
                kept.troubles.add(why)
                self._progress.say(f"{kept.service.name}: {why}; trying again")
            return False
        return True

    def stop(self, *, at_once: Callable[[], bool]) -> None:
        """Stop all services: each after its users, independent services together."""
        running = [kept.service for kept in self._kept.values() if kept.service.running()]
        while running:
            needed = {name for service in running for name in (*service.after, *service.uses)}
            leaves = [service for service in running if service.name not in needed]
            self._stop_together(leaves, at_once)
            running = [service for service in running if service not in leaves]
        self._progress.clear()

    def _start_if_due(self, kept: SupervisedService, now: float) -> None:
        before = (self._kept[n] for n in kept.service.after if n in self._kept)
        # once up, a service copes with others being unavailable: only the first start is in order
        if now < kept.not_before:
            return
        if not kept.was_ready and not all(other.state is State.READY for other in before):
            return
        kept.since = now
        if not self._fenced(kept, kept.service.start):
            self._note_no_start(kept, now)
            return
        kept.state = State.STARTING
        if kept.was_ready:
            self.tell()

    def _note_no_start(self, kept: SupervisedService, now: float) -> None:
        """Note that a service could not be spawned: no such program, full disk, no memory."""
        kept.deaths += 1
        if not kept.was_ready and kept.deaths >= FIRST_TRIES:
            raise ServiceError(
                f"{kept.service.name} cannot be started: {'; '.join(sorted(kept.troubles))}"
            )
        kept.not_before = now + _backoff_s(kept.deaths)

    def _note_ready_or_late(self, kept: SupervisedService, now: float) -> None:
        answers: list[bool] = []
        if self._fenced(kept, lambda: answers.append(kept.service.ready())) and answers[0]:
            if kept.was_ready:
                self._progress.say(f"{kept.service.name} is back")
            kept.state, kept.was_ready = State.READY, True
            kept.troubles.clear()
        elif now - kept.since > kept.service.start_s:
            if not kept.was_ready:
                raise _given_up(kept.service, f"is not ready after {kept.service.start_s:g} s")
            kept.service.kill()  # it was ready once: the next tick starts it again

    def _note_death(self, kept: SupervisedService, now: float) -> None:
        service = kept.service
        how = _how(service.exit_code() or 0)
        kept.deaths = 1 if now - kept.since > STEADY_S else kept.deaths + 1
        if not kept.was_ready and service.exit_code() == REFUSED:
            raise ServiceError(f"{service.name} cannot start.\n{service.last_words()}")
        if not kept.was_ready and kept.deaths >= FIRST_TRIES:
            raise _given_up(service, f"{how}, {kept.deaths} times")
        service.kill()  # what it left in its session
        delay = _backoff_s(kept.deaths)
        self._progress.say(f"{service.name} {how}; starting it again in {delay:g} s")
        kept.state, kept.not_before = State.WAITING, now + delay

    def _stop_together(self, services: Sequence[Service], at_once: Callable[[], bool]) -> None:
        for service in services:
            service.terminate()
        started = time.monotonic()
        waiting = list(services)
        while waiting:
            self._progress.show("stopping", ", ".join(service.name for service in waiting))
            late = [s for s in waiting if at_once() or time.monotonic() - started > s.stop_s]
            for service in late:
                service.kill()
            waiting = [service for service in waiting if service.running()]
            time.sleep(STARTING_POLL_S)  # noqa: TID251 - as in start
        for service in services:
            service.kill()  # what it left in its session, and its own traces

    def _show_start(self) -> None:
        started = [kept for kept in self._kept.values() if kept.state is State.STARTING]
        slow = [kept for kept in started if time.monotonic() - kept.since > SLOW_S]
        logs = ", ".join(str(kept.service.log) for kept in slow)
        self._progress.show("starting", ", ".join(kept.service.name for kept in started))
        if logs and logs != self._slow_said:
            self._progress.say(f"still starting; see the log: {logs}")
            self._slow_said = logs


def _backoff_s(deaths: int) -> float:
    """Return the seconds to wait after the n-th death in a row."""
    return min(BACKOFF_S * 2 ** min(deaths - 1, 10), MAX_BACKOFF_S)


def _why(error: Exception) -> str:
    """Return the reason of an error, with the operating system's message if there is one."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"


def _given_up(service: Service, why: str) -> ServiceError:
    """Return the error that ends a start, with the end of the service's log."""
    return ServiceError(
        f"{service.name} {why}; the end of its log ({service.log}):\n{service.log_tail()}"
    )


def _how(code: int) -> str:
    """Return the end of a process in words, from its exit status."""
    if code >= 0:
        return f"ended with status {code}"
    return f"was killed by {signal.Signals(-code).name}"
