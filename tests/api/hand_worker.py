"""A worker moved by hand: the real scripts and the real picture store, with no engine behind.

Owns nothing but the order of its calls, which the test chooses. What it stores are bytes, not
pictures: the API never looks inside.
"""

from __future__ import annotations

import hashlib
import json

from jobs.blobs.s3 import S3Blobs
from jobs.contract.record import Image, JobError
from jobs.contract.reports import ModelPace, WorkerReport
from jobs.contract.request_parts import FORMATS
from jobs.contract.spec import JobSpec
from jobs.store import keys
from jobs.store.job_store import JobStore
from jobs.store.keys import HashField
from jobs.store.scripts import worker_calls
from jobs.store.scripts.worker_calls import Claimed, ClaimRules, Ending

NAME = "hand-worker"
KINDS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


class HandWorker:
    """Claims, tells, finishes and fails jobs of one model, when told."""

    def __init__(self, redis_url: str, blobs: S3Blobs, *, model: str = "demo") -> None:
        self.store = JobStore(redis_url)
        self.blobs = blobs
        self.model = model

    def speak(
        self,
        *,
        cost_per_s: float = 2.0,
        engine_ready: bool = True,
        name: str = NAME,
        uploads_fail: str | None = None,
    ) -> None:
        """Say that it lives: what readiness and the expected wait are made of."""
        pace = ModelPace(
            model=self.model,
            cost_per_s=cost_per_s,
            running_cost=0.0,
            reproducibility="exact",
            fingerprint="f",
            image_steps_per_s=10.0,
        )
        report = WorkerReport(
            name=name,
            host="test",
            pid=1,
            engine_ready=engine_ready,
            draining=False,
            running=0,
            images=0,
            slots=8,
            step_ms=None,
            models=(pace,),
            uploads_fail=uploads_fail,
        )
        self.store.run(worker_calls.beat(report, [], worker_ttl_s=60))
        self.store.redis.sadd(keys.RQ_WORKERS, keys.rq_key("worker", name))

    def take(self) -> Claimed:
        """The next job."""
        self.speak()
        rules = ClaimRules(images=1, running=0, size_classes=frozenset())
        queues = keys.queue_names(self.model)
        (claimed,) = self.store.run(
            worker_calls.claim(NAME, rules, queues=queues, execution_ids=["e1"])
        )
        return claimed

    def tell(self, claimed: Claimed, step: int, steps: int, stage: str = "denoising") -> None:
        """Say where a job is."""
        self.store.run(worker_calls.progress([(claimed.lease, stage, step, steps)]))

    def show(self, claimed: Claimed, preview: dict[str, object]) -> None:
        """Say what an image looks like by now."""
        text = json.dumps(preview)
        self.store.run(worker_calls.previews([(claimed.lease, int(str(preview["index"])), text)]))

    def finish(self, claimed: Claimed, content: bytes = b"\x89PNG hand made") -> list[bytes]:
        """Store every image of the job and write its end; the bytes stored."""
        spec = JobSpec.model_validate_json(claimed.fields[HashField.SPEC])
        made = [content + bytes([k]) for k in range(spec.n)]
        images = [self._store(claimed, spec, k, data) for k, data in enumerate(made)]
        fields = {
            HashField.IMAGES: worker_calls.as_json([i.model_dump() for i in images]),
            HashField.METRICS: worker_calls.as_json({"batch_size_mean": 4.0}),
            HashField.STEPS: spec.steps,
        }
        self._end(claimed, Ending(word="succeeded", rq_status="finished", result={}, fields=fields))
        return made

    def fail(self, claimed: Claimed) -> None:
        """Write a failure."""
        error = JobError(code="degenerate_output", message="all black", retryable=False)
        fields = {HashField.ERROR: error.model_dump_json()}
        self._end(claimed, Ending(word="failed", rq_status="failed", result={}, fields=fields))

    def _end(self, claimed: Claimed, ending: Ending) -> None:
        assert self.store.run(worker_calls.finish(NAME, claimed.lease, ending)) == "ok"

    def _store(self, claimed: Claimed, spec: JobSpec, index: int, data: bytes) -> Image:
        tenant = claimed.fields[HashField.TENANT].decode()
        extension = FORMATS[spec.output.format].extensions[0]
        key = keys.image_key(tenant, claimed.lease.job_id, index, extension)
        self.blobs.put(key, data, KINDS[spec.output.format])
        return Image(
            index=index,
            seed=spec.seeds[index],
            pixel_sha256=hashlib.sha256(data).hexdigest(),
            width=spec.width,
            height=spec.height,
            content_type=KINDS[spec.output.format],
            bytes=len(data),
            key=key,
        )
