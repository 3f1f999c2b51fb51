"""A worker process for tests: the real control loop, bridge and finishing on a fake engine.

It is forked from the test's own process, which has imported everything: a start costs
milliseconds instead of two seconds of imports. Its engine is a process of its own all the same.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.blobs.s3 import S3Blobs
from jobs.contract.model_file import load_catalogue
from jobs.logs import set_up
from jobs.store import keys
from jobs.store.connection import connect
from jobs.tracing.opening import open_tracing
from tests.queue.fake_engine import fake_link
from worker.control.loop import ControlLoop
from worker.gpu import new_name
from worker.messages import EngineConfig
from worker.pictures.content_check import checker_of
from worker.pictures.input_fetcher import Fetching
from worker.pictures.spool import Spool
from worker.pictures.uploader import Finishing
from worker.rq_bridge import BatchWorker
from worker.settings import WorkerSettings


def control_for(
    settings: WorkerSettings,
    *,
    step_s: float = 0.005,
    batch: int = 8,
    at: Callable[[str], None] = lambda _: None,
    blobs: Any = None,
) -> ControlLoop:
    """As worker/gpu.py wires it, with the fake engine."""
    catalogue = load_catalogue(settings.models_file)
    models = [entry.id for entry in catalogue.models]
    tracing = open_tracing(settings, "worker")
    bridge = BatchWorker(
        [queue for model in models for queue in keys.queue_names(model)],
        name=settings.name or new_name(),
        connection=connect(settings.redis_url),
        lease_s=settings.lease_s,
        replicas=settings.replicas,
    )
    blobs = blobs or S3Blobs(settings)
    return ControlLoop(
        settings,
        bridge=bridge,
        link=fake_link(EngineConfig(catalogue=catalogue), step_s=step_s, batch=batch),
        finishing=Finishing(
            blobs,
            threads=settings.finish_threads,
            spool=Spool(
                settings.spool_dir, name=bridge.name, max_bytes=settings.spool_mb * 1024 * 1024
            ),
            checker=checker_of(settings.image_checker, timeout_s=settings.image_checker_timeout_s),
            tracing=tracing,
        ),
        fetching=Fetching(blobs),
        models=models,
        at=at,
    )


def crash_at(point: str, time: int) -> Callable[[str], None]:
    """Kill this process, as the kernel would, the `time`-th time that `point` is reached."""
    passed = 0

    def at(reached: str) -> None:
        nonlocal passed
        passed += reached == point
        if passed == time:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


class Worker:
    """A worker process, and what can be done to it."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid: int = process.pid

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float) -> int | None:
        """Its exit code; None: it still runs."""
        self._process.join(timeout)
        return self._process.exitcode


@contextmanager
def worker_process(
    environ: Mapping[str, str],
    *,
    step_s: float = 0.005,
    crash: tuple[str, int] | None = None,
    log: Path | None = None,
) -> Iterator[Worker]:
    """A worker; killed at the end if it still lives. `crash`: at which point, which time."""
    process = multiprocessing.get_context("fork").Process(
        target=_work, args=(environ, step_s, crash, log)
    )
    process.start()
    try:
        yield Worker(process)
    finally:
        process.kill()
        process.join()


def _work(
    environ: Mapping[str, str], step_s: float, crash: tuple[str, int] | None, log: Path | None
) -> None:
    out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    logging.getLogger().handlers = []
    settings = WorkerSettings.load(environ)
    set_up(settings.log_level)
    at = crash_at(*crash) if crash else lambda _: None
    control = control_for(settings, step_s=step_s, at=at)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: control.stop())
    control.run()


if __name__ == "__main__":  # under a clock of its own, which a fork cannot have
    _work(os.environ, float(sys.argv[1]), None, Path(sys.argv[2]))
