"""Calls of workers (claim, beat, progress, finish, hand back) and of the reaper.

Owns the calls' keys and arguments and the reading of their answers. Knows no connection and no
engine. Invariant: a `Lease` (job, execution, queue) names what is held in every call; where the
lease is gone, nothing is written.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from jobs.contract.record import JobError
from jobs.contract.reports import WorkerReport
from jobs.contract.submission import TENANT_LINE
from jobs.store import keys
from jobs.store.scripts import Call, load, text

LEASE_S = 15  # five missed beats; recovery after the loss of a host is this plus a reap's period
SOLO_AFTER = 2  # crashes after which a job runs alone
FAIL_AFTER = 3  # crashes after which it has failed
WINDOW = 64  # jobs of a line one claim looks at: 120 us of Redis where none fits
BYPASS_S = 8.0  # so long others may pass a job of another size class
REAP_MOST = 100
SETTLE_LOOK, SETTLE_MOST = 200, 50  # open jobs a step: 1 ms of Redis to look, 5 ms to end so many
CRASHED = JobError(
    code="crashed",
    message="the worker died each time it ran this job; it was run alone in the end",
    retryable=False,
)

HandBackReason = Literal["drain", "retry", "crash"]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one worker to run a job, until it is reaped or handed back."""

    job_id: str
    execution_id: str
    queue: str

    @property
    def both(self) -> str:
        """RQ's composite key of an execution."""
        return f"{self.job_id}:{self.execution_id}"

    @classmethod
    def of(cls, queue: str, both: str) -> Self:
        """Parse RQ's composite key."""
        job_id, execution_id = both.split(":")
        return cls(job_id, execution_id, queue)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A claimed job: its lease, its whole hash, and Redis's clock at the claim."""

    lease: Lease
    fields: Mapping[str, bytes]
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """A worker's capacity and rules for a claim."""

    images: int  # images that the worker wants
    running: int  # jobs that the worker runs
    size_classes: frozenset[str]  # of these jobs
    aged_first_s: float | None = None  # first one job older than this, from the last line up
    bypass_s: float = BYPASS_S
    lease_s: int = LEASE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatReply:
    """Answer to a worker's heartbeat."""

    registered: bool  # False: Redis had forgotten this worker
    draining: bool  # an operator wants this worker to end
    lost: frozenset[str]  # composite keys whose lease is gone
    strangers: tuple[Lease, ...]  # given to this worker by a claim whose answer it never got


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Result of one step over open jobs."""

    cursor: str  # start of the next step; empty: this was the last
    ended: int  # jobs that were open no more, and have ended now
    damaged: Mapping[str, str]  # jobs with unreadable fields, and the reason: left as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """End of a job. `result`: RQ's own result fields; `fields`: ours for the job's hash."""

    word: Literal["succeeded", "failed", "canceled"]
    rq_status: Literal["finished", "failed", "stopped"]
    result: Mapping[str, Any]
    fields: Mapping[str, Any]


def claim(
    worker: str, rules: ClaimRules, *, queues: Sequence[str], execution_ids: Sequence[str]
) -> Call[list[Claimed]]:
    """Claim jobs; at most one an execution ID."""

    def parse(reply: list[Any]) -> list[Claimed]:
        now_s = float(text(reply[0]))
        return [
            Claimed(lease=Lease(text(i), text(e), text(q)), fields=_hash(flat), now_s=now_s)
            for i, e, q, flat in reply[1]
        ]

    classes = sorted(rules.size_classes)
    return Call(
        load("claim"),
        (*_worker_keys(worker), *(keys.rq_key("queue", q) for q in queues)),
        (
            rules.images,
            WINDOW,
            rules.lease_s,
            worker,
            rules.bypass_s,
            rules.running,
            "" if rules.aged_first_s is None else rules.aged_first_s,
            len(classes),
            *classes,
            *execution_ids,
        ),
        parse,
    )


def beat(
    report: WorkerReport, leases: Sequence[Lease], *, worker_ttl_s: int, lease_s: int = LEASE_S
) -> Call[BeatReply]:
    """Send a worker's heartbeat, which renews the leases of all its jobs."""

    def parse(reply: list[Any]) -> BeatReply:
        named = zip(reply[3][::2], reply[3][1::2], strict=True)
        return BeatReply(
            registered=bool(reply[0]),
            draining=bool(reply[1]),
            lost=frozenset(text(b) for b in reply[2]),
            strangers=tuple(Lease.of(text(queue), text(both)) for queue, both in named),
        )

    pace = [(m.model, m.cost_per_s or 0.0, m.running_cost) for m in report.models]
    return Call(
        load("beat"),
        (*_worker_keys(report.name), keys.worker(report.name)),
        (
            worker_ttl_s,
            lease_s,
            report.model_dump_json(),
            keys.WORKER_TTL_S,
            report.name,
            len(pace),
            *(value for entry in pace for value in entry),
            *_named(leases),
        ),
        parse,
    )


