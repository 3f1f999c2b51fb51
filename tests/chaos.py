"""Chaos: workers, engines and Redis die at random under load, and the books are kept.

`python -m tests.chaos --minutes 2 --seed 1`, or `python3 deploy chaos`. Real Valkey (AOF), real S3
server, real control processes; the engines are tests/queue/fake_engine.py, so that a minute holds
a thousand jobs. At the end every accepted job must have ended, once. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

from deploy import servers
from jobs.blobs import Blobs
from jobs.errors import StoreUnavailable
from jobs.ids import new_job_id
from jobs.record import FINAL, Status
from jobs.settings import RoleSettings
from jobs.store import JobStore
from tests.queue.making import NO_LIMITS, QUICK, a_spec
from tests.queue.worker_process import Worker, worker_process

WORKERS = 3
OPEN_JOBS = 240  # kept under way: enough that no death finds idle hands
SETTLE_S = 60.0
STEPS = (2, 25)
PAUSE_S = (0.3, 2.0)  # between two faults


@dataclass
class Books:
    """What was promised, and what was done to break it."""

    accepted: dict[str, str] = field(default_factory=dict)  # job: tenant
    refused: int = 0
    canceled: set[str] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)
    recoveries_s: list[float] = field(default_factory=list)


class Chaos:
    """One run. Everything random comes from one seed; real time does not."""

    def __init__(self, folder: Path, *, seed: int, stack: ExitStack) -> None:
        self.folder = folder
        self.chance = Random(seed)
        self.stack = stack
        self.books = Books()
        self.stop = threading.Event()
        self.valkey = servers.valkey(folder / "valkey", password=secrets.token_hex(8))
        self.s3 = servers.seaweedfs(folder / "s3", access_key="chaos", secret_key="chaos-secret")
        for server in (self.valkey, self.s3):
            server.start()
            stack.callback(server.kill)
        for server in (self.valkey, self.s3):
            server.wait_ready()
        shared = {
            "redis_url": self.valkey.url,
            "s3_endpoint": self.s3.endpoint,
            "s3_bucket": self.s3.bucket,
            "s3_access_key": self.s3.access_key,
            "s3_secret_key": self.s3.secret_key,
        }
        Blobs(RoleSettings.model_validate(shared)).ensure_bucket()
        self.environ = {f"PRINTWORKS_{k.upper()}": v for k, v in shared.items()} | QUICK
        self.store = JobStore(self.valkey.url)
        self.workers: list[Worker] = []

    def hire(self) -> Worker:
        worker = self.stack.enter_context(
            worker_process(self.environ, step_s=0.01, log=self.folder / "workers.log")
        )
        self.workers.append(worker)
        return worker

    # --- load

    def submit_for_ever(self) -> None:
        """Keep OPEN_JOBS under way; each job is sent until it is answered, as a client would."""
        chance = Random(self.chance.random())
        while not self.stop.wait(0.005):
            try:
                if self.store.redis.zcard("pw:tenant:chaos:open") >= OPEN_JOBS:
                    continue
                self.submit(chance)
            except Exception:  # noqa: BLE001 - the server is away
                self.stop.wait(0.05)

    def submit(self, chance: Random) -> None:
        job_id = new_job_id()
        spec = a_spec(
            seed=chance.randrange(2**31),
            steps=chance.randint(*STEPS),
            n=chance.choice([1, 1, 1, 2]),
            priority=chance.choice(["high", "normal", "normal", "low"]),
            size=chance.choice(["64x64", "64x64", "128x64"]),
        )
        for _ in range(100):
            try:
                self.store.admit(spec, tenant="chaos", job_id=job_id, limits=NO_LIMITS)
            except StoreUnavailable:
                self.books.refused += 1
                if self.stop.wait(0.05):
                    return
            else:
                self.books.accepted[job_id] = "chaos"
                break
        if chance.random() < 0.03:
            self.store.cancel(job_id, tenant="chaos")
            self.books.canceled.add(job_id)

    # --- faults

    def break_things(self, until_s: float) -> None:
        faults = (
            [self.kill_worker] * 4
            + [self.kill_engine] * 3
            + [self.freeze_worker] * 2
            + [self.kill_redis, self.freeze_redis, self.drain_worker]
        )
        while time.monotonic() < until_s:
            self.stop.wait(self.chance.uniform(*PAUSE_S))
            fault = self.chance.choice(faults)
            self.books.faults[fault.__name__] += 1
            fault()
            sys.stdout.write(
                f"\r{sum(self.books.faults.values())} faults, "
                f"{len(self.books.accepted)} jobs accepted "
            )
            sys.stdout.flush()

    def kill_worker(self) -> None:
        victim = self.workers.pop(self.chance.randrange(len(self.workers)))
        held = self.held_by(victim)
        victim.kill()
        threading.Thread(target=self.time_recovery, args=(held, time.monotonic())).start()
        self.hire()

    def kill_engine(self) -> None:
        victim = self.chance.choice(self.workers)
        try:
            for child in psutil.Process(victim.pid).children():
                child.kill()
        except psutil.NoSuchProcess:
            pass

    def freeze_worker(self) -> None:
        victim = self.chance.choice(self.workers)
        with suppress(ProcessLookupError):  # it ended by itself: `verdict` says so
            victim.send_signal(signal.SIGSTOP)
        timer = threading.Timer(3.0, _thaw, [victim.pid])  # beyond its lease of 2 s
        timer.start()

    def drain_worker(self) -> None:
        self.workers.pop(self.chance.randrange(len(self.workers))).terminate()
        self.hire()

    def kill_redis(self) -> None:
        self.valkey.kill()
        self.valkey.start()
        self.valkey.wait_ready()

    def freeze_redis(self) -> None:
        process = psutil.Process(self.valkey.pid)
        process.suspend()
        self.stop.wait(1.0)
        process.resume()

    # --- the books

    def held_by(self, worker: Worker) -> list[str]:
        try:
            redis = self.store.redis
            for key in redis.smembers("rq:workers"):
                if int(redis.hget(key, "pid") or 0) == worker.pid:
                    both = redis.smembers(key + b":executions")
                    return [b.decode() for b in both]
        except Exception:  # noqa: BLE001 - Redis is away just now: this one is not timed
            return []
        return []

    def time_recovery(self, held: list[str], killed_s: float) -> None:
        """How long until nothing waits for the dead worker's leases any more."""
        redis = self.store.redis
        for both in held:
            while not self.stop.wait(0.02):
                try:
                    if not redis.exists(f"rq:execution:{both}"):
                        break
                except Exception:  # noqa: BLE001 - Redis is away: that is part of the time
                    continue
        if held and not self.stop.is_set():
            self.books.recoveries_s.append(time.monotonic() - killed_s)

    def settle(self) -> None:
        """Let the last jobs end."""
        until_s = time.monotonic() + SETTLE_S
        while time.monotonic() < until_s and self.store.redis.zcard("pw:tenant:chaos:open"):
            time.sleep(0.1)  # noqa: TID251 - a program, not a test

    def verdict(self) -> list[str]:
        """Every broken promise, in words; none is the aim."""
        wrong: list[str] = []
        ends: Counter[str] = Counter()
        for batch in _batches(self.books.accepted, 500):
            for job_id in batch:
                wrong += self.check(job_id, ends)
        dead = [w for w in self.workers if w.wait(0) is not None]
        wrong += [f"worker {w.pid} ended by itself with {w.wait(0)}" for w in dead]
        if dead:
            print((self.folder / "workers.log").read_text()[-4000:])
        left = [k.decode() for k in self.store.redis.scan_iter("rq:execution:*", count=1000)]
        wrong += [f"{key} is left" for key in left]
        print(f"\nends: {dict(ends)}; refused while Redis was away: {self.books.refused}")
        return wrong

    def check(self, job_id: str, ends: Counter[str]) -> Iterator[str]:
        try:
            record = self.store.read(job_id, tenant="chaos")
        except Exception as error:  # noqa: BLE001 - whatever it is, the job is not there
            yield f"{job_id} is lost: {error}"
            return
        error = record.error.code if record.error else ""
        ends[f"{record.status} {error}".strip()] += 1
        written = self.store.redis.xlen(f"rq:results:{job_id}")
        if record.status not in FINAL:
            yield f"{job_id} is still {record.status}"
        elif record.status is Status.SUCCEEDED:
            if (written, len(record.images)) != (1, record.spec.n):
                yield f"{job_id} ended {written} times with {len(record.images)} images"
        elif error == "crashed":  # three deaths in its company, the last alone: an end, told once
            if written != 1:
                yield f"{job_id} ended {written} times"
        elif job_id not in self.books.canceled:
            yield f"{job_id} is {record.status} {error}, and nobody asked for that"


def _thaw(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _batches(items: Any, size: int) -> Iterator[list[str]]:
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch


def run(minutes: float, seed: int) -> list[str]:
    """The whole thing; what went wrong."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        chaos = Chaos(folder, seed=seed, stack=stack)
        for _ in range(WORKERS):
            chaos.hire()
        load = threading.Thread(target=chaos.submit_for_ever)
        load.start()
        try:
            chaos.break_things(time.monotonic() + minutes * 60)
        finally:
            chaos.stop.set()
            load.join()
        for worker in chaos.workers:
            _thaw(worker.pid)
        chaos.settle()
        wrong = chaos.verdict()
        times = sorted(chaos.books.recoveries_s)
        print(f"faults: {dict(chaos.books.faults)}")
        if times:
            print(
                f"recovery of a killed worker's jobs: p50 {statistics.median(times):.2f} s, "
                f"p99 {times[min(len(times) - 1, int(len(times) * 0.99))]:.2f} s (lease 2 s)"
            )
        print(f"{len(chaos.books.accepted)} jobs accepted; {len(wrong)} promises broken")
        return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 deploy chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    wrong = run(args.minutes, args.seed)
    for line in wrong[:20]:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
