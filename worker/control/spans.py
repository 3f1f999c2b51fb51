"""What a worker's control process tells of its jobs as spans; made from the engine's messages.

Owns the spans under way: one a job, and one a batch, which is linked to every job that joins it: a
batch has many parents. Knows no Redis and no OpenTelemetry. Invariant: each job's span ends once,
with what became of it here; the engine process knows nothing of all this.
"""

from __future__ import annotations

import time

from jobs.tracing.spans import Span, Tracing
from worker.control.held_job import HeldJob
from worker.messages import Finished, ImageEvent, Started

BATCH_S = 60.0  # an engine that is never idle would else have one batch for ever


class Traces:
    """The spans of one worker."""

    def __init__(self, tracing: Tracing, worker: str) -> None:
        self._tracing = tracing
        self._worker = worker
        self._jobs: dict[str, Span] = {}  # by execution ID
        self._batch: Span | None = None
        self._batch_until_s = 0.0
        self._in_batch: set[str] = set()

    def claimed(self, job: HeldJob) -> None:
        """A job is ours: continue the trace in which it was sent."""
        if not self._tracing.on:
            return
        queue = job.lease.queue
        span = self._tracing.start(
            f"process {queue}",
            "consumer",
            parent=job.trace,
            attributes={
                "messaging.system": "redis",
                "messaging.operation.type": "process",
                "messaging.destination.name": queue,
                "messaging.message.id": job.lease.job_id,
                "printworks.worker": self._worker,
                "printworks.attempt": job.attempts,
                "printworks.images": len(job.images),
                "printworks.steps": job.spec.steps,
                "printworks.size": job.spec.size_class,
            },
        )
        self._jobs[job.lease.execution_id] = span
        job.span = span

    def heard(self, job: HeldJob, event: ImageEvent) -> None:
        """What the engine said of an image."""
        if isinstance(event, Started):
            self._joined(job)
        elif isinstance(event, Finished) and self._tracing.on:
            self._made(job, event)

    def _joined(self, job: HeldJob) -> None:
        """It is in the batch from now on."""
        span = self._jobs.get(job.lease.execution_id)
        if span is None:
            return
        if self._batch is None or time.monotonic() > self._batch_until_s:
            self._end_batch()
            self._batch = self._tracing.start(
                f"batch {job.spec.model}",
                "consumer",
                attributes={
                    "messaging.system": "redis",
                    "messaging.operation.type": "process",
                    "printworks.worker": self._worker,
                },
            )
            self._batch_until_s = time.monotonic() + BATCH_S
        if job.lease.execution_id not in self._in_batch:
            self._in_batch.add(job.lease.execution_id)
            self._batch.link(job.trace or span.traceparent)

    def _made(self, job: HeldJob, done: Finished) -> None:
        """An image is done: its stages, which the engine timed, one behind the other."""
        ago_s = (done.encode_ms + done.denoise_ms + done.decode_ms) / 1000
        for stage in ("encode", "denoise", "decode"):
            ended_s = ago_s - getattr(done, f"{stage}_ms") / 1000
            self._tracing.past(
                stage, parent=job.span.traceparent, began_ago_s=ago_s, ended_ago_s=ended_s
            )
            ago_s = ended_s
        if job.in_engine == 1:  # this one, which the job does not know of yet
            self._left(job)

    def ended(self, job: HeldJob, became: str) -> None:
        """It is ours no more: succeeded, an error's code, or why it went back or was dropped."""
        self._left(job)
        span = self._jobs.pop(job.lease.execution_id, None)
        if span:
            span.end(error=None if became == "succeeded" else became)

    def close(self) -> None:
        """End what is still open, and send it all."""
        for span in self._jobs.values():
            span.end(error="worker_ended")
        self._end_batch()
        self._tracing.close()

    def _left(self, job: HeldJob) -> None:
        self._in_batch.discard(job.lease.execution_id)
        if not self._in_batch:
            self._end_batch()

    def _end_batch(self) -> None:
        if self._batch:
            self._batch.end()
        self._batch = None
        self._in_batch.clear()
