"""What the queue costs Redis at depth and with many workers: the real scripts, no engines.

`python -m benchmarks.scaling --jobs 100000`: fills a queue, then lets simulated workers claim, beat
and finish, and reads Redis's own CPU time per command. From that: how many jobs a second, and how
many idle workers, one Redis core carries. docs/scaling.md has a run of it.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from deploy import servers
from jobs import keys
from jobs.admission import AdmitLimits
from jobs.catalogue import load_catalogue
from jobs.ids import new_job_id
from jobs.overview import ModelPace, WorkerReport
from jobs.resolve import resolve
from jobs.scripts import worker_calls
from jobs.scripts.worker_calls import Claimed, ClaimRules, Ending
from jobs.settings import ROOT
from jobs.spec import JobSpec, parse_request
from jobs.store import JobStore

TENANTS = 20
SLOTS = 12
JOB_S = 4.0  # of a batch on one GPU, for the arithmetic at the end
BEAT_S, IDLE_ASKS_S = 3.0, 12.5
DONE = Ending(word="succeeded", rq_status="finished", result={"type": 1}, fields={"x_images": "[]"})
NO_LIMITS = AdmitLimits(max_jobs=None, tenant_jobs=None)


class Bench:
    """One Redis, and its own account of the time it spent."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.redis: Any = store.redis
        self.rows: list[tuple[str, float, float, int]] = []

    @contextmanager
    def cost(self, what: str, count: Callable[[], int]) -> Iterator[None]:
        """Redis's CPU time of what happens inside, for each of `count()`."""
        self.redis.config_resetstat()
        began_s = time.perf_counter()
        yield
        wall_s = time.perf_counter() - began_s
        stats = self.redis.info("commandstats")
        us = sum(s["usec"] for n, s in stats.items() if n in {"cmdstat_evalsha", "cmdstat_eval"})
        n = max(1, count())
        self.rows.append((what, us / n, wall_s / n * 1e6, n))

    def cpu_us(self, what: str) -> float:
        return next(us for name, us, _, _ in self.rows if name == what)


def specs() -> Iterator[JobSpec]:
    catalogue = load_catalogue(ROOT / "models" / "models.toml")
    chance = Random(1)
    sizes = ["128x128"] * 8 + ["128x96", "96x128"]
    for k in range(10**9):
        asked = {
            "prompt": "a red bicycle on a cobblestone street",
            "seed": k,
            "steps": chance.randint(10, 50),
            "size": chance.choice(sizes),
            "priority": chance.choice(["high", "normal", "normal", "normal", "low"]),
        }
        yield resolve(
            parse_request(asked), catalogue, draw_seed=lambda: 1, default_retention_s=3600
        )


def fill(bench: Bench, jobs: int) -> list[tuple[str, str]]:
    """`jobs` jobs of TENANTS tenants; nine of ten belong to the first."""
    chance, made = Random(2), list[tuple[str, str]]()
    source = specs()
    before = bench.redis.info("memory")["used_memory"]
    for part in range(10):
        n = jobs // 10
        with bench.cost(f"admit, depth {part * n:,} to {(part + 1) * n:,}", lambda n=n: n):
            for _ in range(n):
                tenant = "t0" if chance.random() < 0.9 else f"t{chance.randrange(1, TENANTS)}"
                job_id = new_job_id()
                bench.store.admit(next(source), tenant=tenant, job_id=job_id, limits=NO_LIMITS)
                made.append((job_id, tenant))
    used = bench.redis.info("memory")["used_memory"] - before
    print(f"memory: {used / jobs / 1024:.2f} KB a waiting job")
    return made


def read_some(bench: Bench, made: list[tuple[str, str]]) -> None:
    chance = Random(3)
    for what, ids in (("first 100", made[:100]), ("last 100", made[-100:]), ("any", made)):
        sample = [chance.choice(ids) for _ in range(300)]
        with bench.cost(f"read, {what}", lambda: 300):
            for job_id, tenant in sample:
                bench.store.read(job_id, tenant=tenant)


def claim(bench: Bench, worker: str, images: int, running: int = 0) -> list[Claimed]:
    sizes = frozenset({"128x128"} if running else ())
    rules = ClaimRules(images=images, running=running, size_classes=sizes)
    ids = [secrets.token_hex(16) for _ in range(images)]
    lines = keys.queue_names("demo")
    return bench.store.run(worker_calls.claim(worker, rules, queues=lines, execution_ids=ids))


