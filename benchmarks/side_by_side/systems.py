"""Systems under test: ours by `deploy up`, and the peers, in environments of their own.

Owns start, the request for one picture, and stop. Invariant: every system gets the same model
folder and the same threads in all; what a system needs is installed once, under ~/.cache.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.side_by_side.jobs import Job
from deploy import servers
from deploy.service import free_port
from jobs.settings import ROOT

PEERS = Path(__file__).parent / "peers"
CACHE = Path.home() / ".cache" / "printworks-peers"
LOG = CACHE / "last.log"  # output of the system that was started last
PIPELINE = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "pillow")
START_S = 300.0
POLL_S = 0.05
PNG = b"\x89PNG"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The model folder, and how the cores are shared: `processes` engines of `threads` each."""

    model: Path
    processes: int
    threads: int


@dataclass
class Running(ABC):
    """A running system: its address and processes."""

    client: httpx2.AsyncClient
    root: psutil.Process

    @abstractmethod
    async def make(self, job: Job) -> None:
        """Make one picture, to its bytes. Raises whatever goes wrong."""

    @property
    def alive(self) -> bool:
        """Whether its first process still runs."""
        return self.root.is_running() and self.root.status() != psutil.STATUS_ZOMBIE

    def family(self) -> list[psutil.Process]:
        """Return every process of the system."""
        return [self.root, *self.root.children(recursive=True)]

    def usage(self) -> dict[str, float]:
        """Return CPU seconds so far, and memory now (MiB: proportional where the kernel has it)."""
        cpu = memory = 0.0
        for process in self.family():
            try:
                times = process.cpu_times()
                cpu += times.user + times.system
                memory += process.memory_full_info().pss / 2**20
            except psutil.Error:
                continue
        return {"cpu_s": cpu, "memory_mib": memory}


class Ours(Running):
    """Printworks through its API: send, wait for the end, fetch the image."""

    async def make(self, job: Job) -> None:
        """Make one picture."""
        asked = {
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt,
            "steps": job.steps,
            "guidance_scale": job.guidance,
            "sampler": job.sampler,
            "width": job.width,
            "height": job.height,
            "seed": job.seed,
        }
        answer = await self.client.post("/v1/jobs?wait=55", json=asked)
        while answer.status_code == 202:
            url = answer.json()["urls"]["self"]
            answer = await self.client.get(f"{url}?wait=55")
            if answer.json()["status"] in ("queued", "running"):
                answer.status_code = 202
        record = answer.raise_for_status().json()
        if record["status"] != "succeeded":
            raise RuntimeError(f"{record['status']}: {record.get('error')}")
        image = await self.client.get(record["images"][0]["url"])
        _check(image.raise_for_status().content)


class Direct(Running):
    """A peer that answers with the picture itself."""

    async def make(self, job: Job) -> None:
        """Make one picture."""
        answer = await self.client.post("/generate", json=job.as_json())
        answer.raise_for_status()
        if answer.headers["content-type"].startswith("application/json"):
            _check(base64.b64decode(answer.json()["png"]))
        else:
            _check(answer.content)


class Polled(Running):
    """A peer with a queue: send, then ask until the picture is there."""

    async def make(self, job: Job) -> None:
        """Make one picture."""
        answer = await self.client.post("/generate", json=job.as_json())
        an_id = answer.raise_for_status().json()["id"]
        while True:
            answer = await self.client.get(f"/result/{an_id}")
            if answer.status_code != 202:
                _check(answer.raise_for_status().content)
                return
            await asyncio.sleep(POLL_S)


class Bento(Running):
    """BentoML: a batchable route takes and gives lists."""

    async def make(self, job: Job) -> None:
        """Make one picture."""
        answer = await self.client.post("/batch", json={"asked": [job.as_json()]})
        (png,) = answer.raise_for_status().json()
        _check(base64.b64decode(png))


def _check(png: bytes) -> None:
    if not png.startswith(PNG):
        raise RuntimeError("the answer is no PNG")


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer: what it needs from PyPI, its server, how it is asked."""

    packages: tuple[str, ...]
    server: str
    kind: type[Running]


PEERS_BY_NAME: dict[str, Peer] = {
    "threads": Peer((), "threads_server.py", Direct),
    "rq": Peer((), "rq_server.py", Polled),
    "litserve": Peer(("litserve==0.2.19",), "litserve_server.py", Direct),
    "ray": Peer(("ray[serve]==2.60.0",), "ray_server.py", Direct),
    "bentoml": Peer(("bentoml==1.4.40",), "bentoml_server.py", Bento),
}
NAMES = ("ours", *PEERS_BY_NAME)


@contextmanager
def started(name: str, machine: Machine) -> Generator[Running]:
    """Start a system, wait until it has made a picture, and end it with the block."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        start = _ours(machine, Path(folder)) if name == "ours" else _peer(name, machine)
        with start as running:
            yield running


