"""A group is accepted in one step: whole, or not at all, whatever races, is lost or is missing."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from redis import Redis

from jobs.contract.parsing import parse_request
from jobs.contract.submission import AdmitLimits, AdmittedGroup, Idempotency, NewGroup, NewJob
from jobs.errors import IdempotencyMismatch, InputMissing, JobGone, QueueFull, TenantLimit
from jobs.ids import new_job_id
from jobs.store import keys
from jobs.store.job_store import AsyncJobStore, JobStore
from jobs.store.scripts import input_calls
from tests.queue.making import (
    TENANT,
    a_spec,
    admit,
    admit_group,
    claim,
    claimed_ids,
    everything,
    finish,
    new_group,
    statuses,
)

ASKED = parse_request({"prompt": "a red bicycle"})
OTHER = parse_request({"prompt": "a blue one"})
KEY = Idempotency.of("k1", scope=f"{TENANT} POST /v1/job-groups", request=ASKED)


@pytest.mark.parametrize(
    ("limits", "refusal"),
    [
        (AdmitLimits(tenant_jobs=4), TenantLimit),
        (AdmitLimits(max_jobs=4), QueueFull),
        (AdmitLimits(max_cost=a_spec().cost * 3.5), QueueFull),
    ],
)
def test_a_group_that_does_not_fit_writes_nothing(
    store: JobStore, redis: Redis, limits: AdmitLimits, refusal: type[Exception]
):
    admit(store)
    admit(store)
    before = everything(redis)

    with pytest.raises(refusal):
        admit_group(store, 3, limits=limits, idempotency=KEY, deadline_s=60)

    assert everything(redis) == before
    assert len(admit_group(store, 2, limits=limits, idempotency=KEY).records) == 2


def test_the_edge_is_exact(store: JobStore):
    limits = AdmitLimits(tenant_jobs=5, max_jobs=5)

    assert len(admit_group(store, 5, limits=limits).records) == 5
    with pytest.raises(TenantLimit, match="5 of your jobs are unfinished"):
        admit(store, limits=limits)
    with pytest.raises(QueueFull):
        admit_group(store, 1, tenant="other", limits=limits)


def test_one_missing_input_refuses_all_and_holds_none(store: JobStore, redis: Redis):
    there, gone = "64x64-" + "1" * 64, "64x64-" + "2" * 64
    store.run(input_calls.keep(TENANT, there, "bytes", changes=(), hold_s=600))
    jobs = [
        NewJob(id=new_job_id(), spec=a_spec().model_copy(update={"image": image}))
        for image in (there, there, gone)
    ]
    before = everything(redis)

    with pytest.raises(InputMissing):
        store.admit_group(NewGroup(id=new_job_id(), jobs=jobs), tenant=TENANT)
    refused = everything(redis)
    store.admit_group(NewGroup(id=new_job_id(), jobs=jobs[:2]), tenant=TENANT)

    assert refused == before
    holds = redis.zrange(f"pw:input:{TENANT}/{there}:holds", 0, -1)
    assert set(holds) == {b"upload", *(job.id.encode() for job in jobs[:2])}


def test_sent_again_by_its_key_or_after_a_lost_reply_it_is_the_same(store: JobStore):
    group = new_group(3)
    first = store.admit_group(group, tenant=TENANT, idempotency=KEY)
    finish(store, claim(store)[0])
    store.delete(first.records[1].id, tenant=TENANT)

    lost_reply = store.admit_group(group, tenant=TENANT, idempotency=KEY)
    by_key = admit_group(store, 3, idempotency=KEY, limits=AdmitLimits(tenant_jobs=1))

    for again in (lost_reply, by_key):
        assert again.group == first.group
        assert [r.status.value for r in again.records] == ["succeeded", "queued"]
        assert again.gone == (first.records[1].id,)
    assert (first.replayed, by_key.replayed) == (False, True)
    other = Idempotency.of("k1", scope=f"{TENANT} POST /v1/job-groups", request=OTHER)
    with pytest.raises(IdempotencyMismatch):
        admit_group(store, 3, idempotency=other)


def test_a_key_is_known_as_long_as_the_record_of_the_last_job_can_be(store: JobStore, redis: Redis):
    made = admit_group(store, 2, idempotency=KEY)

    longest_s = keys.OPEN_TTL_S + 30 * keys.DAY_S  # a job waits and runs, then its record is kept
    for key in (f"pw:group:{made.group.id}", f"pw:idempotency:{KEY.digest}"):
        assert redis.ttl(key) > longest_s


def test_a_key_whose_group_is_forgotten_says_gone(store: JobStore, redis: Redis):
    first = admit_group(store, 2, idempotency=KEY)
    redis.delete(f"pw:group:{first.group.id}")

    with pytest.raises(JobGone):
        admit_group(store, 2, idempotency=KEY)


def test_a_hundred_of_two_priorities_stand_in_their_lines_in_their_order(
    store: JobStore, redis: Redis
):
    specs = [a_spec(priority="high" if k % 2 else "normal") for k in range(100)]
    jobs = [NewJob(id=new_job_id(), spec=spec) for spec in specs]

    made = store.admit_group(NewGroup(id=new_job_id(), jobs=jobs), tenant=TENANT)

    ids = [job.id for job in jobs]
    assert [record.id for record in made.records] == list(made.group.jobs) == ids
    assert redis.hget("pw:backlog:demo", "jobs") == b"100"
    # eight stand in a line, the rest aside: twelve claims empty both, in the order of the group
    served = [i for _ in range(20) for i in claimed_ids(store, 8)]
    assert served == ids[1::2] + ids[::2]


def test_a_hundred_callers_at_the_edge_are_each_promised_all_or_nothing(
    redis_url: str, store: JobStore, redis: Redis
):
    limits = AdmitLimits(tenant_jobs=50)

    async def race() -> list[AdmittedGroup | BaseException]:
        client = AsyncJobStore(redis_url)

        async def one(k: int) -> AdmittedGroup:
            key = Idempotency.of(f"k{k % 25}", scope=TENANT, request=ASKED)
            return await client.admit_group(
                new_group(6), tenant=TENANT, idempotency=key if k % 2 else None, limits=limits
            )

        try:
            return list(await asyncio.gather(*map(one, range(100)), return_exceptions=True))
        finally:
            await client.aclose()

    answers = asyncio.run(race())

    kept = [a for a in answers if isinstance(a, AdmittedGroup)]
    refused = Counter(type(a) for a in answers if not isinstance(a, AdmittedGroup))
    groups = {a.group.id: a.group for a in kept}
    assert (len(groups), set(refused)) == (8, {TenantLimit})
    jobs = [job for group in groups.values() for job in group.jobs]
    assert statuses(store, jobs) == ["queued"] * 48
    assert redis.zcard(f"pw:tenant:{TENANT}:open") == redis.zcard(f"pw:tenant:{TENANT}:jobs") == 48
    assert len(list(redis.scan_iter("rq:job:*"))) == 48


def test_the_largest_group_costs_redis_the_same_at_any_depth(store: JobStore, redis: Redis):
    admit(store)  # the script is known from now on
    calls, held_ms = [], []
    for depth in (0, 0, 1000):
        for _ in range(depth // 100):
            admit_group(store, 100, deadline_s=600, tenant=f"flood-{depth}")
        redis.config_resetstat()
        admit_group(store, 100, deadline_s=600, tenant=f"t{len(calls)}", limits=AdmitLimits())
        stats = redis.info("commandstats")
        held_ms.append(stats["cmdstat_evalsha"]["usec"] / 1e3)
        calls.append(sum(one["calls"] for one in stats.values()))

    print(f"A21: a group of 100 is {calls[0]} commands, in {min(held_ms):.1f} ms of Redis")
    assert calls[0] == calls[1] == calls[2] < 40 * 100
