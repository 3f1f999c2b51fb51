"""Chaos: every process dies, freezes and comes back at random under load.

Real Valkey (AOF), real S3 server, real API, control processes, courier and janitor; the engines are
tests/queue/fake_engine.py, so that a minute holds a thousand jobs. Jobs are sent over HTTP, each
with an Idempotency-Key, until they are answered. At the end each must have ended, once, its picture
must be there, and its webhook must have come, or be on its way.
"""

from __future__ import annotations

import argparse
import base64
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import httpx2
import psutil

from api.access.keyless import TENANT as ANONYMOUS
from deploy import servers
from deploy.service import free_port
from jobs.blobs.s3 import S3Blobs
from jobs.settings import RoleSettings
from jobs.store.job_store import JobStore
from tests.api.serving import as_operator
from tests.chaos.books import Books
from tests.chaos.roles import Ears, Role
from tests.queue.making import QUICK
from tests.queue.worker_process import Worker, worker_process

WORKERS = 3
CLIENTS = 4
OPEN_JOBS = 240  # kept under way: enough that no death finds idle hands
SETTLE_S = 300.0  # much more than it takes: a stuck job fails the run, a busy machine does not
TOLD_S = 10.0  # webhooks that a dead courier held take its lease of 40 s: they may be on their way
STEPS = (2, 25)
PAUSE_S = (0.3, 2.0)  # between two faults
ANSWER_S = 5.0


