"""The longest wait of a client while one API process handles a hostile request.

A real process, a client that asks for /livez as fast as it is answered, and beside it each request
of tests/api/hostile_bodies.py. Two figures: the longest wait for /livez by the clock, and the most
CPU time that the API (its loop and its threads) spent during one such wait, which other programs of
the machine do not stretch; each the least of some tries. `--save` keeps the figures, `--against`
prints the ratio to kept ones: of another commit, say. Linux.

    python -m benchmarks.event_loop [--tries 3] [--save FILE] [--against FILE]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy import servers
from tests.api.hostile_bodies import HOSTILE, Hostile, send

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Served:
    """The API: its address and its process."""

    address: tuple[str, int]
    pid: int

    def cpu_ms(self) -> float:
        """CPU time of all its threads so far."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e6


class Prober:
    """A client that asks for /livez again and again, and notes its longest waits, in ms."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._wire = http.client.HTTPConnection(*served.address, timeout=60)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.clock_ms = self.cpu_ms = 0.0

    def __enter__(self) -> Prober:
        self._wire.connect()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._wire.close()

    def _ask(self) -> None:
        while not self._ended.is_set():
            spent_ms, began_s = self._served.cpu_ms(), time.perf_counter()
            self._wire.request("GET", "/livez")
            self._wire.getresponse().read()
            self.clock_ms = max(self.clock_ms, (time.perf_counter() - began_s) * 1000)
            self.cpu_ms = max(self.cpu_ms, self._served.cpu_ms() - spent_ms)


@contextmanager
def api(folder: Path) -> Iterator[Served]:
    """One API process on its own Valkey; no picture gets as far as S3."""
    valkey = servers.valkey(folder / "valkey", password=secrets.token_hex(8))
    valkey.start()
    valkey.wait_ready()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    environ = {"PATH": os.environ["PATH"], "REDIS_URL": valkey.url}
    command = [sys.executable, "-m", "api", "--port", str(address[1])]
    with (folder / "api.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=log)
    try:
        wait_for(address)
        yield Served(address, process.pid)
    finally:
        process.kill()
        process.wait()
        valkey.kill()


def wait_for(address: tuple[str, int]) -> None:
    """Wait until the API serves requests."""
    until_s = time.monotonic() + 30
    pause = threading.Event()
    while time.monotonic() < until_s:
        try:
            socket.create_connection(address, timeout=1).close()
        except OSError:
            pause.wait(0.05)
        else:
            return
    raise SystemExit("the API did not start")


def longest_ms(served: Served, hostile: Hostile, tries: int) -> dict[str, float]:
    """Return the longest wait for /livez during the request: by the clock, and in CPU time."""
    probers: list[Prober] = []
    for _ in range(tries):
        with Prober(served) as prober:
            send(served.address, hostile, hostile.most)
        probers.append(prober)
    return {"clock": min(p.clock_ms for p in probers), "cpu": min(p.cpu_ms for p in probers)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--against", type=Path)
    asked = parser.parse_args()
    before = json.loads(asked.against.read_text()) if asked.against else {}
    found: dict[str, dict[str, float]] = {}
    print(f"{'':28} {'clock':>7}    {'CPU':>7}    before (CPU)")
    with tempfile.TemporaryDirectory() as folder, api(Path(folder)) as served:
        for name, hostile in HOSTILE.items():
            now = found[name] = longest_ms(served, hostile, asked.tries)
            ratio = f"{before[name]['cpu'] / now['cpu']:6.1f} x" if name in before else ""
            print(f"{name:28} {now['clock']:7.1f} ms {now['cpu']:7.1f} ms {ratio}", flush=True)
    for said, figures in (("now", found), ("before", before)):
        if figures:
            worst = max(figures, key=lambda name: figures[name]["cpu"])
            print(f"{said}, the worst of {len(figures)}: {worst}, {figures[worst]['cpu']:.0f} ms")
    if asked.save:
        asked.save.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
