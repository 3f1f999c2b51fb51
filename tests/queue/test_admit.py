"""Admission is one step: whatever races, what is promised holds."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from redis import Redis

from deploy import servers
from deploy.service import free_port
from jobs.contract.parsing import parse_request
from jobs.contract.record import Status
from jobs.contract.submission import AdmitLimits, Admitted, Idempotency
from jobs.errors import (
    IdempotencyMismatch,
    JobGone,
    JobMissing,
    QueueFull,
    SettingsError,
    StoreUnavailable,
    TenantLimit,
)
from jobs.ids import new_job_id
from jobs.settings import WAIVABLE
from jobs.store.job_store import AsyncJobStore, JobStore
from tests.queue.making import NO_LIMITS, TENANT, a_spec, admit, claim, claimed_ids, finish, read

ASKED = parse_request({"prompt": "a red bicycle"})
KEY = Idempotency.of("k1", scope=f"{TENANT} POST /v1/jobs", request=ASKED)


def race(url: str, calls: int, one: Callable[[AsyncJobStore], Awaitable[Admitted]]) -> list[object]:
    """`calls` of it at the same time; what each gave or raised."""

    async def run() -> list[object]:
        store = AsyncJobStore(url)
        try:
            return list(
                await asyncio.gather(*(one(store) for _ in range(calls)), return_exceptions=True)
            )
        finally:
            await store.aclose()

    return asyncio.run(run())


def one_job(limits: AdmitLimits = NO_LIMITS, idempotency: Idempotency | None = None):
    async def one(store: AsyncJobStore) -> Admitted:
        job_id = new_job_id()
        while True:
            try:
                return await store.admit(
                    a_spec(), tenant=TENANT, job_id=job_id, idempotency=idempotency, limits=limits
                )
            except StoreUnavailable:  # a busy machine: sent again, as a client does
                continue

    return one


def test_t06_200_sendings_with_one_key_make_one_job(redis_url: str, redis: Redis):
    answers = race(redis_url, 200, one_job(idempotency=KEY))

    admitted = [a for a in answers if isinstance(a, Admitted)]
    assert len(admitted) == 200
    assert len({a.record.id for a in admitted}) == 1
    assert sum(not a.replayed for a in admitted) == 1
    assert redis.llen("rq:queue:demo.normal") == 1


def test_the_queue_never_holds_more_than_it_may(redis_url: str, redis: Redis):
    answers = race(redis_url, 200, one_job(AdmitLimits(max_jobs=50, tenant_jobs=None)))

    assert sum(isinstance(a, Admitted) for a in answers) == 50
    assert sum(isinstance(a, QueueFull) for a in answers) == 150


def test_a_tenant_never_has_more_than_it_may_and_room_comes_back(redis_url: str, store: JobStore):
    limits = AdmitLimits(tenant_jobs=10)

    answers = race(redis_url, 30, one_job(limits))

    assert sum(isinstance(a, TenantLimit) for a in answers) == 20
    assert finish(store, claim(store)[0]) == "ok"
    admit(store, limits=limits)
    with pytest.raises(TenantLimit):
        admit(store, limits=limits)


def test_work_is_bounded_too(store: JobStore):
    cost = a_spec().cost
    limits = AdmitLimits(max_cost=2.5 * cost)

    for _ in range(3):
        admit(store, limits=limits)

    with pytest.raises(QueueFull):
        admit(store, limits=limits)


def test_t08_a_key_used_for_another_request_is_refused(store: JobStore):
    other = Idempotency.of(
        "k1", scope=f"{TENANT} POST /v1/jobs", request=parse_request({"prompt": "a blue one"})
    )
    store.admit(a_spec(), tenant=TENANT, job_id=new_job_id(), idempotency=KEY)

    with pytest.raises(IdempotencyMismatch):
        store.admit(a_spec(), tenant=TENANT, job_id=new_job_id(), idempotency=other)


def test_a_replay_outlives_the_end_and_says_gone_when_the_job_is(store: JobStore):
    first = store.admit(a_spec(), tenant=TENANT, job_id=new_job_id(), idempotency=KEY).record
    finish(store, claim(store)[0])

    again = store.admit(a_spec(), tenant=TENANT, job_id=new_job_id(), idempotency=KEY)
    store.delete(first.id, tenant=TENANT)

    assert again.replayed
    assert (again.record.id, again.record.status) == (first.id, Status.SUCCEEDED)
    with pytest.raises(JobGone):
        store.admit(a_spec(), tenant=TENANT, job_id=new_job_id(), idempotency=KEY)


def test_t07_a_second_sending_after_a_lost_reply_changes_nothing(store: JobStore, redis: Redis):
    job_id = new_job_id()

    for _ in range(3):
        assert not store.admit(a_spec(), tenant=TENANT, job_id=job_id).replayed

    assert redis.lrange("rq:queue:demo.normal", 0, -1) == [job_id.encode()]
    assert redis.hget("pw:backlog:demo", "jobs") == b"1"


def test_position_and_listing(store: JobStore, redis_url: str):
    ids = [admit(store) for _ in range(5)]
    first = admit(store, priority="high")

    places = [read(store, i).queue for i in [first, *ids]]
    assert [p.position for p in places if p] == [0, 1, 2, 3, 4, 5]

    async def pages() -> list[str]:
        follow = AsyncJobStore(redis_url)
        seen: list[str] = []
        cursor = None
        while True:
            page = await follow.list(TENANT, cursor=cursor, limit=4)
            seen += [job.id for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None:
                await follow.aclose()
                return seen

    assert asyncio.run(pages()) == sorted([*ids, first], reverse=True)


def test_another_tenants_job_is_missing_and_a_deleted_one_gone(store: JobStore):
    job_id = admit(store)

    for call in (store.read, store.cancel, store.delete):
        with pytest.raises(JobMissing) as missing:
            call(job_id, tenant="other")
        assert not isinstance(missing.value, JobGone)

    assert store.delete(job_id, tenant=TENANT) == (f"images/{TENANT}/{job_id}/0.png",)
    with pytest.raises(JobGone):
        read(store, job_id)
    with pytest.raises(JobMissing) as hidden:
        read(store, job_id, tenant="other")
    assert not isinstance(hidden.value, JobGone)


def test_one_tenants_flood_stands_aside_and_nobody_waits_behind_it(store: JobStore):
    limits = AdmitLimits(tenant_line=8)
    flood = [admit(store, tenant="flood", limits=limits) for _ in range(100)]
    b = admit(store, tenant="b", limits=limits)

    place = read(store, b, "b").queue
    assert place is not None
    assert place.position == 8
    served = [c.lease.job_id for _ in range(101) for c in claim(store)]
    assert served.index(b) == 8
    assert [j for j in served if j != b] == flood  # and the flood keeps its own order


def test_positions_aside_are_exact_whatever_the_order_of_ids(store: JobStore):
    limits = AdmitLimits(tenant_line=2)
    ids = [new_job_id(now_ms=ms) for ms in (5, 1, 9, 2, 8, 3, 7, 4, 6)]  # APIs of many clocks
    for job_id in ids:
        store.admit(a_spec(), tenant=TENANT, job_id=job_id, limits=limits)
    store.cancel(ids.pop(5), tenant=TENANT)

    places = [read(store, job_id).queue for job_id in ids]

    assert [place and place.position for place in places] == list(range(8))
    assert [claimed_ids(store) for _ in ids] == [[job_id] for job_id in ids]


def test_a_server_that_would_lose_jobs_is_refused_with_the_reason(store: JobStore, redis: Redis):
    store.check_server()
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(SettingsError, match="noeviction"):
            store.check_server()
        store.check_server(waived=["eviction"])
    finally:
        redis.config_set("maxmemory-policy", "noeviction")


def test_a_node_of_a_cluster_is_refused_with_what_to_do(memory_folder: Path, redis_binary: Path):
    with TemporaryDirectory(dir=memory_folder) as folder:
        node = servers.valkey(
            Path(folder), password="p", port=free_port(10_000), binary=redis_binary
        )
        with (Path(folder) / "valkey.conf").open("a") as config:
            config.write("cluster-enabled yes\n")
        node.start()
        try:
            node.wait_ready()
            with (
                JobStore(node.url) as store,
                pytest.raises(SettingsError, match="redis\\+sentinel://, see docs/scaling"),
            ):
                store.check_server(waived=WAIVABLE)
        finally:
            node.kill()


def test_a_server_that_is_away_is_said_within_the_budget(unused_tcp_port_: int):
    async def ask() -> float:
        store = AsyncJobStore(f"redis://127.0.0.1:{unused_tcp_port_}/0")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.read(new_job_id(), tenant=TENANT)
        await store.aclose()
        return time.monotonic() - began

    assert asyncio.run(ask()) < 2.0


@pytest.fixture
def unused_tcp_port_() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