@contextmanager
def _ours(machine: Machine, folder: Path) -> Generator[Running]:
    models = folder / "models.toml"
    text = (ROOT / "models" / "models.toml").read_text()
    models.write_text(text.replace('source = "demo"', f'source = "{machine.model}"'))
    argv = [sys.executable, str(ROOT / "deploy"), "up", "--no-install", "--no-first-picture"]
    argv += ["--port", "0", "--data", str(folder / "data"), "--workers", str(machine.processes)]
    more = {
        "PRINTWORKS_MODELS_FILE": str(models),
        "PRINTWORKS_WORKER_THREADS": str(machine.threads),
    }
    with _process(argv, more, folder) as root:
        file = folder / "data" / "up.json"
        _wait(root, file.exists)
        said = _json(file)
        with _client(said["api_url"], {"authorization": f"Bearer {said['api_key']}"}) as client:
            yield Ours(client, root)


@contextmanager
def _peer(name: str, machine: Machine) -> Generator[Running]:
    peer, port = PEERS_BY_NAME[name], free_port()
    python = environment(name, peer.packages)
    with TemporaryDirectory() as folder:
        valkey = servers.valkey(Path(folder) / "valkey", password="peer")
        valkey.start()
        try:
            valkey.wait_ready()
            more = {
                "MODEL": str(machine.model),
                "THREADS": str(machine.threads),
                "PROCESSES": str(machine.processes),
                "PEER_REDIS_URL": valkey.url,
                "OMP_WAIT_POLICY": "PASSIVE",  # as ours: spinning threads cost the peers more
            }
            argv = [str(python), str(PEERS / peer.server), str(port)]
            with _process(argv, more, PEERS) as root, _client(f"http://127.0.0.1:{port}") as client:
                yield peer.kind(client, root)
        finally:
            valkey.kill()


def environment(name: str, packages: tuple[str, ...]) -> Path:
    """Return the Python of a peer's environment: its packages, and this one's torch and diffusers.

    Those are linked, with what they need, so that all run the same; nothing else is: LitServe
    takes another path where it finds a package of ours.
    """
    if not packages:
        return Path(sys.executable)
    folder = CACHE / f"{name}-{'-'.join(packages).replace('[', '-').replace(']', '')}"
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        site = next(folder.glob("lib/python*/site-packages"))
        for path in _files_of(PIPELINE):
            if not (site / path.name).exists():
                (site / path.name).symlink_to(path)
        (folder / "done").write_text("")
    return python


def _files_of(names: tuple[str, ...]) -> set[Path]:
    """Return the top-level files and folders of packages here, and of all that they need."""
    found: set[Path] = set()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        package = metadata.distribution(name)
        for file in package.files or ():
            if file.parts[0] not in ("..", "__pycache__"):
                found.add(Path(str(package.locate_file(file.parts[0]))))
        for line in package.requires or ():
            needed = Requirement(line)
            if not needed.marker or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return found


@contextmanager
def _process(argv: list[str], more: Mapping[str, str], cwd: Path) -> Generator[psutil.Process]:
    own = {n: v for n, v in os.environ.items() if not n.startswith("PRINTWORKS_")}
    CACHE.mkdir(parents=True, exist_ok=True)
    with (
        LOG.open("w") as log,
        subprocess.Popen(
            argv, env=own | dict(more), cwd=cwd, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        root = psutil.Process(process.pid)
        try:
            yield root
        finally:
            family = [root, *root.children(recursive=True)]
            process.terminate()
            psutil.wait_procs(family, timeout=20)
            for one in family:
                if one.is_running():
                    one.kill()


@contextmanager
def _client(url: str, headers: Mapping[str, str] | None = None) -> Generator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=256)
    client = httpx2.AsyncClient(
        base_url=url, headers=headers, timeout=600, limits=limits, trust_env=False
    )
    yield client
    # its connections end with the loop that used them


def _wait(root: psutil.Process, ready: Any) -> None:
    until = time.monotonic() + START_S
    while not ready():
        if not root.is_running() or time.monotonic() > until:
            raise RuntimeError("the system did not start")
        time.sleep(0.1)  # noqa: TID251 - no test, and nothing to be told by


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())