class Chaos:
    """One run. Everything random comes from one seed; real time does not."""

    def __init__(self, folder: Path, *, seed: int, stack: ExitStack) -> None:
        self.folder = folder
        self.chance = Random(seed)
        self.stack = stack
        self.books = Books(tenant=ANONYMOUS)
        self.stop = threading.Event()
        self.ears = stack.enter_context(Ears())
        stack.callback(self.ears.shutdown)
        # its file in memory, where that can be: it outlives any SIGKILL, and no busy disk is tested
        memory = Path("/dev/shm")
        if memory.is_dir():
            memory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory)))
        else:
            memory = folder / "valkey"
        self.valkey = servers.valkey(memory, password=secrets.token_hex(8))
        self.s3 = servers.seaweedfs(folder / "s3", access_key="chaos", secret_key="chaos-secret")
        for server in (self.valkey, self.s3):
            server.start()
            stack.callback(server.kill)
        for server in (self.valkey, self.s3):
            server.wait_ready()
        settings = self.settings()
        self.blobs = S3Blobs(settings)
        self.blobs.ensure_bucket()
        self.store = JobStore(self.valkey.url)
        self.workers: list[Worker] = []
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.api = self.role("api.__main__", "--port", str(port))
        self.janitor = self.role("worker.main", "janitor")
        self.courier = self.role("worker.main", "courier")

    def settings(self) -> RoleSettings:
        shared = {
            "redis_url": self.valkey.url,
            "s3_endpoint": self.s3.endpoint,
            "s3_bucket": self.s3.bucket,
            "s3_access_key": self.s3.access_key,
            "s3_secret_key": self.s3.secret_key,
            "webhook_key": base64.b64encode(secrets.token_bytes(32)).decode(),
            "webhook_schemes": "http",
            "webhook_ports": str(self.ears.server_port),
            "webhook_networks": "127.0.0.0/8",
        }
        self.environ = {f"PRINTWORKS_{k.upper()}": v for k, v in shared.items()} | QUICK
        return RoleSettings.model_validate(shared)

    def role(self, module: str, *argv: str) -> Role:
        """A process of the service; where it may say what."""
        api = module.startswith("api")
        mine = {n: v for n, v in self.environ.items() if not (api and "_WORKER_" in n)}
        role = Role(module, [*argv], environ=mine, log=self.folder / "roles.log")
        self.stack.callback(role.kill)
        return role

    def hire(self) -> Worker:
        mine = {n: v for n, v in self.environ.items() if "WEBHOOK" not in n}
        worker = self.stack.enter_context(
            worker_process(mine, step_s=0.01, log=self.folder / "workers.log")
        )
        self.workers.append(worker)
        return worker

    # --- load

    def listen(self) -> None:
        """Have webhooks sent to us. Waits for the API."""
        with httpx2.Client(base_url=self.url, timeout=ANSWER_S) as client:
            hook = {"url": f"http://127.0.0.1:{self.ears.server_port}/"}
            client.headers.update(as_operator(self.valkey.url))
            self.ask(client, "/v1/webhooks", hook)

    def submit_for_ever(self, chance: Random) -> None:
        """Keep OPEN_JOBS under way; each job is sent until it is answered, as a client would."""
        with httpx2.Client(base_url=self.url, timeout=ANSWER_S) as client:
            while not self.stop.wait(0.002):
                with suppress(Exception):  # Redis is away: then so is this count
                    if self.open_jobs() >= OPEN_JOBS:
                        self.stop.wait(0.05)
                        continue
                self.submit(client, chance)

    def submit(self, client: httpx2.Client, chance: Random) -> None:
        body = {
            "prompt": "a red bicycle",
            "seed": chance.randrange(2**31),
            "steps": chance.randint(*STEPS),
            "n": chance.choice([1, 1, 1, 2]),
            "priority": chance.choice(["high", "normal", "normal", "low"]),
            "size": chance.choice(["64x64", "64x64", "128x64"]),
        }
        key = str(UUID(int=chance.getrandbits(128), version=4))
        job_id = self.ask(client, "/v1/jobs", body, key=key)["id"]
        self.books.accepted[job_id] = key
        if chance.random() < 0.03:
            self.books.canceled.add(job_id)
            self.ask(client, f"/v1/jobs/{job_id}/cancel", None)

    def ask(
        self, client: httpx2.Client, path: str, body: Mapping[str, Any] | None, *, key: str = ""
    ) -> dict[str, Any]:
        """An answer, however often it takes: dead APIs, 429 and 503 are waited out."""
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            try:
                answer = client.post(path, json=body, headers=headers)
            except httpx2.HTTPError as error:
                self.books.resent[type(error).__name__] += 1
            else:
                if answer.status_code < 300:
                    return answer.json()
                if answer.status_code not in (429, 503):
                    raise AssertionError(f"{path}: {answer.status_code} {answer.text}")
                self.books.resent[answer.json()["code"]] += 1
            threading.Event().wait(0.05)

    def open_jobs(self) -> int:
        return int(self.store.redis.zcard(f"pw:tenant:{ANONYMOUS}:open"))  # type: ignore[arg-type]

    # --- faults

    def break_things(self, until_s: float) -> None:
        faults = (
            [self.kill_worker] * 5
            + [self.kill_engine] * 3
            + [self.freeze_worker] * 2
            + [self.kill_redis, self.freeze_redis, self.drain_worker, self.kill_s3]
            + [self.kill_api, self.kill_janitor, self.kill_courier]
        )
        self.chance.shuffle(faults)
        for number in range(1_000_000):
            self.stop.wait(self.chance.uniform(*PAUSE_S))
            if time.monotonic() > until_s:
                return
            # each once before any comes twice: a short run has them all
            fault = faults[number % len(faults)]
            self.books.faults[fault.__name__] += 1
            fault()
            if sys.stdout.isatty():
                accepted = len(self.books.accepted)
                sys.stdout.write(f"\r{number + 1} faults, {accepted} jobs accepted ")
                sys.stdout.flush()

    def kill_worker(self) -> None:
        victim = self.workers.pop(self.chance.randrange(len(self.workers)))
        held = self.held_by(victim)
        victim.kill()
        threading.Thread(target=self.time_recovery, args=(held, time.monotonic())).start()
        self.hire()

    def kill_engine(self) -> None:
        victim = self.chance.choice(self.workers)
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(victim.pid).children():
                child.kill()

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

    def kill_s3(self) -> None:
        self.s3.kill()
        self.s3.start()
        self.s3.wait_ready()

    def kill_api(self) -> None:
        self.again(self.api)

    def kill_janitor(self) -> None:
        self.again(self.janitor)

    def kill_courier(self) -> None:
        self.again(self.courier)

    def again(self, role: Role) -> None:
        if role.ended_with is None:  # one that ended by itself stays so: `verdict` tells
            role.kill()
            role.start()

    # --- the books

    def held_by(self, worker: Worker) -> list[str]:
        try:
            redis: Any = self.store.redis
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
        """Let the last jobs end, and the last webhooks come."""
        for done, limit_s in (
            (lambda: not self.open_jobs(), SETTLE_S),
            (lambda: not self.books.not_told(self.ears), TOLD_S),
        ):
            until_s = time.monotonic() + limit_s
            while time.monotonic() < until_s and not _true(done):
                threading.Event().wait(0.1)

    def verdict(self) -> list[str]:
        """Every broken promise, in words; none is the aim."""
        wrong = self.books.wrong_with(self.store, self.blobs, self.ears)
        codes = {f"worker {w.pid}": w.wait(0) for w in self.workers}
        codes |= {r.name: r.ended_with for r in (self.api, self.janitor, self.courier)}
        dead = [f"{who} ended by itself with {c}" for who, c in codes.items() if c is not None]
        if dead:
            for log in ("workers.log", "roles.log"):
                print((self.folder / log).read_text()[-4000:])
        return wrong + dead


def _true(done: Any) -> bool:
    with suppress(Exception):  # Redis is away yet
        return bool(done())
    return False


def _thaw(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def run(minutes: float, seed: int) -> list[str]:
    """The whole thing; what went wrong."""
    began_s = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        chaos = Chaos(folder, seed=seed, stack=stack)
        for _ in range(WORKERS):
            chaos.hire()
        chaos.listen()
        clients = [
            threading.Thread(target=chaos.submit_for_ever, args=(Random(f"{seed} {k}"),))
            for k in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        try:
            chaos.break_things(time.monotonic() + minutes * 60)
        finally:
            chaos.stop.set()
            for client in clients:
                client.join()
        for worker in chaos.workers:
            _thaw(worker.pid)
        chaos.settle()
        wrong = chaos.verdict()
        print(
            f"\nchaos: {minutes:g} minutes, seed {seed}, {time.monotonic() - began_s:.0f} s in all"
        )
        print("\n".join(chaos.books.figures(chaos.ears)))
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
