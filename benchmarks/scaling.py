"""The load that one Redis carries: up to 200 workers, 100,000 waiting jobs, in virtual time.

`python -m benchmarks.scaling --jobs 100000 [--out FILE]`: fills a queue (nine tenths of it one
tenant's flood), lets fleets of 1, 10, 50 and 200 simulated workers serve it (the real scripts, a
virtual clock: benchmarks/simulation.py), kills half of each fleet, and says what it cost Redis, how
long recovery took and who waited how long. docs/scaling.md has a run of it.
"""

from __future__ import annotations

import argparse
import math
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psutil

from benchmarks.simulation import BATCH, STEP_S, VirtualStore, World
from deploy import servers
from jobs.contract.model_file import load_catalogue
from jobs.contract.parsing import parse_request
from jobs.contract.resolve import resolve
from jobs.contract.spec import JobSpec
from jobs.contract.submission import AdmitLimits, Admitted
from jobs.ids import new_job_id
from jobs.settings import ROOT
from jobs.store.scripts import Call, admit_calls, client_calls
from jobs.store.scripts.worker_calls import LEASE_S, Claimed

TENANTS = 20
FLEETS = (1, 10, 50, 200)
SECONDS = {1: 60.0, 10: 20.0, 50: 10.0, 200: 5.0}  # virtual, of each part
NO_LIMITS = AdmitLimits(max_jobs=None, tenant_jobs=None)


