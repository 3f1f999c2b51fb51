"""A real `python3 deploy up` in a folder of the test's own, on a tiny model.

Owns its start, its end and the model file. Invariant: `end` leaves no process of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from printworks import Client

from jobs.settings import ROOT
from tests.helpers import gone, wait_until

START_S = 120.0  # importing torch on a busy machine is most of it
MODELS = """
[[model]]
id = "tiny"
title = "random weights: it paints noise, quickly"
source = "tiny"
family = "sd"
loras = "loras"
inputs = ["image", "mask"]
controls.edges = {source = "edges"}
lane_width = 16  # rows: eight guided images in one call, whatever this machine is good at
[model.defaults]
width = 32
height = 32
sampler = "ddim"
[model.limits]
min_side = 8
max_steps = 1000

[[model]]
id = "demo"
title = "the shipped model"
source = "demo"
family = "sd"
resident = false  # loaded by the first job that names it
loras = "demo-loras"
inputs = ["image", "mask"]
[model.defaults]
width = 128
height = 128
guidance_scale = 4.0
sampler = "dpmpp_2m"
[model.limits]
min_side = 64
side_multiple = 32
"""
WORKER = {
    # six seconds and one: a test that kills a worker waits for its lease to run out
    "PRINTWORKS_WORKER_LEASE_S": "6",
    "PRINTWORKS_WORKER_BEAT_S": "1",
    # two threads on a busy machine of two cores spin for each other: 20 times slower
    "PRINTWORKS_WORKER_THREADS": "1",
}

NOTHING: Mapping[str, str] = {}
# Where nothing listens, as a company's proxy looks from outside; a CIDR is known to few clients
DEAD_PROXY = {
    **dict.fromkeys(("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY"), "http://127.0.0.1:9"),
    "no_proxy": "localhost,127.0.0.0/8,.example.com",
}
# What stands in many a terminal, and is no business of an engine or a server
STRANGE = {
    "AWS_SESSION_TOKEN": "strange-1",
    "DATABASE_URL": "postgres://somebody:strange-2@127.0.0.1/x",
    "NVIDIA_API_KEY": "strange-3",
    "SOMEBODYS_SECRET": "strange-4",
}


def write_models(folder: Path) -> Path:
    """A model file and its models. In a process of its own: torch stays out of the test's."""
    code = (
        "import sys, pathlib; from tests.engine.loras import demo, tiny_pipeline, write_lora;"
        "folder = pathlib.Path(sys.argv[1]); tiny_pipeline().save_pretrained(folder / 'tiny');"
        "write_lora(folder / 'loras', 'ink', seed=1, text=True);"
        "write_lora(folder / 'demo-loras', 'ink', seed=2, text=True, build=demo);"
        "from tests.engine.controls import tiny_control;"
        "tiny_control(tiny_pipeline().unet).save_pretrained(folder / 'edges')"
    )
    for name in ("loras", "demo-loras"):
        (folder / name).mkdir()
    (folder / "demo").symlink_to(ROOT / "models/demo")
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True)
    models = folder / "models.toml"
    models.write_text(MODELS)
    return models


class Up:
    """One `up`, and a client of it."""

    def __init__(
        self, data: Path, models: Path, *arguments: str, more: Mapping[str, str] = NOTHING
    ) -> None:
        self.data = data
        self._clients = ExitStack()
        self.log = data.with_suffix(".out")
        own = {n: v for n, v in os.environ.items() if not n.startswith("PRINTWORKS_")}
        own.pop("REDIS_URL", None)
        argv = [sys.executable, ROOT / "deploy", "up", "--no-install", "--port", "0"]
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [*map(str, argv), "--data", str(data), *arguments],
                env=own | WORKER | STRANGE | {"PRINTWORKS_MODELS_FILE": str(models), **more},
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=data.parent,
            )

    def wait_ready(self) -> None:
        """Until `up.json` is there."""
        wait_until(
            lambda: (self.data / "up.json").exists() or self.process.poll() is not None,
            "up.json is written",
            START_S,
        )
        assert self.process.poll() is None, self.log.read_text()
        said = self.said
        self.client = self._clients.enter_context(Client(said["api_url"], said["api_key"]))

    @property
    def said(self) -> dict[str, Any]:
        """What `up.json` says now."""
        return json.loads((self.data / "up.json").read_text())

    def pid(self, name: str) -> int:
        """The process ID of one service."""
        return self.said["pids"][name]

    def engine(self) -> psutil.Process:
        """The worker's engine: its child that holds the most memory (torch)."""
        children = psutil.Process(self.pid("worker-1")).children()
        return max(children, key=lambda child: child.memory_info().rss)

    def family(self) -> list[psutil.Process]:
        """Everything that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> None:
        """Ctrl-C, and everything is gone."""
        self._clients.close()
        if self.process.poll() is None:
            family = self.family()
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
            wait_until(lambda: all(map(gone, family)), "every process has ended")
