"""The main loop of the worker's control process; `_turn` is one iteration.

Owns the timing of calls to engine, Redis and object storage, and the response when one of them is
unavailable. Knows no RQ detail (rq_bridge), no torch (engine_link), no encoding (pictures/uploader)
and no rule of how a job ends (held_jobs). Nothing here blocks: the engine keeps running whatever
Redis or object storage do. Invariant: the lease of a held job is renewed at every heartbeat until
the job's end or return is written.
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
AWAY_S = 0.25  # pause before the next call to Redis after a failure
SPOOL_FULL = "object storage is unavailable and the spool is full of images that wait for upload"
IDLE = Beat(step_ms=None, live=0, waiting=0)


class ControlLoop:
    """The worker's main loop. `run` returns once `stop` was called and all jobs are settled."""

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
        self._at = at  # called with each crash point's name, where tests kill the process
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
        """Run jobs until stopped. Raises SettingsError if no model can be loaded."""
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
        """Take no more jobs and finish held ones within `grace_s`; at the second call, end at once.

        Safe in a signal handler: only a time is recorded.
        """
        now_s = time.monotonic()
        grace_s = self._settings.grace_s if self._stop_at_s is None else 0.0
        self._stop_at_s = now_s + grace_s

    def _enter(self) -> None:
        """Register with RQ, retrying until Redis is available or the worker is stopped."""
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
            self._due.pop("beat", None)  # renew the leases first, as soon as Redis is back
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

    # --- events of the engine

    def _hear_engine(self) -> None:
        for event in self._link.poll():
            match event:
                case EngineDied():
                    self._engine_died(event)
                case Ready() | Loading() | Unloadable() | Fatal():
                    self._news.hear(event)
                    self._due.pop("beat", None)  # report at once: clients wait for the model
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

    # --- calls to Redis

    def _obey_commands(self) -> None:
        for command in self._bridge.take_commands():
            name, job_id = command.get("command"), command.get("job_id")
            log.info("command", extra={"command": name, "job_id": job_id})
            if name == "shutdown":
                self.stop()
            for job in self._holding:
                stop_job = name == "stop-job" and job.lease.job_id == job_id
                execution = name == "stop-execution" and command.get("execution_id")
                if stop_job or execution == job.lease.execution_id:
                    self._holding.stop(job)

    def _beat(self) -> None:
        if not self._is_due("beat", self._settings.beat_s):
            return
        now_s = time.monotonic()
        self._holding.fail_those_too_long(now_s)
        self._holding.pace.tick(now_s, {job.spec.model for job in self._holding if job.in_engine})
        leases = [job.lease for job in self._holding] + self._settling.leases
        reply = self._bridge.beat(self._report(), leases)
        self._bridge.tell(self._finishing.tally)
        if reply.draining and self._stop_at_s is None:
            self.stop()  # the shutdown command got lost; Redis gives this worker no more jobs
        self._holding.lose(reply.lost)
        self._settling.forget(reply.lost)

    def _reap(self) -> None:
        if self._is_due("reap", self._settings.reap_s):
            for job_id, state in self._bridge.reap().items():
                log.warning("job.reaped", extra={"job_id": job_id, "became": state})
            for job_id in self._bridge.expire():
                log.info("job.expired", extra={"job_id": job_id})

    def _claim(self) -> None:
        accepting = self._stop_at_s is None and not self._finishing.full
        if not (accepting and self._link.ready):
            return
        for claimed in self._claiming.ask(self._bridge, self._holding):
            self._at("claimed")
            spec = spec_in(claimed, self._bridge.connection)
            self._holding.take(claimed, spec, now_s=time.monotonic())

    # --- timing and report

    def _is_due(self, task: str, period_s: float) -> bool:
        now_s = time.monotonic()
        if now_s < self._due.get(task, 0.0):
            return False
        self._due[task] = now_s + period_s
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