class Bench:
    """One Redis, its own account of what it did, and what is printed."""

    def __init__(self, store: VirtualStore, server: psutil.Process, out: Path | None) -> None:
        self.store, self.server, self.out = store, server, out
        self.world = World(store, seed=4)
        self.chance = Random(2)
        self.patterns = Patterns()
        self.lines: list[str] = []

    def say(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)
        if self.out:
            self.out.write_text("\n".join(self.lines) + "\n")

    def admit(self, tenant: str, priority: str | None = None) -> str:
        """Submit a job of this tenant at the virtual time of now."""
        job_id = new_job_id(now_ms=int(self.store.now_s * 1000))
        asked = self.patterns[tenant]
        fitting = [a for a in asked if priority is None or f"demo.{priority}" in a.args]
        self.store.defer(renamed(self.chance.choice(fitting), job_id))
        return job_id

    @contextmanager
    def cost(self, what: str, seconds: float) -> Iterator[None]:
        """Print Redis's share of a core over so much virtual time."""
        self.store.calls.clear()
        self.store.server.config_resetstat()
        began_s, cpu_s = time.perf_counter(), self._cpu_s()
        yield
        cpu_s = self._cpu_s() - cpu_s
        self.say(
            f"{what}: Redis {cpu_s / seconds:6.1%} of a core,"
            f" {self.store.calls.total() / seconds:,.0f} calls/s;"
            f" in scripts {self._scripts_us() / 1e6 / seconds:.1%} by its own clock"
            f" ({time.perf_counter() - began_s:.0f} s to replay {seconds:.0f})"
        )
        kinds = ", ".join(f"{n} {c / seconds:.0f}" for n, c in self.store.calls.most_common(6))
        self.say(f"      a second: {kinds}")

    def one(self, what: str, n: int, each: Iterator[None]) -> None:
        """Redis's time of one kind of call, us: the median of its tenths."""
        tenths: list[float] = []
        for _ in range(10):
            self.store.server.config_resetstat()
            for _ in range(n // 10):
                next(each)
            self.store.flush()
            tenths.append(self._scripts_us() / (n // 10))
        median, best = statistics.median(tenths), min(tenths)
        inner = self.store.server.info("commandstats")
        costly = max((n for n in inner if "eval" not in n), key=lambda n: inner[n]["usec"])
        share = inner[costly]["usec"] / (n // 10)
        self.say(
            f"  {what:40}{median:7.0f} us, best tenth {best:.0f};"
            f" most in {costly.removeprefix('cmdstat_')}: {share:.0f}"
        )

    def _cpu_s(self) -> float:
        """Return the process's CPU time, which excludes other processes."""
        return sum(self.server.cpu_times()[:2])

    def _scripts_us(self) -> float:
        stats = self.store.server.info("commandstats")
        return float(stats.get("cmdstat_evalsha", {}).get("usec", 0))


PATTERN_ID = "00000000-0000-7000-8000-000000000000"


class Patterns(dict[str, list[Call[Admitted]]]):
    """Admissions of each tenant, all of PATTERN_ID: building each anew is the API's work."""

    def __init__(self) -> None:
        self.specs = [spec for spec, _ in zip(specs(), range(40), strict=False)]

    def __missing__(self, tenant: str) -> list[Call[Admitted]]:
        self[tenant] = [
            admit_calls.admit(
                spec, tenant=tenant, job_id=PATTERN_ID, idempotency=None, limits=NO_LIMITS
            )
            for spec in self.specs
        ]
        return self[tenant]


def renamed(pattern: Call[Admitted], job_id: str) -> Call[None]:
    """Return the same admission for another job."""

    def new(value: str | bytes | float) -> str | bytes | float:
        return value.replace(PATTERN_ID, job_id) if isinstance(value, str) else value

    names = tuple(str(new(key)) for key in pattern.keys)
    return Call(pattern.script, names, tuple(new(a) for a in pattern.args), lambda _: None)


def specs() -> Iterator[JobSpec]:
    catalogue = load_catalogue(ROOT / "models" / "models.toml")
    chance = Random(1)
    sizes = ["128x128"] * 8 + ["128x96", "96x128"]
    while True:
        asked = {
            "prompt": "a red bicycle on a cobblestone street",
            "seed": chance.randrange(2**31),
            "steps": chance.randint(10, 50),
            "size": chance.choice(sizes),
            "priority": chance.choice(["high", "normal", "normal", "normal", "low"]),
        }
        yield resolve(
            parse_request(asked), catalogue, draw_seed=lambda: 1, default_retention_s=3600
        )


def fill(bench: Bench, jobs: int) -> list[tuple[str, str]]:
    """`jobs` jobs of TENANTS tenants; nine of ten belong to the first."""
    made: list[tuple[str, str]] = []
    before = bench.store.server.info("memory")["used_memory"]

    def each() -> Iterator[None]:
        while True:
            flood = bench.chance.random() < 0.9
            tenant = "t0" if flood else f"t{bench.chance.randrange(1, TENANTS)}"
            bench.store.now_s += 0.001
            made.append((bench.admit(tenant), tenant))
            yield

    source = each()
    for part in range(4):
        bench.one(f"admit, at a depth of {len(made):,}", jobs // 4, source)
        assert len(made) == (part + 1) * (jobs // 4)
    used = bench.store.server.info("memory")["used_memory"] - before
    bench.say(f"  memory of a waiting job: {used / jobs / 1024:.2f} KB")
    return made


def at_depth(bench: Bench, made: list[tuple[str, str]]) -> None:
    """Measure the cost of single calls with the whole queue waiting."""

    def reads(some: list[tuple[str, str]]) -> Iterator[None]:
        while True:
            job_id, tenant = bench.chance.choice(some)
            bench.store.defer(client_calls.read(job_id, tenant=tenant))
            yield

    def cancels(some: list[tuple[str, str]]) -> Iterator[None]:
        for job_id, tenant in some:
            bench.store.defer(client_calls.cancel(job_id, tenant=tenant))
            yield

    flood = [one for one in made if one[1] == "t0"]
    middle = len(flood) // 2
    bench.one("read, with place and ETA, any", 300, reads(made))
    bench.one("read, the last of the flood", 300, reads(flood[-100:]))
    bench.one("cancel, in the middle of the flood", 100, cancels(flood[middle : middle + 100]))
    bench.one("cancel, at the end of the flood", 100, cancels(flood[-100:]))


def serve(bench: Bench, workers: int) -> None:
    """Run a fleet on the flood while other jobs come; then kill half of the fleet."""
    world, seconds = bench.world, SECONDS[workers]
    world.clear()
    world.done.clear()
    world.add_workers(workers)
    world.run(5.0)  # it fills itself
    newcomers: list[str] = []

    def come() -> None:
        newcomers.append(bench.admit(f"new{workers}", "high"))  # or it waits for all of the flood's
        world.later(max(1.0, 30.0 / workers), come)

    def another(_: Claimed) -> None:
        bench.admit("t0")  # the depth stays

    world.on_done = another
    come()
    done = len(world.done)
    with bench.cost(f"{workers:3} workers, busy", seconds):
        world.run(seconds)
    rate = (len(world.done) - done) / seconds
    world.on_done = lambda _: None
    waits = [world.started[j] - _since(bench, j) for j in newcomers if j in world.started]
    middle_s = statistics.median(waits) if waits else math.nan
    bench.say(
        f"      {rate:.0f} jobs/s; of a newcomer's {len(newcomers)} high jobs {len(waits)} started,"
        f" after {middle_s:.1f} s, {max(waits, default=math.nan):.1f} s at most"
    )
    half = world.workers[: workers // 2]
    if half:
        lost, killed_s = world.kill(half), world.now_s
        world.reaped_at.clear()
        with bench.cost(f"{len(half):3} of them die", LEASE_S + 5.0):
            world.run(LEASE_S + 5.0)
        back = [at - killed_s for at in world.reaped_at]
        last = max(back, default=math.nan)
        bench.say(
            f"      they held {lost} jobs: {len(back)} back in line, the last after {last:.1f} s"
        )
    for worker in world.workers:
        worker.alive = False


def _since(bench: Bench, job_id: str) -> float:
    return float(bench.store.server.hget(f"rq:job:{job_id}", "x_enq"))


def idle(bench: Bench) -> None:
    """Measure the cost of claims on an empty queue."""
    for pattern in ("rq:queue:*", "rq:wip:*", "pw:aside*"):
        found = list(bench.store.server.scan_iter(pattern, count=10_000))
        if found:
            bench.store.server.delete(*found)
    for workers in FLEETS:
        bench.world.clear()
        bench.world.add_workers(workers)
        bench.world.run(0.3)
        with bench.cost(f"{workers:3} workers, idle", 3.0):
            bench.world.run(3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        valkey = servers.valkey(Path(folder), password=secrets.token_hex(8))
        valkey.start()
        try:
            valkey.wait_ready()
            with VirtualStore(valkey.url) as store:
                store.server.config_set("appendfsync", "everysec")
                bench = Bench(store, psutil.Process(valkey.pid), args.out)
                load = psutil.getloadavg()[0]
                bench.say(
                    f"commit {commit}; {psutil.cpu_count()} cores, load {load:.1f}; "
                    f"{store.server.info('server')['redis_version']}; {' '.join(sys.argv[1:])}"
                )
                bench.say(f"batches of {BATCH}, {STEP_S} s a step, 10 to 50 steps a job")
                bench.say(f"\n{args.jobs:,} jobs of {TENANTS} tenants, nine tenths of one:")
                at_depth(bench, fill(bench, args.jobs))
                bench.say("\nfleets at that depth:")
                for workers in FLEETS:
                    serve(bench, workers)
                bench.say("\nfleets where nothing waits:")
                idle(bench)
        finally:
            valkey.kill()


if __name__ == "__main__":
    main()