def report(name: str, running: int) -> WorkerReport:
    pace = ModelPace(
        model="demo",
        cost_per_s=2.0,
        running_cost=5.0,
        reproducibility="exact",
        fingerprint="simulated",
        image_steps_per_s=None,
    )
    return WorkerReport(
        name=name, host="h", pid=1, engine_ready=True, draining=False, running=running,
        images=running, slots=SLOTS, step_ms=50.0, models=(pace,),
    )  # fmt: skip


def work(bench: Bench, workers: int, owner: dict[str, str]) -> None:
    """Every worker fills itself, beats, finishes half, and refills one by one."""
    held: dict[str, list[Claimed]] = {}
    with bench.cost(f"claim of {SLOTS}, {workers} workers", lambda: workers):
        for k in range(workers):
            held[f"w{k}"] = claim(bench, f"w{k}", SLOTS)
    with bench.cost(f"beat of {SLOTS} leases, {workers} workers", lambda: workers):
        for name, mine in held.items():
            leases = [c.lease for c in mine]
            call = worker_calls.beat(report(name, len(mine)), leases, worker_ttl_s=60)
            bench.store.run(call)
    served = Counter(owner[c.lease.job_id] for mine in held.values() for c in mine)
    others = sum(n for tenant, n in served.items() if tenant != "t0")
    print(
        f"{workers} workers: {len(served)} tenants served, the flood got {served['t0']}, "
        f"the others {others}"
    )
    with bench.cost(f"finish, {workers} workers", lambda: workers * SLOTS // 2):
        for name, mine in held.items():
            for claimed in mine[: SLOTS // 2]:
                bench.store.run(worker_calls.finish(name, claimed.lease, DONE))
    with bench.cost(f"claim of 1, {workers} workers", lambda: workers):
        for name in held:
            claim(bench, name, 1, running=6)
    wip = {k: bench.redis.zrange(k, 0, -1) for k in bench.redis.scan_iter("rq:wip:*")}
    for key, members in wip.items():
        if members:
            bench.redis.zadd(key, dict.fromkeys(members, 1))
    lost = sum(len(m) for m in wip.values())
    began_s = time.perf_counter()
    with bench.cost(f"reap, {workers} workers lost at once", lambda: lost):
        while bench.store.run(worker_calls.reap(keys.queue_names("demo"), lease_s=0)):
            pass
    print(
        f"{workers} workers lost at once: {lost} jobs back in {time.perf_counter() - began_s:.2f} s"
    )


def idle(bench: Bench) -> None:
    bench.redis.delete(*bench.redis.keys("rq:queue:*"))
    with bench.cost("claim, nothing waits", lambda: 500):
        for _ in range(500):
            claim(bench, "w0", SLOTS)


def conclude(bench: Bench, workers: int) -> None:
    print(f"\n{'what':44}{'Redis us':>10}{'client us':>11}{'n':>9}")
    for what, us, wall, n in bench.rows:
        print(f"{what:44}{us:10.0f}{wall:11.0f}{n:9,}")
    admit = statistics.mean(us for what, us, _, _ in bench.rows if what.startswith("admit"))
    per_job = (
        admit
        + bench.cpu_us(f"claim of 1, {workers} workers")
        + bench.cpu_us(f"finish, {workers} workers")
        + 3 * bench.cpu_us("read, any")
    )
    beat = bench.cpu_us(f"beat of {SLOTS} leases, {workers} workers")
    asks = bench.cpu_us("claim, nothing waits")
    print(
        f"\na job's whole life, three reads included: {per_job:.0f} us of Redis"
        f" = {1e6 / per_job:,.0f} jobs/s on its one core"
    )
    for n in (1, 10, 50, 200):
        rate = n * 8 / JOB_S
        share = (rate * per_job + n / BEAT_S * beat) / 1e6
        quiet = (n * IDLE_ASKS_S * asks + n / BEAT_S * beat) / 1e6
        print(f"{n:4} workers, {rate:6.0f} jobs/s: {share:6.1%} of a core busy, {quiet:6.1%} idle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        valkey = servers.valkey(Path(folder), password=secrets.token_hex(8))
        valkey.start()
        try:
            valkey.wait_ready()
            with JobStore(valkey.url) as store:
                bench = Bench(store)
                made = fill(bench, args.jobs)
                read_some(bench, made)
                owner = dict(made)
                for workers in (1, 10, 50, 200):
                    work(bench, workers, owner)
                idle(bench)
                conclude(bench, 200)
        finally:
            valkey.kill()


if __name__ == "__main__":
    main()
