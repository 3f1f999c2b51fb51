"""The role `janitor`: periodic work that needs no worker, no GPU and no torch.

Owns the intervals of reaping, expiring, erasing and sweeping; each is a script that any number of
janitors may run at once. Invariant: due work is done within seconds while a janitor runs, and
nothing is lost while none does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from redis import Redis

from jobs.blobs import BlobStore, open_blobs
from jobs.contract.input_images import input_blob_key
from jobs.contract.model_file import load_catalogue
from jobs.errors import StoreUnavailable
from jobs.store import keys
from jobs.store.connection import connect, translated
from jobs.store.job_store import JobStore
from jobs.store.scripts import erase_calls, input_calls, worker_calls
from jobs.store.scripts.erase_calls import Kind
from worker.main import Stop
from worker.rq_bridge import forget_dead_workers
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

ERASE_MOST = 100
SWEEP_S = 5.0  # inconsistencies left by RQ's own tools are repaired within 10 s


class Janitor:
    """The janitor's periodic tasks; `tick` runs those that are due."""

    def __init__(self, settings: WorkerSettings, *, redis: Redis, blobs: BlobStore) -> None:
        self._models = [m.id for m in load_catalogue(settings.models_file).models]
        self._queues = [q for model in self._models for q in keys.queue_names(model)]
        self._lease_s = settings.lease_s
        self._store = JobStore(redis)
        self._redis = redis
        self._blobs = blobs
        self._jobs: tuple[tuple[float, Callable[[], None]], ...] = (
            (settings.reap_s, self.reap),
            (settings.reap_s, self.expire),
            (settings.reap_s, self.erase),
            (settings.reap_s, self.erase_inputs),
            (SWEEP_S, self.sweep),
        )
        self._damaged: set[str] = set()
        self._due = [0.0] * len(self._jobs)
        self._refused: dict[Kind, str] = {}  # object storage's last reason for not deleting
        self._said: dict[str, str] = {}

    def tick(self, now_s: float) -> None:
        """Run the tasks that are due; a task that fails runs again at its next time."""
        for index, (period_s, job) in enumerate(self._jobs):
            if now_s < self._due[index]:
                continue
            self._due[index] = now_s + period_s
            try:
                job()
            except StoreUnavailable as error:
                self._say(job.__name__, str(error))
            else:
                self._said.pop(job.__name__, None)

    def _say(self, job: str, reason: str) -> None:
        """Log why a task fails, once for each reason until the task succeeds."""
        if self._said.get(job) != reason:
            self._said[job] = reason
            log.warning("janitor.waits", extra={"job": job, "reason": reason})

    def reap(self) -> None:
        """Requeue the jobs of dead workers."""
        for job_id, state in self._store.run(
            worker_calls.reap(self._queues, lease_s=self._lease_s)
        ).items():
            log.warning("job.reaped", extra={"job_id": job_id, "became": state})

    def expire(self) -> None:
        """Expire the jobs that are past their deadline."""
        for job_id in self._store.run(worker_calls.expire()):
            log.info("job.expired", extra={"job_id": job_id})

    def erase(self) -> None:
        """Delete the images of expired, deleted and canceled jobs from object storage."""
        due = self._store.run(worker_calls.erase(most=ERASE_MOST, hide_s=erase_calls.HIDE_S))
        done = self._erased("pictures", {m: worker_calls.blobs_of(m) for m in due})
        if done:
            self._store.run(worker_calls.erased(done))
            log.info("pictures.erased", extra={"jobs": len(done)})

    def erase_inputs(self) -> None:
        """Delete the input images that no job holds any more from object storage."""
        due = self._store.run(input_calls.due(most=ERASE_MOST, hide_s=erase_calls.HIDE_S))
        done = self._erased("inputs", {m: [input_blob_key(m)] for m in due})
        if done:
            self._store.run(input_calls.erased(done))
            log.info("inputs.erased", extra={"inputs": len(done)})

    def _erased(self, kind: Kind, blobs_of: Mapping[str, Sequence[str]]) -> list[str]:
        """Delete the members' objects. Return the members fully deleted; record the others."""
        left = self._blobs.delete([blob for blobs in blobs_of.values() for blob in blobs])
        reasons = {m: left[b] for m, blobs in blobs_of.items() for b in blobs if b in left}
        if reasons:
            self._note(kind, list(reasons), min(reasons.values()))
        return [member for member in blobs_of if member not in reasons]

    def _note(self, kind: Kind, members: Sequence[str], reason: str) -> None:
        """Record members that object storage refused to delete: metrics each time, log once."""
        count = self._store.run(erase_calls.left(kind, members, reason))
        if self._refused.get(kind) != reason:
            log.error("erase.refused", extra={"kind": kind, "reason": reason, "count": count})
        self._refused[kind] = reason

    def _note_if_over(self) -> None:
        """Log once that all objects that were refused are deleted by now."""
        for kind in list(self._refused):
            if not self._store.run(erase_calls.late(kind)).count:
                log.info("erase.caught_up", extra={"kind": kind})
                del self._refused[kind]

    def sweep(self) -> None:
        """Trim RQ's registries and repair what RQ's tools left: jobs first, then their queues."""
        self._note_if_over()
        for settled in self._store.settle():
            if settled.ended:
                log.warning("jobs.settled", extra={"jobs": settled.ended})
            for job_id in settled.damaged.keys() - self._damaged:
                self._damaged.add(job_id)  # logged once
                reason = settled.damaged[job_id]
                log.error("job.damaged", extra={"job_id": job_id, "reason": reason})
        for model in self._models:
            self._store.run(worker_calls.sweep(model))
        with translated():
            for name in self._queues:
                forget_dead_workers(self._redis, name)


def run(settings: WorkerSettings, stop: Stop) -> None:
    """Run the janitor until stopped. Raises SettingsError."""
    with connect(settings.redis_url) as redis:
        janitor = Janitor(settings, redis=redis, blobs=open_blobs(settings))
        while not stop.wait(min(0.2, settings.reap_s)):
            janitor.tick(time.monotonic())