def progress(now_at: Sequence[tuple[Lease, str, int, int]]) -> Call[int]:
    """Publish jobs' progress: lease, stage, model calls done, model calls expected."""
    args = tuple(
        value
        for lease, stage, step, steps in now_at
        for value in (lease.queue, lease.both, stage, step, steps)
    )
    return Call(load("progress"), (), args, int)


def previews(shown: Sequence[tuple[Lease, int, str]]) -> Call[int]:
    """Publish previews: lease, index of the image, the preview as JSON."""
    args = tuple(
        value
        for lease, index, preview in shown
        for value in (lease.queue, lease.both, index, preview)
    )
    return Call(load("preview"), (), args, int)


def finish(worker: str, lease: Lease, ending: Ending) -> Call[str]:
    """Write the end of a job: "ok", "again" (it is written already) or "lost"."""
    registry = "finished" if ending.rq_status == "finished" else "failed"
    counter = "successful" if ending.rq_status == "finished" else "failed"
    result = [v for pair in ending.result.items() for v in pair]
    fields = [v for pair in ending.fields.items() for v in pair]
    return Call(
        load("finish"),
        (
            keys.rq_key("job", lease.job_id),
            keys.rq_key("worker", worker),
            keys.rq_key("results", lease.job_id),
            keys.rq_key(registry, lease.queue),
        ),
        (
            lease.job_id,
            lease.execution_id,
            lease.queue,
            worker,
            ending.word,
            ending.rq_status,
            f"{counter}_job_count",
            len(result),
            *result,
            *fields,
        ),
        lambda reply: text(reply[0]),
        lasting=True,
    )


def hand_back(leases: Sequence[Lease], why: HandBackReason) -> Call[dict[str, str]]:
    """Return jobs to the head of their queues; the outcome of each, by job ID."""
    args = (why, SOLO_AFTER, FAIL_AFTER, *_crash(), *_named(leases))
    return Call(load("requeue"), (), args, _became)


def reap(queues: Sequence[str], *, lease_s: int = LEASE_S) -> Call[dict[str, str]]:
    """Return jobs with an expired lease to their queues; the outcome of each, by job ID."""
    registries = tuple(keys.rq_key("wip", q) for q in queues)
    args = (lease_s, REAP_MOST, SOLO_AFTER, FAIL_AFTER, *_crash())
    return Call(load("reap"), registries, args, _became)


def expire(most: int = REAP_MOST) -> Call[list[str]]:
    """End the jobs whose deadline is over."""
    return Call(load("expire"), (keys.DEADLINES,), (most,), lambda r: [text(i) for i in r])


def erase(*, most: int, hide_s: float) -> Call[list[str]]:
    """Take members that are due for erasing, for `blobs_of` and `erased`."""
    return Call(
        load("due_deletions"), (keys.ERASE,), (most, hide_s), lambda r: [text(m) for m in r]
    )


def erased(members: Sequence[str]) -> Call[int]:
    """Confirm that the blobs of these members are erased."""
    where = (keys.ERASE, keys.unerased("pictures")[0])
    return Call(load("confirm_deletions"), where, tuple(members), int)


def blobs_of(member: str) -> list[str]:
    """Return the blob keys of one member of the erase zset: tenant/job/images.extension."""
    tenant, job_id, images = member.rsplit("/", 2)
    n, extension = images.split(".")
    return [keys.image_key(tenant, job_id, k, extension) for k in range(int(n))]


def settle(tenant: str, *, cursor: str = "0") -> Call[Settled]:
    """Check some of a tenant's open jobs, and end those that are open no more."""

    def parse(reply: list[Any]) -> Settled:
        damaged = map(text, reply[2])
        return Settled(
            cursor=text(reply[0]),
            ended=int(reply[1]),
            damaged=dict(zip(damaged, damaged, strict=True)),
        )

    args = (tenant, cursor, SETTLE_LOOK, SETTLE_MOST)
    return Call(load("settle"), (), args, parse)


def sweep(model: str) -> Call[int]:
    """Repair a model's queues after changes by RQ's own tools; the number of jobs queued."""
    return Call(load("sweep"), (), (TENANT_LINE, *keys.queue_names(model)), int)


def as_json(value: Any) -> str:
    """Encode a structured field of ours as JSON."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _worker_keys(worker: str) -> tuple[str, str]:
    return keys.rq_key("worker", worker), keys.rq_key("worker", f"{worker}:executions")


def _named(leases: Sequence[Lease]) -> list[str]:
    return [value for lease in leases for value in (lease.queue, lease.both)]


def _crash() -> tuple[str, str]:
    """Return the error of a job that crashed too often, and the trace in RQ's form."""
    trace = base64.b64encode(zlib.compress(CRASHED.message.encode())).decode()
    return CRASHED.model_dump_json(), trace


def _became(reply: Sequence[Any]) -> dict[str, str]:
    return {text(job_id): text(what) for job_id, what in reply}


def _hash(flat: Sequence[Any]) -> dict[str, bytes]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return {text(name): value for name, value in pairs}
