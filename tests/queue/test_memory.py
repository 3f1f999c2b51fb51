"""Memory of an API and of a worker's control process over 10,000 jobs. `pytest -m slow -s`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import psutil
import pytest
from redis import Redis

from jobs.settings import ROOT
from tests.fault.test_deaths import ready
from tests.helpers import wait_until
from tests.queue.worker_process import worker_process

JOBS = int(os.environ.get("SOAK_JOBS", "10000"))
PARTS = 10
CLIENTS = 8
MB = 1024 * 1024


@contextmanager
def api_process(environ: dict[str, str]) -> Iterator[tuple[psutil.Process, str]]:
    shared = {k: v for k, v in environ.items() if not k.startswith("PRINTWORKS_WORKER")}
    limits = {"PRINTWORKS_API_MAX_OPEN_JOBS": "100000"}
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url, fd = f"http://127.0.0.1:{bound.getsockname()[1]}", bound.fileno()
        running = subprocess.Popen(
            [sys.executable, "-m", "api", "--fd", str(fd)],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **shared, **limits},
            pass_fds=[fd],
            stderr=subprocess.DEVNULL,
        )
    try:
        yield psutil.Process(running.pid), url
    finally:
        running.kill()
        running.wait()


def lives(url: str, first: int, n: int) -> None:
    """Some jobs as a client has them: sent, read, read again, listed."""
    with httpx2.Client(base_url=url, timeout=60) as api:
        for k in range(first, first + n):
            asked = {"prompt": "a red bicycle", "steps": 1, "size": "64x64", "seed": k}
            sent = api.post("/v1/jobs", json=asked, headers={"Idempotency-Key": f"k{k}"})
            assert sent.status_code == 202, sent.text
            for _ in range(2):
                assert api.get(sent.json()["urls"]["self"]).status_code == 200
        assert api.get("/v1/jobs").status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_of_api_and_worker_stays_flat_over_ten_thousand_jobs(
    redis: Redis, environ: dict[str, str]
):
    rss: dict[str, list[float]] = {"API": [], "control process": []}
    environ |= {"PRINTWORKS_RETENTION_S": "60"}  # records come and go, as in years
    with (
        worker_process(environ, step_s=0.0) as worker,
        api_process(environ) as (api, url),
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        ready(redis)
        each = JOBS // PARTS // CLIENTS
        for part in range(PARTS):
            sent = [
                pool.submit(lives, url, (part * CLIENTS + c) * each, each) for c in range(CLIENTS)
            ]
            for one in sent:
                one.result()
            wait_until(lambda: open_jobs(redis) == 0, "they are done", 300)
            rss["API"].append(api.memory_info().rss / MB)
            rss["control process"].append(psutil.Process(worker.pid).memory_info().rss / MB)

    for name, at in rss.items():
        slope = (at[-1] - at[1]) / ((PARTS - 2) * each * CLIENTS / 1000)
        print(
            f"memory of the {name}: {at[1]:.1f} MB after {2 * each * CLIENTS:,} jobs, {at[-1]:.1f}"
            f" MB after {PARTS * each * CLIENTS:,}: {slope:+.2f} MB a 1,000 jobs"
        )
        assert slope <= 1.0, at


def open_jobs(redis: Redis) -> int:
    return sum(redis.zcard(key) for key in redis.scan_iter("pw:tenant:*:open"))
