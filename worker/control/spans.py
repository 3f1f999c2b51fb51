"""Trace spans of a worker's jobs and batches, made from the engine's messages.

Owns the open spans: one per job, and one per batch, which is linked to every job in the batch: a
batch has many parents. Knows no Redis and no OpenTelemetry. Invariant: each job's span ends once,
with the job's outcome on this worker; the engine process knows nothing of spans.
"""

from __future__ import annotations

import time

from jobs.tracing.spans import Span, Tracing
from worker.control.held_job import HeldJob
from worker.messages import Finished, ImageEvent, Started

BATCH_S = 60.0  # longest batch span: else an engine that is never idle had one without end


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
        """Start the span of a claimed job, in the trace of the job's submission."""
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
        """Apply an engine event: Started joins the batch span, Finished adds the stage spans."""
        if isinstance(event, Started):
            self._joined(job)
        elif isinstance(event, Finished) and self._tracing.on:
            self._made(job, event)

    def _joined(self, job: HeldJob) -> None:
        """Link the job to the batch span, which starts if there is none or it is too old."""
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
        """Add a finished image's stage spans, one after the other, from the engine's timings."""
        ago_s = (done.encode_ms + done.denoise_ms + done.decode_ms) / 1000
        for stage in ("encode", "denoise", "decode"):
            ended_s = ago_s - getattr(done, f"{stage}_ms") / 1000
            self._tracing.past(
                stage, parent=job.span.traceparent, began_ago_s=ago_s, ended_ago_s=ended_s
            )
            ago_s = ended_s
        if job.in_engine == 1:  # this image, not yet counted as finished in the job
            self._left(job)

    def ended(self, job: HeldJob, became: str) -> None:
        """End the job's span. `became`: succeeded, an error's code, or why the job was dropped."""
        self._left(job)
        span = self._jobs.pop(job.lease.execution_id, None)
        if span:
            span.end(error=None if became == "succeeded" else became)

    def close(self) -> None:
        """End the open spans and flush the exporter."""
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
