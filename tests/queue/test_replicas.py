"""durability=replicated: what is answered is on a replica, so a failover forgets none of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from jobs.contract.parsing import parse_request
from jobs.contract.record import Status
from jobs.contract.submission import AdmitLimits, AdmittedGroup, Idempotency
from jobs.errors import NotReplicated, QueueFull
from jobs.ids import new_job_id
from jobs.store.connection import CALL_BUDGET_S
from jobs.store.job_store import AsyncJobStore, JobStore
from tests.helpers import wait_until
from tests.queue.copies import Copies, client, copies
from tests.queue.making import (
    NO_LIMITS,
    TENANT,
    a_spec,
    admit,
    admit_group,
    claim,
    ended_by,
    finish,
    new_group,
    read,
)

ASKED = parse_request({"prompt": "a red bicycle"})


@pytest.fixture
def pair(memory_folder: Path, redis_binary: Path) -> Iterator[Copies]:
    with (
        TemporaryDirectory(dir=memory_folder) as folder,
        copies(Path(folder), 1, cuttable=True, binary=redis_binary) as made,
    ):
        yield made


def key(k: int) -> Idempotency:
    return Idempotency.of(f"k{k}", scope=f"{TENANT} POST /v1/jobs", request=ASKED)


@dataclass
class Sent:
    """What clients were answered: keys accepted, with their job, and keys not confirmed."""

    accepted: dict[int, str] = field(default_factory=dict[int, str])
    unconfirmed: list[int] = field(default_factory=list[int])
    slowest_s: float = 0.0


def send(url: str, keys: range | list[int], *, replicas: int, into: Sent) -> None:
    """Each key once, eight at a time."""

    async def run() -> None:
        store, turns = AsyncJobStore(url, replicas=replicas), asyncio.Semaphore(8)

        async def one(k: int) -> None:
            async with turns:
                began_s = time.monotonic()
                try:
                    admitted = await store.admit(
                        a_spec(seed=k),
                        tenant=TENANT,
                        job_id=new_job_id(),
                        idempotency=key(k),
                        limits=NO_LIMITS,
                    )
                    into.accepted[k] = admitted.record.id
                except NotReplicated:
                    into.unconfirmed.append(k)
                into.slowest_s = max(into.slowest_s, time.monotonic() - began_s)

        await asyncio.gather(*(one(k) for k in keys))
        await store.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("replicas", [1, 0], ids=["replicated", "primary only"])
def test_t13_a_failover_with_a_cut_link_forgets_nothing_that_was_accepted(
    pair: Copies, replicas: int
):
    sent = Sent()
    send(pair.primary.url, range(100), replicas=replicas, into=sent)
    pair.link_up()
    pair.cut()
    send(pair.primary.url, range(100, 140), replicas=replicas, into=sent)
    pair.primary.kill()
    heir = pair.promote()

    with client(heir) as redis:
        lost = [i for i in sent.accepted.values() if not redis.exists(f"rq:job:{i}")]
    print(
        f"T13: durability of {replicas} replicas: {len(sent.accepted)} accepted, lost {len(lost)};"
        f" {len(sent.unconfirmed)} not confirmed, in {sent.slowest_s:.2f} s at most"
    )
    if replicas == 0:
        assert len(lost) == 40  # what the setting is for
        return
    assert lost == []
    assert set(sent.unconfirmed) >= set(range(100, 140))
    assert sent.slowest_s < CALL_BUDGET_S + 0.5
    again = Sent()
    send(heir.url, sent.unconfirmed, replicas=0, into=again)  # the clients come again
    send(heir.url, sorted(sent.accepted), replicas=0, into=again)  # and some needlessly
    assert {k: again.accepted[k] for k in sent.accepted} == sent.accepted
    with client(heir) as redis:
        assert redis.llen("rq:queue:demo.normal") == 140 == len(again.accepted)


def test_a_replay_is_not_confirmed_by_a_connection_that_wrote_nothing(pair: Copies):
    pair.cut()
    first, second, mended = Sent(), Sent(), Sent()
    send(pair.primary.url, [1], replicas=1, into=first)
    send(pair.primary.url, [1], replicas=1, into=second)  # a connection of its own
    pair.cut("ok")
    pair.link_up()
    wait_until(lambda: sent_again(pair, mended), "the replay is confirmed")

    assert first.unconfirmed == second.unconfirmed == [1]
    with client(pair.primary) as redis:
        assert redis.lrange("rq:queue:demo.normal", 0, -1) == [mended.accepted[1].encode()]


def sent_again(pair: Copies, into: Sent) -> bool:
    send(pair.primary.url, [1], replicas=1, into=into)
    return 1 in into.accepted


def test_a_refusal_is_said_as_it_is_and_reading_needs_no_replica(pair: Copies):
    pair.cut()
    with JobStore(pair.primary.url, replicas=1) as store:
        job_id = new_job_id()
        with pytest.raises(NotReplicated, match="0 of 1 replicas"):
            store.admit(a_spec(), tenant=TENANT, job_id=job_id, limits=NO_LIMITS)
        with pytest.raises(QueueFull):
            store.admit(
                a_spec(), tenant=TENANT, job_id=new_job_id(), limits=AdmitLimits(max_jobs=1)
            )
        assert read(store, job_id).status is Status.QUEUED
        with pytest.raises(NotReplicated):
            store.cancel(job_id, tenant=TENANT)
        assert read(store, job_id).status is Status.CANCELED  # done, and only not confirmed


def test_a_group_that_a_failover_forgot_is_forgotten_whole_and_a_kept_one_is_whole(pair: Copies):
    with JobStore(pair.primary.url, replicas=1) as store:
        kept = wait_until(lambda: a_kept_group(store), "a replica has it")
        pair.link_up()
        pair.cut()
        with pytest.raises(NotReplicated):
            store.admit_group(new_group(5), tenant=TENANT, idempotency=key(2), limits=NO_LIMITS)
    pair.primary.kill()
    heir = pair.promote()

    with JobStore(heir.url) as store, client(heir) as redis:
        assert len(list(redis.scan_iter("rq:job:*"))) == 5
        assert admit_group(store, 5, idempotency=key(1)).group == kept.group
        assert not admit_group(store, 5, idempotency=key(2)).replayed  # sent again: the only one
        assert len(list(redis.scan_iter("pw:group:*:ends"))) == 2


def a_kept_group(store: JobStore) -> AdmittedGroup | None:
    try:
        return admit_group(store, 5, idempotency=key(1))
    except NotReplicated:  # the replica is not there yet
        return None


def test_an_end_that_a_failover_forgot_is_written_again_by_its_worker(pair: Copies):
    with JobStore(pair.primary.url) as store:
        job_id = admit(store)
        (claimed,) = claim(store)
    pair.link_up()
    pair.cut()
    with JobStore(pair.primary.url, replicas=1) as store:
        for _ in range(2):
            with pytest.raises(NotReplicated):
                finish(store, claimed)
    pair.primary.kill()
    heir = pair.promote()

    with JobStore(heir.url) as store, client(heir) as redis:
        assert read(store, job_id).status is Status.RUNNING  # the heir does not know of the end
        assert finish(store, claimed) == "ok"
        assert len(ended_by(redis, job_id)) == 1
