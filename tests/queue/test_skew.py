"""T09: a worker's or an API's clock is an hour off, or jumps: nothing in the queue goes wrong.

A preloaded library gives a process the wrong time of day; Redis keeps the true one.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from jobs.contract.record import JobRecord, Stage
from jobs.settings import ROOT
from jobs.store.job_store import JobStore
from tests.fault.test_deaths import all_running, all_succeed, ready
from tests.helpers import tool_missing, wait_until
from tests.queue.making import admit, read, statuses
from tests.queue.worker_process import worker_process

STEP_S = 0.1  # sixty of them outlast the start of all
HOUR_S = 3600


@dataclass(frozen=True)
class Clock:
    """A wrong time of day for the processes that get its `environ`; it may jump."""

    environ: dict[str, str]
    file: Path

    def set(self, offset_s: int) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(str(offset_s))
        new.replace(self.file)  # never read half written


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library, compiled."""
    compiler = shutil.which("cc")
    if not sys.platform.startswith("linux") or not compiler:
        tool_missing("no C compiler, on Linux: `apt install gcc libc6-dev`")
    made = tmp_path_factory.mktemp("clock") / "wrong_clock.so"
    source = Path(__file__).with_name("wrong_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", made, source], check=True)
    return made


@pytest.fixture
def clock(library: Path, tmp_path: Path) -> Callable[[int], Clock]:
    """Makes clocks that are so many seconds off."""
    made: list[Clock] = []

    def make(offset_s: int) -> Clock:
        file = tmp_path / f"offset{len(made)}"
        environ = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(file)}
        made.append(Clock(environ, file))
        made[-1].set(offset_s)
        return made[-1]

    return make


def test_the_wrong_clock_is_wrong_and_nothing_else_is(clock: Callable[[int], Clock]):
    code = "import time; m = time.monotonic(); time.sleep(.01); print(time.time(), m)"
    wrong = {"PATH": os.environ["PATH"], **clock(HOUR_S).environ}
    said = subprocess.run([sys.executable, "-c", code], env=wrong, capture_output=True, check=True)
    of_day, monotonic = (float(x) for x in said.stdout.split())

    assert abs(of_day - time.time() - HOUR_S) < 60
    assert abs(monotonic - time.monotonic()) < 60


@contextmanager
def process(environ: dict[str, str], *args: str, fd: int | None = None) -> Iterator[None]:
    running = subprocess.Popen(
        [sys.executable, *args],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ},
        pass_fds=[fd] if fd is not None else [],
    )
    try:
        yield
    finally:
        running.kill()
        running.wait()


def worker_at(environ: dict[str, str], clock: Clock, log: Path):
    return process(
        environ | clock.environ, "-m", "tests.queue.worker_process", str(STEP_S), str(log)
    )


def near(record: JobRecord, redis: Redis) -> bool:
    """Whether its times are those of Redis's clock, in their order."""
    now = datetime.fromtimestamp(redis.time()[0], UTC)
    times = [record.created_at, record.started_at, record.completed_at]
    return times == sorted(times) and all(abs(now - t) < timedelta(minutes=5) for t in times if t)


def test_t09_workers_an_hour_off_steal_no_lease_and_end_nothing_early(
    store: JobStore,
    redis: Redis,
    environ: dict[str, str],
    clock: Callable[[int], Clock],
    tmp_path: Path,
):
    jumping = clock(0)
    clocks = [clock(HOUR_S), clock(-HOUR_S), jumping]
    environ |= {"PRINTWORKS_WORKER_SLOTS": "6"}
    with ExitStack() as stack:
        for k, wrong in enumerate(clocks):
            stack.enter_context(worker_at(environ, wrong, tmp_path / f"log{k}"))
        stack.enter_context(worker_process(environ, step_s=STEP_S))
        ready(redis, 4)
        ids = [admit(store, steps=60, seed=k, deadline_s=600) for k in range(24)]
        all_running(store, ids)
        for jump_s in (HOUR_S, -HOUR_S, 0):
            jumping.set(jump_s)
            beats = redis.hget(f"rq:job:{ids[0]}", "last_heartbeat")
            wait_until(
                lambda b=beats: redis.hget(f"rq:job:{ids[0]}", "last_heartbeat") != b, "a beat"
            )
        # S3 refuses signatures of another hour: what these workers made waits with them, kept
        wait_until(lambda: statuses(store, ids).count("succeeded") == 12, "half is done", 60)
        wait_until(lambda: sum(parked(store, i) for i in ids) == 12, "the other half is parked", 30)
        for wrong in clocks:
            wrong.set(0)
        all_succeed(store, redis, ids, 60)

    records = [read(store, i) for i in ids]
    again = sum(r.metrics["attempts"] != 1 for r in records)
    workers = {redis.hget(f"rq:job:{i}", "worker_name") for i in ids}
    print(
        f"T09: {len(ids)} jobs on {len(workers)} workers, 3 with a wrong clock: {again} run twice"
    )
    assert again == 0
    assert len(workers) == 4
    assert all(near(r, redis) for r in records)


def parked(store: JobStore, job_id: str) -> bool:
    return read(store, job_id).stage is Stage.UPLOADING


@pytest.mark.parametrize("offset_s", [HOUR_S, -HOUR_S])
def test_t09_an_api_an_hour_off_expires_nothing_early_and_keeps_the_order(
    store: JobStore,
    redis: Redis,
    environ: dict[str, str],
    clock: Callable[[int], Clock],
    offset_s: int,
):
    shared = {k: v for k, v in environ.items() if not k.startswith("PRINTWORKS_WORKER")}
    first = admit(store, tenant="anonymous")
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url, fd = f"http://127.0.0.1:{bound.getsockname()[1]}", bound.fileno()
        skewed = shared | clock(offset_s).environ
        with (
            process(skewed, "-m", "api", "--fd", str(fd), fd=fd),
            httpx2.Client(base_url=url, timeout=60) as api,
        ):
            sent = api.post("/v1/jobs", json={"prompt": "a cat", "deadline_s": 60, "steps": 4})
            last = admit(store, tenant="anonymous")
            with worker_process(environ):
                job_id = sent.json()["id"]
                done = api.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()

    assert sent.status_code == 202
    assert sent.json()["queue"]["position"] == 1  # behind the first, before the last
    assert done["status"] == "succeeded"
    assert abs(datetime.fromisoformat(done["created_at"]) - datetime.now(UTC)) < timedelta(
        minutes=5
    )
    assert first != last
