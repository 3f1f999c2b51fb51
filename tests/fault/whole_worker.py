"""A whole worker, as it is deployed, on a model that breaks when asked (tests/fault/breaking.py).

`python -m worker gpu` with its real engine process. Owns its start, its end and the jobs made for
it. Invariant: torch is imported by these processes only, never by the test's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from jobs.contract.model_file import Catalogue, load_catalogue
from jobs.contract.parsing import parse_request
from jobs.contract.record import FINAL, JobRecord
from jobs.contract.resolve import resolve
from jobs.contract.submission import AdmitLimits
from jobs.ids import new_job_id
from jobs.settings import ROOT
from jobs.store.job_store import JobStore
from tests.fault.test_deaths import ready
from tests.helpers import wait_until
from tests.queue.making import TENANT

START_S = 400.0  # importing torch takes 6 s alone, a minute and more among busy neighbours
END_S = 300.0
LIMITS = AdmitLimits(max_jobs=None, tenant_jobs=None, tenant_line=1000)


@dataclass
class WholeWorker:
    """The processes, and what was made so far without a fault."""

    process: subprocess.Popen[bytes]
    catalogue: Catalogue
    log: Path
    alone: dict[tuple[str, int], str] = field(default_factory=dict)  # pixels by model and seed

    @property
    def engine(self) -> psutil.Process:
        """The engine process of now."""
        return wait_until(self._engine, "there is an engine process", START_S)

    def _engine(self) -> psutil.Process | None:
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # it died just now
                if "worker.engine" in child.cmdline():
                    return child
        return None

    def admit(self, store: JobStore, prompt: str = "a red bicycle", **asked: Any) -> str:
        """An accepted job's ID."""
        request = parse_request({"prompt": prompt, "seed": 7, "model": "tiny", **asked})
        spec = resolve(request, self.catalogue, draw_seed=lambda: 7, default_retention_s=3600)
        job_id = new_job_id()
        store.admit(spec, tenant=TENANT, job_id=job_id, limits=LIMITS)
        return job_id

    def said(self, word: str) -> int:
        """How often its log says that word."""
        return self.log.read_text().count(word)

    def made_alone(
        self, store: JobStore, seeds: range, *, model: str = "tiny", **asked: Any
    ) -> list[str]:
        """The pixels of these seeds, each made with nobody beside it."""
        for seed in seeds:
            if (model, seed) not in self.alone:
                (record,) = ends(store, [self.admit(store, seed=seed, model=model, **asked)])
                self.alone[model, seed] = record.images[0].pixel_sha256
        return [self.alone[model, seed] for seed in seeds]


def ends(store: JobStore, ids: list[str], timeout_s: float = END_S) -> list[JobRecord]:
    """The records of these jobs, once all have ended."""

    def ended() -> list[JobRecord]:
        records = [store.read(i, tenant=TENANT) for i in ids]
        return records if all(r.status in FINAL for r in records) else []

    return wait_until(ended, f"{len(ids)} jobs have ended", timeout_s)


def pixels(records: list[JobRecord]) -> list[str]:
    """What they show; fails where one did not succeed."""
    assert [(r.status.value, r.error) for r in records] == [("succeeded", None)] * len(records)
    return [r.images[0].pixel_sha256 for r in records]


@contextmanager
def whole_worker(environ: Mapping[str, str], folder: Path) -> Iterator[WholeWorker]:
    """One worker, ready once `ready` says so; ended by SIGTERM."""
    code = "import sys, pathlib, tests.fault.breaking as b; "
    code += "b.write_model_file(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True)
    (folder / "once").mkdir()
    models = folder / "models.toml"
    more = {
        "PRINTWORKS_MODELS_FILE": str(models),
        "PRINTWORKS_WORKER_THREADS": "1",
        "PRINTWORKS_WORKER_STATE_DIR": str(folder / "state"),
        "PRINTWORKS_WORKER_ENGINE_VARIABLES": "BREAKING_ONCE",
        "BREAKING_ONCE": str(folder / "once"),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "gpu"],
            cwd=ROOT,
            env={n: v for n, v in os.environ.items() if not n.startswith("PRINTWORKS_")}
            | dict(environ)
            | more,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield WholeWorker(process, load_catalogue(models), folder / "log")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()


def up(redis: Redis) -> None:
    """Its engine is loaded, or loaded again."""
    ready(redis, timeout_s=START_S)
