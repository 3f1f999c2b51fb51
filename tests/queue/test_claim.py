"""Who is served next: order, bypass, priorities, deadlines, suspects."""

from __future__ import annotations

import pytest
from redis import Redis

from jobs.contract.record import Status
from jobs.store.job_store import JobStore
from tests.queue.making import admit, claim, claimed_ids, read, statuses

SMALL = frozenset({"64x64"})


def made_long_ago(redis: Redis, job_id: str, age_s: float) -> None:
    redis.hset(f"rq:job:{job_id}", "x_enq", redis.time()[0] - age_s)


def test_first_come_first_served(store: JobStore):
    ids = [admit(store) for _ in range(5)]

    assert claimed_ids(store, 3) + claimed_ids(store, 3) == ids


def test_two_workers_never_get_the_same_job(store: JobStore):
    ids = [admit(store) for _ in range(20)]

    given = [i for k in range(20) for i in claimed_ids(store, 3, worker=f"w{k}")]

    assert sorted(given) == sorted(ids)


def test_a_job_of_many_images_takes_as_many_places(store: JobStore):
    first, _second = admit(store, n=4), admit(store, n=4)

    assert claimed_ids(store, 4) == [first]


def test_a_fitting_size_may_pass_for_a_while_and_then_no_more(store: JobStore, redis: Redis):
    odd = admit(store, size="128x64")
    fitting = [admit(store) for _ in range(3)]

    passed = claimed_ids(store, 1, running=4, size_classes=SMALL)
    made_long_ago(redis, odd, 9)
    then = claimed_ids(store, 1, running=4, size_classes=SMALL)

    assert passed == fitting[:1]
    assert then == [odd]


def test_a_preference_leaves_no_place_empty(store: JobStore):
    odd, fitting = admit(store, size="128x64"), admit(store)

    assert claimed_ids(store, 4, running=4, size_classes=SMALL) == [fitting, odd]


def test_high_goes_first_and_low_last(store: JobStore):
    low, normal, high = (admit(store, priority=p) for p in ("low", "normal", "high"))

    assert claimed_ids(store, 3) == [high, normal, low]


def test_what_waits_long_in_a_lower_line_gets_its_turn(store: JobStore, redis: Redis):
    low, normal = admit(store, priority="low"), admit(store)
    high = [admit(store, priority="high") for _ in range(4)]
    made_long_ago(redis, low, 40)

    assert claimed_ids(store, 2, aged_first_s=30) == [low, high[0]]
    assert claimed_ids(store, 1, aged_first_s=30) == [high[1]]  # normal has not waited long
    assert normal in claimed_ids(store, 9)


def test_t18_a_job_past_its_deadline_never_starts(store: JobStore, redis: Redis):
    late, good = admit(store, deadline_s=60), admit(store)
    redis.hset(f"rq:job:{late}", "x_deadline", "1")

    assert claimed_ids(store, 5) == [good]
    assert read(store, late).status is Status.EXPIRED
    assert read(store, late).progress.step == 0
    assert redis.hget(f"rq:job:{late}", "x_attempts") is None


def test_a_suspect_runs_alone(store: JobStore, redis: Redis):
    suspect, other = admit(store), admit(store)
    redis.hset(f"rq:job:{suspect}", "x_solo", "1")

    assert claimed_ids(store, 5, running=1, size_classes=SMALL) == [other]
    more = admit(store)
    assert claimed_ids(store, 5) == [suspect]
    made_long_ago(redis, more, 0)
    assert claimed_ids(store, 5) == [more]


def test_an_aged_suspect_makes_a_busy_worker_empty_itself(store: JobStore, redis: Redis):
    suspect, _other = admit(store), admit(store)
    redis.hset(f"rq:job:{suspect}", "x_solo", "1")
    made_long_ago(redis, suspect, 9)

    assert claimed_ids(store, 5, running=1, size_classes=SMALL) == []
    assert claimed_ids(store, 5) == [suspect]


def test_a_canceled_job_in_the_line_is_not_run(store: JobStore, redis: Redis):
    ids = [admit(store) for _ in range(3)]
    redis.hset(f"rq:job:{ids[0]}", "status", "canceled")  # as RQ's own Job.cancel in mid-way
    redis.delete(f"rq:job:{ids[1]}")

    assert claimed_ids(store, 5) == ids[2:]
    redis.delete(f"rq:job:{ids[0]}")


@pytest.mark.parametrize("depth", [0, 1])
def test_the_backlog_counts_what_waits(store: JobStore, redis: Redis, depth: int):
    ids = [admit(store) for _ in range(6)]
    claim(store, 2)
    store.cancel(ids[3], tenant="acme")

    assert int(redis.hget("pw:backlog:demo", "jobs") or 0) == 3
    claim(store, 9)
    assert float(redis.hget("pw:backlog:demo", "cost") or 1) == pytest.approx(0, abs=1e-9)
    assert statuses(store, ids).count("running") == 5
