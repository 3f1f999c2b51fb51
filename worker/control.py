"""The control process's loop: it holds jobs, and is read aloud in `_turn`.

Owns which jobs this worker holds and what is still to be written about them. Knows no RQ detail
(rq_bridge), no torch (engine_link), no encoding (finishing). Nothing here waits: the engine steps
on whatever Redis or the picture store do. Invariant: a job held is renewed at every beat until its
end or its return is written; what is lost is dropped, and nothing is written about it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import assert_never

from jobs.errors import StoreUnavailable
from jobs.overview import WorkerReport
from jobs.record import JobError
from jobs.scripts.worker_calls import Claimed
from worker.claiming import Claiming
from worker.engine_link import EngineAway, EngineLink
from worker.fetching import Fetching
from worker.finishing import Finishing, Stored, ToStore
from worker.held import HeldImage, HeldJob, held_from
from worker.messages import (
    Beat,
    Canceled,
    EngineDied,
    Failed,
    Fatal,
    Finished,
    ImageEvent,
    Loading,
    Preview,
    Progress,
    Ready,
    Started,
    Unloadable,
)
from worker.model_news import ModelNews
from worker.pace import Pace
from worker.rq_bridge import BatchWorker, spec_in
from worker.settings import WorkerSettings
from worker.settling import Settling
from worker.telling import Telling
from worker.traces import Traces

log = logging.getLogger(__name__)

TURN_S = 0.02  # the longest sleep; engine events end it at once
AWAY_S = 0.25  # pause before Redis is tried again
SPOOL_FULL = "the picture store is away, and the pictures that wait for it fill the spool"

FORGED = JobError(code="invalid_job", message="this is no job of the service", retryable=False)
TOO_LONG = JobError(
    code="timeout", message="it ran longer than one job may; ask for less", retryable=False
)
INPUT_GONE = JobError(
    code="input_missing", message="the picture that it begins with was erased", retryable=False
)


class Control:
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
        self._held: dict[str, HeldJob] = {}  # by execution ID
        self._images: dict[str, tuple[HeldJob, HeldImage]] = {}  # all that the engine has of us
        self._settling = Settling(bridge, at)
        self._telling = Telling(bridge)
        self._pace = Pace()
        self._news = ModelNews(settings.models_file)
        self._engine = Beat(step_ms=None, live=0, waiting=0)
        self._due: dict[str, float] = {}
        self._away_until_s = 0.0
        self._suspended = False
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
        self._collect_inputs()
        self._collect_stored()
        if time.monotonic() < self._away_until_s:
            return
        try:
            self._obey_commands()
            self._beat()
            self._settling.write()
            self._telling.tell(self._held.values())
            self._reap()
            self._claim()
        except StoreUnavailable as error:
            self._away_until_s = time.monotonic() + AWAY_S
            self._due.pop("beat", None)  # the leases first, as soon as it is back
            log.warning("redis.away", extra={"reason": str(error), "held": len(self._held)})

    def _over(self) -> bool:
        if self._stop_at_s is None:
            return False
        return not (self._held or self._settling) or time.monotonic() >= self._stop_at_s

    def _end(self) -> None:
        for job in list(self._held.values()):
            self._drop(job)
            self._settling.hand_back(job.lease, "drain")
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
                    self._hear_of_image(event)

    def _hear_of_image(self, event: ImageEvent) -> None:
        job, image = self._images.get(event.id, (None, None))
        if job is None or image is None:
            return
        self._traces.heard(job, event)
        match event:
            case Started() | Progress():
                self._pace.did(job.spec.model, job.note(image, event))
            case Preview():
                self._telling.show(job, image.index, event)
            case Finished():
                self._pace.did(job.spec.model, job.note(image, event))
                self._at("finished")
                self._store(job, image, event)
            case Failed():
                self._image_failed(job, event)
            case Canceled():
                image.calls = event.calls
            case _:
                assert_never(event)
        if isinstance(event, Canceled | Failed):
            del self._images[event.id]
            if not any(owner is job for owner, _ in self._images.values()):
                self._telling.spend(job)

    def _store(self, job: HeldJob, image: HeldImage, finished: Finished) -> None:
        if not self._holds(job):
            del self._images[finished.id]
            return
        self._finishing.store(
            ToStore(
                image_id=finished.id,
                job_id=job.lease.job_id,
                tenant=job.tenant,
                index=image.index,
                seed=image.seed,
                spec=job.spec,
                finished=finished,
                trace=job.span.traceparent,
            )
        )

    def _image_failed(self, job: HeldJob, event: Failed) -> None:
        if not self._holds(job):
            return
        self._drop(job, event.code)
        error = JobError(code=event.code, message=event.message, retryable=event.retryable)
        if event.code == "deadline_exceeded":
            self._settling.hand_back(job.lease, "drain")  # which expires it: its time is over
        else:
            self._retry_or_fail(job, error, again=event.retryable)

    def _retry_or_fail(self, job: HeldJob, error: JobError, *, again: bool) -> None:
        if again and job.retries_left > 0:
            self._settling.hand_back(job.lease, "retry")
        else:
            self._settling.fail(job.lease, error)

    def _engine_died(self, event: EngineDied) -> None:
        """Its jobs go back at once; those that it was working on are suspected of it."""
        self._finishing.tally.add("engine_died", event.cause)
        hit = {
            self._images[i][0].lease: self._images[i][0]
            for i in event.lost_ids
            if i in self._images
        }
        suspects = {lease for lease, job in hit.items() if job.live}
        for lease, job in hit.items():
            if self._holds(job):
                self._drop(job, "engine_died")
                self._settling.hand_back(lease, "crash" if lease in suspects else "drain")
        for image_id in event.lost_ids:
            self._images.pop(image_id, None)
        self._engine = Beat(step_ms=None, live=0, waiting=0)
        self._due.pop("beat", None)
        self._news.hear(event)

    # --- what became of pictures

    def _collect_stored(self) -> None:
        for ended in self._finishing.done():
            job, image = self._images.pop(ended.image_id, (None, None))
            if job is None or image is None or not self._holds(job):
                continue
            if isinstance(ended, Stored):
                image.stored, image.upload_ms = ended.image, ended.upload_ms
                self._at("stored")
                if job.complete:
                    del self._held[job.lease.execution_id]
                    self._traces.ended(job, "succeeded")
                    self._settling.finish(job.lease, job.success())
            else:
                self._drop(job, ended.error.code)
                self._retry_or_fail(job, ended.error, again=ended.again)

    # --- what Redis is asked and told

    def _obey_commands(self) -> None:
        for command in self._bridge.take_commands():
            what, job_id = command.get("command"), command.get("job_id")
            log.info("command", extra={"command": what, "job_id": job_id})
            if what == "shutdown":
                self.stop()
            for job in list(self._held.values()):
                named = what == "stop-job" and job.lease.job_id == job_id
                execution = what == "stop-execution" and command.get("execution_id")
                if named or execution == job.lease.execution_id:
                    self._drop(job, "canceled")
                    self._settling.stop(job.lease)  # written only if cancel.lua has not been there

    def _beat(self) -> None:
        if not self._is_due("beat", self._settings.beat_s):
            return
        self._fail_those_too_long()
        self._pace.tick(
            time.monotonic(), {j.spec.model for j in self._held.values() if j.in_engine}
        )
        leases = [j.lease for j in self._held.values()] + self._settling.leases
        heard = self._bridge.beat(self._report(), leases)
        self._bridge.tell(self._finishing.tally)
        self._suspended = heard.suspended
        for job in list(self._held.values()):
            if job.lease.both in heard.lost:
                log.info("lease.lost", extra={"job_id": job.lease.job_id})
                self._drop(job, "lease_lost")
        self._settling.forget(heard.lost)

    def _fail_those_too_long(self) -> None:
        now_s = time.monotonic()
        for job in [j for j in self._held.values() if j.stop_at_s < now_s]:
            self._drop(job, TOO_LONG.code)
            self._settling.fail(job.lease, TOO_LONG)

    def _reap(self) -> None:
        if self._is_due("reap", self._settings.reap_s):
            for job_id, what in self._bridge.reap().items():
                log.warning("job.reaped", extra={"job_id": job_id, "became": what})
            for job_id in self._bridge.expire():
                log.info("job.expired", extra={"job_id": job_id})

    def _claim(self) -> None:
        open_ = self._stop_at_s is None and not self._suspended and not self._finishing.full
        if not (open_ and self._link.ready):
            return
        for claimed in self._claiming.ask(self._bridge, self._held.values()):
            self._at("claimed")
            self._take(claimed)

    def _take(self, claimed: Claimed) -> None:
        spec = spec_in(claimed, self._bridge.connection)
        job = held_from(claimed, spec, now_s=time.monotonic()) if spec else None
        if job is None:
            self._settling.fail(claimed.lease, FORGED)
            return
        self._held[claimed.lease.execution_id] = job
        self._traces.claimed(job)
        if job.waits:
            self._fetching.fetch(claimed.lease.execution_id, job.input_keys)
        else:
            self._submit(job)

    def _collect_inputs(self) -> None:
        for fetched in self._fetching.done():
            job = self._held.get(fetched.execution_id)
            if job is None:
                continue
            if fetched.pictures is None:
                self._drop(job)
                self._settling.fail(job.lease, INPUT_GONE)
            else:
                job.pictures = fetched.pictures
                self._submit(job)

    def _submit(self, job: HeldJob) -> None:
        try:
            for image in job.images:
                self._images[job.image_id(image)] = (job, image)
                self._link.submit(job.request(image))
        except EngineAway:  # it died just now, and says so at the next poll
            self._drop(job)
            self._settling.hand_back(job.lease, "drain")
        self._at("submitted")

    # --- small things

    def _holds(self, job: HeldJob) -> bool:
        return job.lease.execution_id in self._held

    def _drop(self, job: HeldJob, became: str = "handed_back") -> None:
        """Forget it and stop the work on it; who calls says what is to be written, if anything."""
        self._held.pop(job.lease.execution_id, None)
        self._traces.ended(job, became)
        if job.waits:
            self._fetching.drop(job.lease.execution_id)
        for image in job.images:
            if image.finished is None:
                self._link.cancel(job.image_id(image))
            elif self._images.pop(job.image_id(image), None):
                self._finishing.drop(job.image_id(image))

    def _is_due(self, what: str, period_s: float) -> bool:
        now_s = time.monotonic()
        if now_s < self._due.get(what, 0.0):
            return False
        self._due[what] = now_s + period_s
        return True

    def _report(self) -> WorkerReport:
        jobs = list(self._held.values())
        return WorkerReport(
            **self._bridge.identity,
            engine_ready=self._link.ready,
            draining=self._stop_at_s is not None,
            running=len(jobs),
            images=sum(job.in_engine for job in jobs),
            slots=self._settings.slots,
            step_ms=self._engine.step_ms,
            **self._news.report(jobs, self._pace),
            held_up=SPOOL_FULL if self._finishing.full else None,
        )
