"""T10: random histories of a queue, on real Redis, against a model of a few lines.

Hypothesis draws the history and shrinks a failing one. What the model says after every step: each
job's status, who may write its end, that each end is written once, which groups are accepted under
which quota and key, and that a refusal wrote nothing. RQ's own tools take jobs away, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from redis import Redis
from rq import Queue as RQQueue
from rq.job import Job
from rq.serializers import JSONSerializer

from jobs.contract.parsing import parse_request
from jobs.contract.record import FINAL, MOVES, Status
from jobs.contract.spec import JobRequest
from jobs.contract.submission import AdmitLimits, Group, Idempotency
from jobs.errors import IdempotencyMismatch, JobGone, QueueFull, TenantLimit
from jobs.store import keys
from jobs.store.job_store import JobStore
from jobs.store.scripts import worker_calls
from jobs.store.scripts.worker_calls import FAIL_AFTER, Claimed
from tests.queue.making import (
    NO_LIMITS,
    TENANT,
    admit,
    admit_group,
    claim,
    ended_by,
    everything,
    finish,
    lapse,
    read,
    reap,
)

ASKED, OTHER = (parse_request({"prompt": prompt}) for prompt in ("a cat", "a dog"))
STEPS, EXAMPLES = 40, 20  # about 10^3 steps; `-m slow` runs 10^4


class Queue(RuleBasedStateMachine):
    """Clients, two workers, a reaper, a janitor and time, in any order."""

    redis: ClassVar[Redis]
    total: ClassVar[int] = 0
    jobs = Bundle("jobs")
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.store = JobStore(self.redis)
        self.status: dict[str, Status | None] = {}  # None: deleted
        self.lease: dict[str, str] = {}  # job: the execution that holds it
        self.crashes: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self.groups: dict[str, tuple[JobRequest, Group]] = {}  # by idempotency key
        self.sizes: dict[str, tuple[str, ...]] = {}  # the jobs of every accepted group

    def move(self, job_id: str, to: Status) -> None:
        was = self.status[job_id]
        assert was is not None
        assert to in MOVES[was], f"{was} -> {to}"
        self.status[job_id] = to
        if to is not Status.RUNNING:
            self.lease.pop(job_id, None)

    def is_held(self, claimed: Claimed) -> bool:
        return self.lease.get(claimed.lease.job_id) == claimed.lease.execution_id

    @rule(target=jobs, priority=st.sampled_from(["high", "normal", "low"]), line=st.booleans())
    def submit(self, priority: str, line: bool) -> str:
        limits = NO_LIMITS.__class__(max_jobs=None, tenant_jobs=None, tenant_line=2 if line else 99)
        job_id = admit(self.store, priority=priority, deadline_s=600, limits=limits)
        self.status[job_id] = Status.QUEUED
        self.crashes[job_id] = self.ends[job_id] = 0
        return job_id

    @rule(
        target=jobs,
        count=st.integers(1, 3),
        key=st.sampled_from([None, "a"]),
        other=st.booleans(),
        room=st.integers(1, 20),
        depth=st.integers(1, 20),
    )
    def submit_group(self, count: int, key: str | None, other: bool, room: int, depth: int) -> Any:
        limits = AdmitLimits(max_jobs=depth, tenant_jobs=room, tenant_line=3)
        asked, name = (OTHER if other else ASKED), f"{key}{count}"
        idempotency = Idempotency.of(name, scope="g", request=asked) if key else None
        refusal = self.refusal_of(asked, name, count, room=room, depth=depth)
        if refusal:
            before = everything(self.redis)
            with pytest.raises(refusal):
                admit_group(self.store, count, limits=limits, idempotency=idempotency)
            assert everything(self.redis) == before
            return multiple()
        made = admit_group(
            self.store, count, limits=limits, idempotency=idempotency, deadline_s=600
        )
        assert made.replayed == (name in self.groups)
        if made.replayed:
            assert made.group == self.groups[name][1]
            assert {r.id: r.status for r in made.records} == self.alive(made.group.jobs)
            assert set(made.gone) == set(made.group.jobs) - set(self.alive(made.group.jobs))
            return multiple()
        return self.accepted(asked, name if key else None, made.group)

    def refusal_of(
        self, asked: JobRequest, name: str, count: int, *, room: int, depth: int
    ) -> type[Exception] | None:
        if name in self.groups:
            return IdempotencyMismatch if self.groups[name][0] is not asked else None
        if len(self.open()) + count > room:
            return TenantLimit
        waiting = sum(status is Status.QUEUED for status in self.status.values())
        return QueueFull if waiting + count > depth else None

    def accepted(self, asked: JobRequest, name: str | None, group: Group) -> Any:
        if name:
            self.groups[name] = (asked, group)
        self.sizes[group.id] = group.jobs
        for job_id in group.jobs:
            self.status[job_id] = Status.QUEUED
            self.crashes[job_id] = self.ends[job_id] = 0
        return multiple(*group.jobs)

    def open(self) -> list[str]:
        return [i for i, status in self.status.items() if status and status not in FINAL]

    def alive(self, ids: Sequence[str]) -> dict[str, Status]:
        return {i: status for i in ids if (status := self.status[i])}

    @rule(target=held, images=st.integers(1, 4), running=st.integers(0, 1))
    def claim(self, images: int, running: int) -> Any:
        sizes = frozenset({"64x64"} if running else ())
        got = claim(self.store, images, running=running, size_classes=sizes)
        for claimed in got:
            self.move(claimed.lease.job_id, Status.RUNNING)
            self.lease[claimed.lease.job_id] = claimed.lease.execution_id
        return multiple(*got)

    @rule(claimed=held)
    def finish(self, claimed: Claimed) -> None:
        job_id = claimed.lease.job_id
        before = self.redis.hget(f"rq:job:{job_id}", "x_ended_by")
        again = before == claimed.lease.execution_id.encode()
        became = finish(self.store, claimed)
        if self.is_held(claimed):
            assert became == "ok"
            self.move(job_id, Status.SUCCEEDED)
            self.ends[job_id] += 1
        else:
            assert became == ("again" if again else "lost")

    @rule(claimed=consumes(held), why=st.sampled_from(["drain", "crash", "retry"]))
    def hand_back(self, claimed: Claimed, why: Any) -> None:
        job_id = claimed.lease.job_id
        became = self.store.run(worker_calls.hand_back([claimed.lease], why))[job_id]
        if not self.is_held(claimed):
            assert became == "lost"
        else:
            self.returned(job_id, became, crash=why == "crash")

    def returned(self, job_id: str, became: str, *, crash: bool) -> None:
        self.crashes[job_id] += crash
        if crash and self.crashes[job_id] >= FAIL_AFTER:
            assert became == "failed"
            self.move(job_id, Status.FAILED)
            self.ends[job_id] += 1
        else:
            assert became == "queued"
            self.move(job_id, Status.QUEUED)

    @rule(claimed=held)
    def worker_dies(self, claimed: Claimed) -> None:
        job_id = claimed.lease.job_id
        if self.is_held(claimed):
            lapse(self.redis, claimed)
            self.returned(job_id, reap(self.store)[job_id], crash=True)
        else:
            assert reap(self.store) == {}

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        if self.status[job_id] is None:
            with pytest.raises(JobGone):
                self.store.cancel(job_id, tenant=TENANT)
            return
        if self.status[job_id] not in FINAL:
            self.move(job_id, Status.CANCELED)
        assert self.store.cancel(job_id, tenant=TENANT).status is self.status[job_id]

    @rule(job_id=jobs)
    def deadline(self, job_id: str) -> None:
        if self.redis.zscore(keys.DEADLINES, job_id) is None:
            return
        self.redis.zadd(keys.DEADLINES, {job_id: 1})
        assert self.store.run(worker_calls.expire()) == [job_id]
        self.move(job_id, Status.EXPIRED)

    @rule(job_id=jobs)
    def delete(self, job_id: str) -> None:
        if self.status[job_id] is not None:
            self.store.delete(job_id, tenant=TENANT)
            self.status[job_id] = None
            self.lease.pop(job_id, None)

    @rule(job_id=jobs, how=st.sampled_from(["delete", "cancel", "empty", "list"]))
    def rq_tools(self, job_id: str, how: str) -> None:
        """Take the queues' content, or one job, away past our scripts; a sweep comes."""
        queue = RQQueue("demo.normal", connection=self.redis, serializer=JSONSerializer)
        gone: list[str] = []
        if how == "empty":
            gone = queue.job_ids
            queue.empty()
        elif how == "list":
            self.redis.delete(queue.key)
        elif job_id in self.open():
            gone = [job_id]
            job = Job.fetch(job_id, connection=self.redis, serializer=JSONSerializer)
            job.delete() if how == "delete" else job.cancel()
        assert sum(settled.ended for settled in self.store.settle()) == len(gone)
        self.sweep()
        for each in gone:
            self.move(each, Status.CANCELED)
            if how != "cancel":
                self.status[each] = None

    @rule()
    def sweep(self) -> None:
        self.store.run(worker_calls.sweep("demo"))

    @rule()
    def forget_scripts(self) -> None:
        self.redis.script_flush()

    @invariant()
    def the_system_is_the_model(self) -> None:
        Queue.total += 1
        for job_id, status in self.status.items():
            if status is None:
                assert not self.redis.exists(f"rq:job:{job_id}")
            else:
                assert read(self.store, job_id).status is status
                assert len(ended_by(self.redis, job_id)) == self.ends[job_id]

    @invariant()
    def every_waiting_job_waits_in_one_place_and_is_counted(self) -> None:
        lines = [self.redis.lrange(key, 0, -1) for key in self.redis.scan_iter("rq:queue:*")]
        asides = [self.redis.zrange(key, 0, -1) for key in self.redis.scan_iter("pw:aside:*")]
        waiting = [i.decode() for ids in (*lines, *asides) for i in ids]
        queued = [i for i, s in self.status.items() if s is Status.QUEUED]
        assert sorted(waiting) == sorted(queued)
        assert int(self.redis.hget("pw:backlog:demo", "jobs") or 0) == len(queued)

    @invariant()
    def a_group_knows_which_of_its_jobs_have_not_ended(self) -> None:
        assert len(list(self.redis.scan_iter("pw:group:*"))) == 2 * len(self.sizes)
        entries = len(list(self.redis.scan_iter("pw:idempotency:*")))
        assert entries == len(self.groups)
        open_ = set(self.open())
        for group_id, ids in self.sizes.items():
            left = int(self.redis.hget(keys.group_ends(group_id), "left"))
            assert left == len(open_ & set(ids))

    @invariant()
    def leases_and_quota_are_those_of_open_jobs(self) -> None:
        wip = [
            m.decode()
            for key in self.redis.scan_iter("rq:wip:*")
            for m in self.redis.zrange(key, 0, -1)
        ]
        assert sorted(wip) == sorted(f"{job}:{eid}" for job, eid in self.lease.items())
        open_ = {i.decode() for i in self.redis.zrange(keys.tenant_open(TENANT), 0, -1)}
        assert open_ == set(self.open())
        kept = {i.decode() for i in self.redis.hkeys(f"pw:tenant:{TENANT}:kept")}
        assert kept == open_
        dated = {i.decode() for i in self.redis.zrange(keys.DEADLINES, 0, -1)}
        assert dated <= open_


@pytest.fixture
def machine(redis: Redis) -> Iterator[type[Queue]]:
    Queue.redis, Queue.total = redis, 0
    yield Queue
    redis.flushall()


def run(machine: type[Queue], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"T10: {machine.total} steps, the system was the model after each")


def test_t10_any_history_leaves_the_queue_as_the_model_says(machine: type[Queue]):
    run(machine, EXAMPLES, STEPS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_t10_ten_thousand_steps(machine: type[Queue]):
    run(machine, 200, 60)
