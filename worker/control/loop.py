"""The control process's loop, read aloud in `_turn`.

Owns the rhythm between engine, Redis and picture store: what is asked and told when, and what
happens while one of them is away. Knows no RQ detail (rq_bridge), no torch (engine_link), no
encoding (finishing) and not how a job ends (holding). Nothing here waits: the engine steps on
whatever Redis or the picture store do. Invariant: a job held is renewed at every beat until its
end or its return is written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from jobs.contract.reports import WorkerReport
from jobs.errors import StoreUnavailable
from worker.control.claims import Claiming
from worker.control.held_jobs import Holding
from worker.control.model_status import ModelNews
from worker.control.pending_writes import Settling
from worker.control.progress_publisher import Telling
from worker.control.spans import Traces
from worker.engine_link import EngineLink
from worker.messages import Beat, EngineDied, Fatal, Loading, Ready, Unloadable
from worker.pictures.input_fetcher import Fetching
from worker.pictures.uploader import Finishing
from worker.rq_bridge import BatchWorker, spec_in
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

TURN_S = 0.02  # the longest sleep; engine events end it at once
AWAY_S = 0.25  # pause before Redis is tried again
SPOOL_FULL = "the picture store is away, and the pictures that wait for it fill the spool"
IDLE = Beat(step_ms=None, live=0, waiting=0)


class ControlLoop:
    """The loop. `run` ends when `stop` was called and everything held is settled."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        bridge: BatchWorker,
        link: EngineLink,
        finishing: Finishing,
        fetching: Fetching,
        models: Iterable[str],
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._bridge = bridge
        self._link = link
        self._finishing = finishing
        self._fetching = fetching
        self._traces = Traces(finishing.tracing, bridge.name)
        self._claiming = Claiming(tuple(models), settings)
        self._at = at  # tests kill the process at the points named here
        self._settling = Settling(bridge, at)
        self._telling = Telling(bridge)
        self._holding = Holding(
            link=link,
            fetching=fetching,
            finishing=finishing,
            settling=self._settling,
            telling=self._telling,
            traces=self._traces,
            at=at,
        )
        self._news = ModelNews(settings.models_file)
        self._engine = IDLE
        self._due: dict[str, float] = {}
        self._away_until_s = 0.0
        self._stop_at_s: float | None = None

    def run(self) -> None:
        """Work until stopped."""
        if self._link.pid is None:
            self._link.start()
        try:
            self._enter()
            while not self._over():
                self._turn()
                self._link.wait(TURN_S)
        finally:
            self._end()

    def stop(self) -> None:
        """Take no more jobs, finish what fits into the grace time; called again: do not wait.

        Safe in a signal handler: it only notes the time.
        """
        now_s = time.monotonic()
        grace_s = self._settings.grace_s if self._stop_at_s is None else 0.0
        self._stop_at_s = now_s + grace_s

    def _enter(self) -> None:
        """Register, however long Redis takes to be there."""
        while self._stop_at_s is None:
            try:
                return self._bridge.enter()
            except StoreUnavailable as error:
                log.warning("redis.away", extra={"reason": str(error), "held": 0})
                self._link.wait(AWAY_S)
        return None

    def _turn(self) -> None:
        self._hear_engine()
        self._holding.collect_inputs()
        self._holding.collect_stored()
        if time.monotonic() < self._away_until_s:
            return
        try:
            self._obey_commands()
            self._beat()
            self._settling.write()
            self._telling.tell(self._holding)
            self._reap()
            self._claim()
        except StoreUnavailable as error:
            self._away_until_s = time.monotonic() + AWAY_S
            self._due.pop("beat", None)  # the leases first, as soon as it is back
            log.warning("redis.away", extra={"reason": str(error), "held": len(self._holding)})

    def _over(self) -> bool:
        if self._stop_at_s is None:
            return False
        return not (self._holding or self._settling) or time.monotonic() >= self._stop_at_s

    def _end(self) -> None:
        self._holding.hand_back_all()
        try:
            self._settling.write()
        except StoreUnavailable:
            log.warning("held.left", extra={"jobs": len(self._settling)})  # their leases run out
        self._bridge.leave()
        self._link.stop(grace_s=1.0)
        self._finishing.close()
        self._traces.close()
        self._fetching.close()
        self._telling.close()

    # --- what the engine says

    def _hear_engine(self) -> None:
        for event in self._link.poll():
            match event:
                case EngineDied():
                    self._engine_died(event)
                case Ready() | Loading() | Unloadable() | Fatal():
                    self._news.hear(event)
                    self._due.pop("beat", None)  # say so at once: somebody waits for it
                case Beat():
                    self._engine = event
                case _:
                    self._holding.hear(event)

    def _engine_died(self, event: EngineDied) -> None:
        self._finishing.tally.add("engine_died", event.cause)
        self._holding.engine_died(event)
        self._engine = IDLE
        self._due.pop("beat", None)
        self._news.hear(event)

    # --- what Redis is asked and told

    def _obey_commands(self) -> None:
        for command in self._bridge.take_commands():
            what, job_id = command.get("command"), command.get("job_id")
            log.info("command", extra={"command": what, "job_id": job_id})
            if what == "shutdown":
                self.stop()
            for job in self._holding:
                named = what == "stop-job" and job.lease.job_id == job_id
                execution = what == "stop-execution" and command.get("execution_id")
                if named or execution == job.lease.execution_id:
                    self._holding.stop(job)

    def _beat(self) -> None:
        if not self._is_due("beat", self._settings.beat_s):
            return
        now_s = time.monotonic()
        self._holding.fail_those_too_long(now_s)
        self._holding.pace.tick(now_s, {job.spec.model for job in self._holding if job.in_engine})
        leases = [job.lease for job in self._holding] + self._settling.leases
        heard = self._bridge.beat(self._report(), leases)
        self._bridge.tell(self._finishing.tally)
        if heard.draining and self._stop_at_s is None:
            self.stop()  # the command got lost: no job is given to us any more
        self._holding.lose(heard.lost)
        self._settling.forget(heard.lost)

    def _reap(self) -> None:
        if self._is_due("reap", self._settings.reap_s):
            for job_id, what in self._bridge.reap().items():
                log.warning("job.reaped", extra={"job_id": job_id, "became": what})
            for job_id in self._bridge.expire():
                log.info("job.expired", extra={"job_id": job_id})

    def _claim(self) -> None:
        open_ = self._stop_at_s is None and not self._finishing.full
        if not (open_ and self._link.ready):
            return
        for claimed in self._claiming.ask(self._bridge, self._holding):
            self._at("claimed")
            spec = spec_in(claimed, self._bridge.connection)
            self._holding.take(claimed, spec, now_s=time.monotonic())

    # --- small things

    def _is_due(self, what: str, period_s: float) -> bool:
        now_s = time.monotonic()
        if now_s < self._due.get(what, 0.0):
            return False
        self._due[what] = now_s + period_s
        return True

    def _report(self) -> WorkerReport:
        jobs = list(self._holding)
        return WorkerReport(
            **self._bridge.identity,
            engine_ready=self._link.ready,
            draining=self._stop_at_s is not None,
            running=len(jobs),
            images=sum(job.in_engine for job in jobs),
            slots=self._settings.slots,
            step_ms=self._engine.step_ms,
            **self._news.report(jobs, self._holding.pace),
            uploads_fail=self._finishing.away,
            held_up=SPOOL_FULL if self._finishing.full else None,
        )
