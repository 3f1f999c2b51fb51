"""Cost of many event streams for one API process: memory, and the latency of other requests.

Opens N event streams of a queued job, then asks for a job's status at a steady pace with and
without them, and at last how long SIGTERM takes. Loopback only, bounded by --seconds.

    python -m benchmarks.api_streams [--streams 1000] [--seconds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import secrets
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.api_floor import http, process, send_one
from deploy import servers

PACE_S = 0.01  # one status read in 10 ms beside the streams


async def status_reads(address: tuple[str, int], job: str, seconds: float) -> list[float]:
    """Return the latencies in ms of status reads at a steady pace."""
    reader, writer = await asyncio.open_connection(*address)
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while (asked := time.perf_counter()) < until:
        writer.write(http("GET", f"/v1/jobs/{job}"))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        taken.append((time.perf_counter() - asked) * 1000)
        await asyncio.sleep(max(0.0, PACE_S - (time.perf_counter() - asked)))
    writer.close()
    return taken


async def open_stream(address: tuple[str, int], job: str) -> asyncio.StreamWriter:
    """Open a stream and read its snapshot."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(http("GET", f"/v1/jobs/{job}/events"))
    await reader.readuntil(b"event: snapshot")
    return writer


async def measure(address: tuple[str, int], pid: int, asked: argparse.Namespace) -> None:
    job = await send_one(address)
    await status_reads(address, job, 0.5)
    alone, before = await status_reads(address, job, asked.seconds), rss_mib(pid)
    opened: list[asyncio.StreamWriter] = []
    started = time.perf_counter()
    while len(opened) < asked.streams:
        some = (open_stream(address, job) for _ in range(min(50, asked.streams - len(opened))))
        opened += await asyncio.gather(*some)
    took = time.perf_counter() - started
    beside, after = await status_reads(address, job, asked.seconds), rss_mib(pid)
    show("alone", alone, before)
    show(f"beside {asked.streams}", beside, after)
    print(f"opened in {took:.1f} s; {(after - before) / asked.streams * 1024:.0f} KiB a stream")
    started = time.perf_counter()
    api = psutil.Process(pid)
    api.terminate()
    await asyncio.to_thread(api.wait, 60)
    print(f"SIGTERM with all of them open: ended after {time.perf_counter() - started:.1f} s")
    for writer in opened:
        writer.close()


def rss_mib(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 2**20


def show(name: str, taken: list[float], rss: float) -> None:
    marks = statistics.quantiles(taken, n=100)
    print(
        f"{name:14} {len(taken):5} reads  p50 {marks[49]:6.1f} ms  p99 {marks[98]:6.1f} ms"
        f"  {rss:6.0f} MiB RSS"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0)
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * asked.streams + 200), hard))
    with tempfile.TemporaryDirectory() as folder:
        valkey = servers.valkey(Path(folder) / "valkey", password=secrets.token_hex(8))
        valkey.start()
        try:
            valkey.wait_ready()
            environ = {
                "REDIS_URL": valkey.url,
                "PRINTWORKS_API_LOG_LEVEL": "warning",
                "PRINTWORKS_API_MAX_TENANT_STREAMS": str(asked.streams),
                "PRINTWORKS_API_MAX_STREAMS": str(asked.streams),
            }
            with process(environ, "api") as (pid, address):
                asyncio.run(measure(address, pid, asked))
        finally:
            valkey.kill()


if __name__ == "__main__":
    main()
