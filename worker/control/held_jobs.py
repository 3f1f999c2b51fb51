"""The jobs that this worker holds, each from its claim to its end or its return to the queue.

Owns these jobs, and the map of their images in the engine. A job's outcome goes to
`pending_writes`, which writes it; nothing here waits for Redis, the engine or object storage.
Invariant: a job leaves with exactly one settlement, or, once its lease is lost, with none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Container, Iterator
from typing import assert_never

from jobs.contract.record import JobError
from jobs.contract.spec import JobSpec
from jobs.store.scripts.worker_calls import Claimed
from worker.control.held_job import HeldImage, HeldJob, held_from
from worker.control.pending_writes import Settling
from worker.control.progress_publisher import Telling
from worker.control.spans import Traces
from worker.control.throughput import Throughput
from worker.engine_link import EngineAway, EngineLink
from worker.messages import (
    Canceled,
    EngineDied,
    Failed,
    Finished,
    ImageEvent,
    Preview,
    Progress,
    Started,
)
from worker.pictures.input_fetcher import Fetching
from worker.pictures.uploader import Finishing, Stored, ToStore

log = logging.getLogger(__name__)

FORGED = JobError(
    code="invalid_job",
    message="the job was not made by this service; submit jobs to its API",
    retryable=False,
)
TOO_LONG = JobError(
    code="timeout",
    message="the job ran longer than one job may; ask for fewer steps, a smaller size or fewer"
    " images",
    retryable=False,
)
INPUT_GONE = JobError(
    code="input_missing",
    message="an input image of the job was deleted; upload the image again and resubmit",
    retryable=False,
)


class Holding(Collection[HeldJob]):
    """Collection of the held jobs; changes with claims, engine events and stored images."""

    def __init__(
        self,
        *,
        link: EngineLink,
        fetching: Fetching,
        finishing: Finishing,
        settling: Settling,
        telling: Telling,
        traces: Traces,
        at: Callable[[str], None],
    ) -> None:
        self._link = link
        self._fetching = fetching
        self._finishing = finishing
        self._settling = settling
        self._telling = telling
        self._traces = traces
        self._at = at
        self.pace = Throughput()  # work done per second, by model
        self._jobs: dict[str, HeldJob] = {}  # by execution ID
        self._images: dict[str, tuple[HeldJob, HeldImage]] = {}  # by image ID: all in the engine

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[HeldJob]:
        return iter(list(self._jobs.values()))

    def __contains__(self, job: object) -> bool:
        return isinstance(job, HeldJob) and job.lease.execution_id in self._jobs

    # --- in

    def take(self, claimed: Claimed, spec: JobSpec | None, *, now_s: float) -> None:
        """Hold a claimed job; one without a spec was not made by this service and fails."""
        job = held_from(claimed, spec, now_s=now_s) if spec else None
        if job is None:
            self._settling.fail(claimed.lease, FORGED)
            return
        self._jobs[claimed.lease.execution_id] = job
        self._traces.claimed(job)
        if job.waits:
            self._fetching.fetch(claimed.lease.execution_id, job.input_keys)
        else:
            self._submit(job)

    def collect_inputs(self) -> None:
        """Submit the jobs whose input images have been read; fail those with a missing one."""
        for fetched in self._fetching.done():
            job = self._jobs.get(fetched.execution_id)
            if job is None:
                continue
            if fetched.pictures is None:
                self._fail(job, INPUT_GONE)
            else:
                job.pictures = fetched.pictures
                self._submit(job)

    def _submit(self, job: HeldJob) -> None:
        try:
            for image in job.images:
                self._images[job.image_id(image)] = (job, image)
                self._link.submit(job.request(image))
        except EngineAway:  # the engine died just now; the next poll reports EngineDied
            self._drop(job)
            self._settling.hand_back(job.lease, "drain")
        self._at("submitted")

    # --- under way

    def hear(self, event: ImageEvent) -> None:
        """Apply one engine event to its image and job; events of unknown images are ignored."""
        job, image = self._images.get(event.id, (None, None))
        if job is None or image is None:
            return
        self._traces.heard(job, event)
        match event:
            case Started() | Progress():
                self.pace.did(job.spec.model, job.note(image, event))
            case Preview():
                self._telling.show(job, image.index, event)
            case Finished():
                self.pace.did(job.spec.model, job.note(image, event))
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
        if job not in self:
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
        if job not in self:
            return
        error = JobError(code=event.code, message=event.message, retryable=event.retryable)
        if event.code == "deadline_exceeded":
            self._drop(job, event.code)
            # the script expires the job: past deadline
            self._settling.hand_back(job.lease, "drain")
        else:
            self._retry_or_fail(job, error, again=event.retryable)

    def engine_died(self, event: EngineDied) -> None:
        """Requeue the dead engine's jobs; those it was working on count a crash attempt."""
        lost = [self._images.pop(i) for i in event.lost_ids if i in self._images]
        hit = {job.lease: job for job, _ in lost}
        suspects = {lease for lease, job in hit.items() if job.live}
        for lease, job in hit.items():
            if job in self:
                self._drop(job, "engine_died")
                self._settling.hand_back(lease, "crash" if lease in suspects else "drain")

    # --- out

    def collect_stored(self) -> None:
        """Finish jobs whose last image is stored; retry or fail those with an unstorable one."""
        for ended in self._finishing.done():
            job, image = self._images.pop(ended.image_id, (None, None))
            if job is None or image is None or job not in self:
                continue
            if isinstance(ended, Stored):
                image.stored, image.upload_ms = ended.image, ended.upload_ms
                self._at("stored")
                if job.complete:
                    del self._jobs[job.lease.execution_id]
                    self._traces.ended(job, "succeeded")
                    self._settling.finish(job.lease, job.success())
            else:
                self._retry_or_fail(job, ended.error, again=ended.again)

    def stop(self, job: HeldJob) -> None:
        """Stop a job that an operator or a client ended."""
        self._drop(job, "canceled")
        self._settling.stop(job.lease)  # a no-op in Redis if cancel.lua already ended the job

    def lose(self, lost: Container[str]) -> None:
        """Drop the jobs whose leases were lost; another worker runs them, so nothing is written."""
        for job in self:
            if job.lease.both in lost:
                log.info("lease.lost", extra={"job_id": job.lease.job_id})
                self._drop(job, "lease_lost")

    def fail_those_too_long(self, now_s: float) -> None:
        """Fail the jobs that are past RQ's job timeout; `now_s` is monotonic."""
        for job in self:
            if job.stop_at_s < now_s:
                self._fail(job, TOO_LONG)

    def hand_back_all(self) -> None:
        """Return all held jobs to their queues, because this worker ends."""
        for job in self:
            self._drop(job)
            self._settling.hand_back(job.lease, "drain")

    def _retry_or_fail(self, job: HeldJob, error: JobError, *, again: bool) -> None:
        if again and job.retries_left > 0:
            self._drop(job, error.code)
            self._settling.hand_back(job.lease, "retry")
        else:
            self._fail(job, error)

    def _fail(self, job: HeldJob, error: JobError) -> None:
        self._drop(job, error.code)
        self._settling.fail(job.lease, error)

    def _drop(self, job: HeldJob, became: str = "handed_back") -> None:
        """Forget a job and stop the work on its images; the caller writes the outcome, if any."""
        self._jobs.pop(job.lease.execution_id, None)
        self._traces.ended(job, became)
        if job.waits:
            self._fetching.drop(job.lease.execution_id)
        for image in job.images:
            if image.finished is None:
                self._link.cancel(job.image_id(image))
            elif self._images.pop(job.image_id(image), None):
                self._finishing.drop(job.image_id(image))
