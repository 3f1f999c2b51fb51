"""An RQ worker that holds many jobs: the only module of the worker that knows RQ.

Owns registration, RQ's command channel, and the calls that claim, renew and end executions. Stock
RQ runs one job per worker and loses some when a worker dies (facts: docs/queue.md); BatchWorker
holds many jobs and moves each with one script. Knows no engine and no images. Invariant: the
hashes, registries and results in Redis are RQ's own, so `rq info`, `rq requeue` and the rest work.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from redis import Redis
from rq import worker_registration
from rq.job import Job
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.worker.base import BaseWorker

from jobs.contract.record import JobError
from jobs.contract.reports import WorkerReport
from jobs.contract.spec import JobSpec
from jobs.errors import StoreUnavailable
from jobs.store import keys
from jobs.store.connection import translated
from jobs.store.counters import COUNTS, PendingCounts
from jobs.store.job_store import JobStore
from jobs.store.keys import HashField
from jobs.store.scripts import job_hash, worker_calls
from jobs.store.scripts.worker_calls import (
    BeatReply,
    Claimed,
    ClaimRules,
    Ending,
    HandBackReason,
    Lease,
)

log = logging.getLogger(__name__)

WORKER_TTL_S = 60  # RQ's default keeps a dead worker in `rq info` for eight minutes
RESUBSCRIBE_S = 1.0


def generate(job_id: str) -> None:
    """Refuse to run: every job names this function, and only `python -m worker` runs jobs."""
    raise NotImplementedError(
        f"job {job_id} needs `python -m worker`; stop `rq worker` on this queue and requeue the job"
    )


class NoDeathPenalty(BaseDeathPenalty):
    """No SIGALRM: a process has one, and many jobs. The control loop enforces job timeouts."""

    def setup_death_penalty(self) -> None:
        """Do nothing."""

    def cancel_death_penalty(self) -> None:
        """Do nothing."""


class BatchWorker(BaseWorker):
    """A worker that holds many executions at once."""

    death_penalty_class = NoDeathPenalty
    log_job_description = False

    def __init__(
        self,
        queues: Sequence[str],
        *,
        name: str,
        connection: Redis,
        lease_s: int,
        replicas: int = 0,
    ) -> None:
        super().__init__(
            [Queue(q, connection=connection, serializer=JSONSerializer) for q in queues],
            name=name,
            connection=connection,
            worker_ttl=WORKER_TTL_S,
            serializer=JSONSerializer,
            log_job_description=False,
        )
        self.lease_s = lease_s
        self.commands: deque[dict[str, Any]] = deque()
        self._store = JobStore(connection, replicas=replicas)
        self._gone = threading.Event()

    # --- RQ's hooks, overridden so that many jobs can run and nothing blocks

    def _set_connection(self, connection: Redis) -> Redis:
        """Keep our short timeouts: RQ would raise them to 415 s."""
        return connection

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Return the lease in seconds."""
        return self.lease_s

    def handle_payload(self, message: dict[str, Any]) -> None:
        """Queue a command for the main loop; RQ calls this in its listener thread."""
        try:
            self.commands.append(json.loads(message["data"]))
        except ValueError:
            log.warning("command.unreadable")

    def _pubsub_exception_handler(
        self,
        exc: Exception,
        pubsub: Any,  # noqa: ARG002 - RQ's signature
        pubsub_thread: Any,  # noqa: ARG002
    ) -> None:
        """Retry while Redis is unavailable: RQ's own handler lets the listener die of a timeout."""
        if not self._gone.wait(RESUBSCRIBE_S):
            log.debug("commands.away", extra={"reason": type(exc).__name__})

    @property
    def identity(self) -> dict[str, Any]:
        """Name, host and process ID, as a WorkerReport's fields."""
        return {"name": self.name, "host": self.hostname or "", "pid": self.pid or 0}

    # --- the life of the worker

    def enter(self) -> None:
        """Register with RQ and subscribe to commands. May be repeated after StoreUnavailable."""
        with translated():
            if self.birth_date is not None:
                # left by a failed first try; RQ would refuse the name
                self.connection.delete(self.key)
            self.register_birth()
            self.set_state("started")
            self.subscribe()

    def leave(self) -> None:
        """Deregister; while Redis is unavailable, this worker's keys expire by themselves."""
        self._gone.set()
        try:
            with translated():
                self.register_death()
                self.unsubscribe()
        except StoreUnavailable:
            log.warning("worker.left_unregistered")

    def take_commands(self) -> list[dict[str, Any]]:
        """Return the commands of operators and canceled jobs since the last call."""
        return [self.commands.popleft() for _ in range(len(self.commands))]

    # --- executions

    def claim(self, rules: ClaimRules, queues: Sequence[str]) -> list[Claimed]:
        """Claim jobs; this worker holds each until the job is finished, handed back or lost."""
        execution_ids = [uuid4().hex for _ in range(rules.images)]
        return self._store.run(
            worker_calls.claim(self.name, rules, queues=queues, execution_ids=execution_ids)
        )

    def any_waits(self, queues: Sequence[str]) -> bool:
        """Return True if any of these queues has a job.

        An idle worker calls this twelve times a second; the claim script costs Redis ten times as
        much.
        """
        with translated():
            return bool(self.connection.exists(*(keys.rq_key("queue", queue) for queue in queues)))

    def beat(self, report: WorkerReport, leases: Sequence[Lease]) -> BeatReply:
        """Renew the leases and store the report. Return which leases were lost."""
        reply = self._store.run(
            worker_calls.beat(report, leases, worker_ttl_s=WORKER_TTL_S, lease_s=self.lease_s)
        )
        if not reply.registered:
            self._register_again()
        if reply.strangers:
            self.hand_back(reply.strangers, "drain")
        return reply

    def tell(self, tally: PendingCounts) -> None:
        """Add this process's counts to the fleet's. Raises StoreUnavailable; counts are kept."""
        counts = tally.take()
        if not counts:
            return
        try:
            with translated(), self.connection.pipeline(transaction=True) as pipeline:
                for name, by in counts.items():
                    pipeline.hincrby(COUNTS, name, by)
                pipeline.execute()
        except StoreUnavailable:
            tally.put_back(counts)
            raise

    def progress(self, now_at: Sequence[tuple[Lease, str, int, int]]) -> None:
        """Publish jobs' progress: lease, stage, model calls done and expected."""
        self._store.run(worker_calls.progress(now_at))

    def previews(self, shown: Sequence[tuple[Lease, int, str]]) -> None:
        """Publish previews: lease, image index, JSON text."""
        self._store.run(worker_calls.previews(shown))

    def finish(self, lease: Lease, ending: Ending) -> bool:
        """Write the end of a job. Return False if the lease was lost; then nothing is written."""
        result = {**self._result(lease, ending), **ending.result}
        complete = Ending(
            word=ending.word, rq_status=ending.rq_status, result=result, fields=ending.fields
        )
        return self._store.run(worker_calls.finish(self.name, lease, complete)) != "lost"

    def fail(self, lease: Lease, error: JobError) -> bool:
        """Write the failure of a job. Return False if the lease was lost."""
        fields: dict[str, str] = {HashField.ERROR: error.model_dump_json()}
        ending = Ending(word="failed", rq_status="failed", result={}, fields=fields)
        return self.finish(lease, ending)

    def stop(self, lease: Lease) -> bool:
        """End a job on an operator's `stop-job` as canceled; RQ's status is `stopped`."""
        ending = Ending(word="canceled", rq_status="stopped", result={}, fields={})
        return self.finish(lease, ending)

    def hand_back(self, leases: Sequence[Lease], why: HandBackReason) -> dict[str, str]:
        """Return jobs to the head of their queues. Return each job's new state by job ID."""
        return self._store.run(worker_calls.hand_back(leases, why))

    def reap(self) -> dict[str, str]:
        """Requeue the jobs of dead workers. Return each job's new state by job ID."""
        return self._store.run(worker_calls.reap(self.queue_names(), lease_s=self.lease_s))

    def expire(self) -> list[str]:
        """End the jobs that are past their deadline. Return their IDs."""
        return self._store.run(worker_calls.expire())

    def _register_again(self) -> None:
        """Register anew after Redis lost this worker (restart without its keys, late heartbeat)."""
        with translated(), self.connection.pipeline() as pipeline:
            pipeline.hset(self.key, mapping=self.serialize())
            pipeline.expire(self.key, WORKER_TTL_S)
            worker_registration.register(self, pipeline)
            pipeline.execute()

    def _result(self, lease: Lease, ending: Ending) -> dict[str, Any]:
        """Return RQ's result entry of an execution, serialized."""
        good = ending.rq_status == "finished"
        result = Result(
            job_id=lease.job_id,
            type=Result.Type.SUCCESSFUL if good else Result.Type.FAILED,
            connection=self.connection,
            exc_string=None if good else _failure_text(ending),
            worker_name=self.name,
            serializer=JSONSerializer,
            execution_id=lease.execution_id,
        )
        return result.serialize()


