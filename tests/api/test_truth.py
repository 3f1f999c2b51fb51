"""T68, T69: the counters of /metrics are what was done, and their series are bounded.

Real worker processes on a fake engine, killed as they work; the table of jobs is the truth.
"""

from __future__ import annotations

import ast
import random
from collections import Counter
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from api.settings import ApiSettings
from deploy import servers
from jobs.contract.submission import AdmitLimits
from jobs.store import keys
from jobs.store.counters import FAILURES, Count, counts_in
from jobs.store.job_store import JobStore
from jobs.store.scripts import worker_calls
from tests.api.hand_worker import HandWorker
from tests.api.serving import serving
from tests.api.test_metrics import scraped
from tests.helpers import wait_until
from tests.queue.making import QUICK, admit, claim, finish, lapse, reap
from tests.queue.worker_process import worker_process

NO_LIMITS = AdmitLimits(max_jobs=None, tenant_jobs=None)
JOBS = 200


def truth(redis: Redis, ids: list[str]) -> Counter[tuple[str, str]]:
    """What became of each job, from its own record: outcome and reason."""
    with JobStore(redis) as store:
        records = [store.read(i, tenant="acme") for i in ids]
    # the fake engine fails with a code that no real one has
    codes = [r.error.code if r.error else "" for r in records]
    known = [code if code in ("", *FAILURES) else "other" for code in codes]
    return Counter(zip((r.status.value for r in records), known, strict=True))


def told(api: httpx2.Client) -> Counter[tuple[str, str]]:
    """The same, from the counters."""
    found: Counter[tuple[str, str]] = Counter()
    for (name, labels), value in scraped(api).items():
        if name == "printworks_jobs_total":
            words = dict(pair.split("=") for pair in labels.split(","))
            found[words["outcome"].strip('"'), words["reason"].strip('"')] += int(value)
    return found


@pytest.fixture
def environ(redis_url: str, s3_settings: dict[str, str]) -> dict[str, str]:
    shared = {f"PRINTWORKS_{name.upper()}": value for name, value in s3_settings.items()}
    return {"PRINTWORKS_REDIS_URL": redis_url, **shared, **QUICK}


def test_t68_counters_equal_what_was_done_through_kills_cancels_failures_and_a_restart(
    api_settings: ApiSettings,
    environ: dict[str, str],
    redis: Redis,
    valkey_server: servers.Valkey,
):
    chance, ids, kills = random.Random(20261123), [], 0
    with JobStore(redis) as store:
        for k in range(JOBS):
            prompt = "fail" if k % 10 == 3 else "poison" if k == 77 else "a cat"
            asked = {"prompt": prompt, "steps": 5, "seed": k, "limits": NO_LIMITS}
            ids.append(admit(store, **asked, deadline_s=0.05 if k % 40 == 9 else None))
        for job_id in chance.sample(ids, 20):
            store.cancel(job_id, tenant="acme")

        def left() -> int:
            return redis.zcard(keys.tenant_open("acme"))

        while left():
            with worker_process(environ, step_s=0.002) as worker:
                before = left()
                aim = max(0, before - chance.randrange(40, 80)) if kills < 2 else 0
                wait_until(lambda aim=aim: left() <= aim, "jobs end", 90)
                if kills < 2:
                    worker.kill()
                    kills += 1
                else:
                    worker.terminate()
                    assert worker.wait(20) == 0

    with serving(api_settings) as first:
        counted = told(first.client)
    # what is counted outlives every process, Redis's own too
    valkey_server.kill()
    valkey_server.start()
    valkey_server.wait_ready()
    with serving(api_settings) as second:
        seen = scraped(second.client)
        again = told(second.client)

    with Redis.from_url(valkey_server.url) as back:
        happened = truth(back, ids)
    assert counted == again == happened
    assert counted.total() == JOBS
    assert counted["failed", "crashed"] == seen["printworks_poison_total", ""]
    assert seen["printworks_images_total", 'model="demo"'] == happened["succeeded", ""]
    seconds = {
        labels: value
        for (name, labels), value in seen.items()
        if name == "printworks_job_seconds_count" and 'phase="total"' in labels
    }
    assert sum(seconds.values()) == JOBS
    assert seen["printworks_s3_requests_total", 'code="ok",op="put"'] > 0
    assert seen["printworks_worker_restarts_total", 'cause="killed"'] >= 1
    print(f"T68: {JOBS} jobs, {kills} workers killed, {dict(happened)}: difference 0")


def test_leases_lapsed_ends_refused_and_ways_back_are_counted(
    redis: Redis, redis_url: str, api_settings: ApiSettings
):
    with JobStore(redis) as store:
        for _ in range(3):
            admit(store)
        lost, crashed, drained = claim(store, 3)
        lapse(redis, lost)
        wait_until(lambda: reap(store), "its lease is seen to be over")
        store.run(worker_calls.hand_back([crashed.lease], "crash"))
        store.run(worker_calls.hand_back([drained.lease], "drain"))
        assert finish(store, lost) == "lost"
    with serving(api_settings) as served:
        seen = scraped(served.client)

    assert seen["printworks_lease_expired_total", ""] == 1
    assert seen["printworks_fenced_writes_total", ""] == 1
    assert seen["printworks_poison_total", ""] == 0
    for why in ("lease", "crash", "drain"):
        assert seen["printworks_jobs_returned_total", f'why="{why}"'] == 1


def test_t69_a_hundred_tenants_keys_and_reasons_make_no_series(
    api_settings: ApiSettings, redis: Redis, redis_url: str, worker: HandWorker
):
    def series() -> int:
        with serving(api_settings) as served:
            return len(scraped(served.client))

    with JobStore(redis) as store:
        admit(store)
        worker.fail(worker.take())
        before = series()
        for k in range(100):
            admit(store, tenant=f"tenant-{k}", prompt=f"prompt {k}", limits=NO_LIMITS)
            claimed = worker.take()
            redis.hset(keys.rq_key("job", claimed.lease.job_id), "x_key", f"key{k}")
            error = f'{{"code": "made_up_{k}", "message": "", "retryable": false}}'
            ending = worker_calls.Ending(
                word="failed", rq_status="failed", result={}, fields={"x_error": error}
            )
            store.run(worker_calls.finish("hand-worker", claimed.lease, ending))
        after = series()
        fields = redis.hlen("pw:counts")

    assert after - before == 1  # reason="other"
    assert fields < 40
    print(f"T69: 100 tenants, keys, prompts and reasons: {after - before} more series of {after}")


def test_a_counter_of_a_million_still_counts(api_settings: ApiSettings, redis: Redis):
    redis.hset("pw:counts", "images|demo", 1_234_567)

    with serving(api_settings) as served:
        assert scraped(served.client)["printworks_images_total", 'model="demo"'] == 1_234_567


def test_every_error_code_of_a_worker_is_a_reason(root: Path):
    made = set()
    for path in [*(root / "worker").rglob("*.py"), root / "jobs/store/scripts/worker_calls.py"]:
        if "courier" in path.parts:
            continue  # of webhooks, not of jobs
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("JobError", "Fatal"):
                made |= {
                    k.value.value
                    for k in node.keywords
                    if k.arg == "code" and isinstance(k.value, ast.Constant)
                }
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code":
                made |= {node.value.value} if isinstance(node.value, ast.Constant) else set()

    assert made <= set(FAILURES)


def test_counts_are_read_by_name_and_labels():
    fields = {"jobs|demo|failed|crashed": "2", "poison": "1"}

    assert list(counts_in(fields)) == [
        Count("jobs", ("demo", "failed", "crashed"), 2.0),
        Count("poison", (), 1.0),
    ]
