"""Plain functions for the queue's tests: specs, jobs, claims, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

from redis import Redis

from jobs.contract.model_file import load_catalogue
from jobs.contract.parsing import parse_request
from jobs.contract.record import JobRecord
from jobs.contract.resolve import resolve
from jobs.contract.spec import JobSpec
from jobs.contract.submission import AdmitLimits, AdmittedGroup, Idempotency, NewGroup, NewJob
from jobs.ids import new_job_id
from jobs.settings import ROOT
from jobs.store import keys
from jobs.store.job_store import JobStore
from jobs.store.scripts import worker_calls
from jobs.store.scripts.worker_calls import Claimed, ClaimRules, Ending

CATALOGUE = load_catalogue(ROOT / "models" / "models.toml")
TENANT = "acme"
QUICK = {
    "PRINTWORKS_WORKER_LEASE_S": "2",
    "PRINTWORKS_WORKER_BEAT_S": "0.4",
    "PRINTWORKS_WORKER_REAP_S": "0.2",
    "PRINTWORKS_WORKER_LOG_LEVEL": "info",
}
NO_LIMITS = AdmitLimits(max_jobs=None, tenant_jobs=None, tenant_line=1_000_000)


def a_spec(**asked: Any) -> JobSpec:
    """A small job: one 64x64 image of five steps."""
    request = {"prompt": "a red bicycle", "seed": 7, "steps": 5, "size": "64x64", **asked}
    return resolve(parse_request(request), CATALOGUE, draw_seed=lambda: 7, default_retention_s=3600)


def admit(
    store: JobStore, *, tenant: str = TENANT, limits: AdmitLimits = NO_LIMITS, **asked: Any
) -> str:
    """An accepted job's ID."""
    job_id = new_job_id()
    store.admit(a_spec(**asked), tenant=tenant, job_id=job_id, limits=limits)
    return job_id


def new_group(count: int, **asked: Any) -> NewGroup:
    """A group that nobody has accepted yet."""
    jobs = [NewJob(id=new_job_id(), spec=a_spec(**asked)) for _ in range(count)]
    return NewGroup(id=new_job_id(), jobs=jobs)


def admit_group(
    store: JobStore,
    count: int,
    *,
    tenant: str = TENANT,
    limits: AdmitLimits = NO_LIMITS,
    idempotency: Idempotency | None = None,
    **asked: Any,
) -> AdmittedGroup:
    """An accepted group."""
    group = new_group(count, **asked)
    return store.admit_group(group, tenant=tenant, limits=limits, idempotency=idempotency)


def read(store: JobStore, job_id: str, tenant: str = TENANT) -> JobRecord:
    return store.read(job_id, tenant=tenant)


def everything(redis: Redis) -> dict[bytes, bytes | None]:
    """All that Redis holds, but for its probe."""
    return {key: redis.dump(key) for key in redis.scan_iter() if key != b"pw:probe"}


def statuses(store: JobStore, ids: Iterable[str], tenant: str = TENANT) -> list[str]:
    return [store.read(i, tenant=tenant).status.value for i in ids]


def ended_by(redis: Redis, job_id: str) -> list[str]:
    """Every end that was ever written of a job: one entry of RQ's results each."""
    return [str(entry) for entry, _ in redis.xrange(f"rq:results:{job_id}")]


DONE = Ending(word="succeeded", rq_status="finished", result={}, fields={})
_executions = count()


def claim(
    store: JobStore, images: int = 1, *, worker: str = "w", model: str = "demo", **rules: Any
) -> list[Claimed]:
    """What a worker gets that asks for so many images."""
    asked = ClaimRules(images=images, **{"running": 0, "size_classes": frozenset(), **rules})
    ids = [f"e{next(_executions)}" for _ in range(images)]
    lines = keys.queue_names(model)
    return store.run(worker_calls.claim(worker, asked, queues=lines, execution_ids=ids))


def claimed_ids(store: JobStore, images: int = 1, **rules: Any) -> list[str]:
    return [c.lease.job_id for c in claim(store, images, **rules)]


def reap(store: JobStore, lease_s: int = 0) -> dict[str, str]:
    return store.run(worker_calls.reap(keys.queue_names("demo"), lease_s=lease_s))


def lapse(redis: Redis, claimed: Claimed) -> None:
    """Make a lease run out, as when its worker died a lease ago."""
    redis.zadd(keys.rq_key("wip", claimed.lease.queue), {claimed.lease.both: 1})


def finish(store: JobStore, claimed: Claimed, worker: str = "w") -> str:
    return store.run(worker_calls.finish(worker, claimed.lease, DONE))