def _failure_text(ending: Ending) -> str:
    """Return the failure that `rq` shows: code and message, never a trace with a prompt in it."""
    error_json = ending.fields.get(HashField.ERROR)
    error = JobError.model_validate_json(error_json) if error_json else None
    return f"{error.code}: {error.message}" if error else ending.rq_status


def spec_in(claimed: Claimed, connection: Redis) -> JobSpec | None:
    """Return the spec of a claimed job, or None if this service did not write the job's hash.

    Anyone with write access to Redis can name any function: so none is imported, and anything but
    `generate` with the job's own ID is refused. Callbacks and webhooks in the hash are never read.
    """
    job_id = claimed.lease.job_id
    job = Job(job_id, connection=connection, serializer=JSONSerializer)
    try:
        job.restore({name.encode(): value for name, value in claimed.fields.items()})
        call = (job.func_name, job.instance, list(job.args), job.kwargs)
        spec = JobSpec.model_validate_json(claimed.fields[HashField.SPEC])
    except Exception as error:  # noqa: BLE001 - RQ raises anything on what it cannot read
        log.warning("job.forged", extra={"job_id": job_id, "reason": type(error).__name__})
        return None
    if call != (job_hash.FUNCTION, None, [job_id], {}):
        log.warning("job.forged", extra={"job_id": job_id, "reason": "another function"})
        return None
    return spec


def forget_dead_workers(redis: Redis, queue: str) -> None:
    """Remove dead workers from RQ's registry of a queue."""
    rq_queue = Queue(queue, connection=redis, serializer=JSONSerializer)
    worker_registration.clean_worker_registry(rq_queue)
