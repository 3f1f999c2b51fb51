"""Submits/s and status reads/s of one API process, beside the bare floor, in one run.

The floor is what FastAPI and Redis cost without us: a route that does one EVALSHA, a route that
does one HMGET of the same fields. Same uvicorn, same Redis, same client; the two take turns, so
that other load on the machine falls on both, and each one's own CPU time is counted, which other
load moves less than the clock. Loopback only, bounded by --seconds.

    python -m benchmarks.api_floor [--seconds 2] [--rounds 3] [--clients 32] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import uvicorn
from fastapi import FastAPI, Request

from deploy import servers
from jobs.store import keys
from jobs.store.connection import connect_async

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "redis.call('SET', KEYS[1], ARGV[1], 'EX', 60) return 1"  # the least that stores a job
REQUEST = b'{"prompt":"a red bicycle on a cobblestone street","steps":20,"seed":42}'


def floor_app(redis_url: str, job_id: str) -> FastAPI:
    """FastAPI and one Redis command a request, nothing else."""
    app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})
    redis = connect_async(redis_url)
    hash_key = keys.rq_key("job", job_id)

    @app.post("/submit", status_code=202)
    async def submit(request: Request) -> dict[str, int]:
        body = await request.body()
        return {"ok": await redis.eval(SCRIPT, 1, "pw:floor", body)}

    @app.get("/read")
    async def read() -> dict[str, int]:
        return {"fields": len(await redis.hmget(hash_key, list(keys.READ_FIELDS)))}

    return app


def taking(
    server: tuple[int, tuple[str, int]], request: bytes, seconds: float, clients: int
) -> dict:
    """Return the figures of `load`, and the requests per second of the server's own CPU time."""
    pid, address = server
    process = psutil.Process(pid)
    before = sum(process.cpu_times()[:2])
    found = asyncio.run(load(address, request, seconds, clients))
    spent_s = sum(process.cpu_times()[:2]) - before
    return {**found, "per_cpu_s": found["per_s"] * seconds / spent_s}


async def load(address: tuple[str, int], request: bytes, seconds: float, clients: int) -> dict:
    """Return requests/s and latencies of `clients` connections that send without pause."""
    until = time.perf_counter() + seconds
    taken: list[float] = []
    statuses: set[int] = set()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(*address)
        while (asked := time.perf_counter()) < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            statuses.add(int(head[9:12]))
            taken.append(time.perf_counter() - asked)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    marks = statistics.quantiles(taken, n=100)
    return {
        "per_s": len(taken) / seconds,
        "p50_ms": marks[49] * 1000,
        "p99_ms": marks[98] * 1000,
        "statuses": sorted(statuses),
    }


def http(method: str, path: str, body: bytes = b"") -> bytes:
    """Return a request as bytes: the client must cost less than the server."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@contextmanager
def process(environ: dict[str, str], *command: str) -> Iterator[tuple[int, tuple[str, int]]]:
    """Start a server process on a socket that is open before: (pid, address)."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as bound:
        fd = bound.fileno()
        started = subprocess.Popen(
            [sys.executable, "-m", *command, "--fd", str(fd)],
            cwd=ROOT,
            env={**os.environ, **environ},
            pass_fds=[fd],
        )
        try:
            yield started.pid, bound.getsockname()
        finally:
            started.terminate()
            started.wait(20)


def measure(redis_url: str, asked: argparse.Namespace) -> dict:
    environ = {"REDIS_URL": redis_url, "PRINTWORKS_API_LOG_LEVEL": "warning"}
    environ |= {
        "PRINTWORKS_API_MAX_QUEUED": "100000000",
        "PRINTWORKS_API_MAX_OPEN_JOBS": "100000000",
    }
    with process(environ, "api") as (pid, api):
        first = asyncio.run(send_one(api))
        floor_args = ("benchmarks.api_floor", "--floor-of", first, "--redis-url", redis_url)
        with process(environ, *floor_args) as floor:
            asyncio.run(load(floor[1], http("GET", "/read"), 0.5, 4))  # wait for its start
            ours = (pid, api)
            plan = {
                "submit": (
                    (ours, http("POST", "/v1/jobs", REQUEST)),
                    (floor, http("POST", "/submit", REQUEST)),
                ),
                "read": ((ours, http("GET", f"/v1/jobs/{first}")), (floor, http("GET", "/read"))),
            }
            found = {name: rounds(*pair, asked) for name, pair in plan.items()}
        found["rss_mib"] = psutil.Process(pid).memory_info().rss / 2**20
    return found


async def send_one(address: tuple[str, int]) -> str:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(http("POST", "/v1/jobs", REQUEST))
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head.lower().split(b"/v1/jobs/")[1].split(b"\r\n")[0].decode()


def rounds(ours: tuple, floor: tuple, asked: argparse.Namespace) -> dict:
    """Run both in turns; return the median of each and of the ratios."""
    pairs = [
        [taking(*who, asked.seconds, asked.clients) for who in (ours, floor)]
        for _ in range(asked.rounds)
    ]
    ratios = [a["per_s"] / b["per_s"] for a, b in pairs]
    figures = ("per_s", "per_cpu_s", "p50_ms", "p99_ms")
    return {
        "api": {k: statistics.median(a[k] for a, _ in pairs) for k in figures},
        "floor": {k: statistics.median(b[k] for _, b in pairs) for k in figures},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_ratio": statistics.median(a["per_cpu_s"] / b["per_cpu_s"] for a, b in pairs),
        "statuses": pairs[0][0]["statuses"],
    }


def show(found: dict) -> None:
    print(
        f"{'':8} {'API/s':>8} {'floor/s':>8} {'ratio':>6} {'by CPU':>7} {'API p50':>9} {'p99':>9}"
    )
    for name in ("submit", "read"):
        r = found[name]
        print(
            f"{name:8} {r['api']['per_s']:8.0f} {r['floor']['per_s']:8.0f} {r['ratio']:6.2f}"
            f" {r['cpu_ratio']:7.2f}"
            f" {r['api']['p50_ms']:6.1f} ms {r['api']['p99_ms']:6.1f} ms   {r['statuses']}"
        )
    print(f"API process after it all: {found['rss_mib']:.0f} MiB RSS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--floor-of", help=argparse.SUPPRESS)
    parser.add_argument("--redis-url", help=argparse.SUPPRESS)
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.floor_of:
        app = floor_app(asked.redis_url, asked.floor_of)
        config = uvicorn.Config(app, log_level="error", access_log=False)
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=asked.fd)])
        return
    with tempfile.TemporaryDirectory() as folder:
        valkey = servers.valkey(Path(folder) / "valkey", password=secrets.token_hex(8))
        valkey.start()
        try:
            valkey.wait_ready()
            found = measure(valkey.url, asked)
        finally:
            valkey.kill()
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
