"""A worker process for tests: the real control loop, bridge and finishing on a fake engine.

Run as a program: settings come from the environment as for `python -m worker`; the arguments are
the fake engine's step time and batch, and, if it is to crash, a point of the loop and which time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT)) if __name__ == "__main__" else None

from jobs import keys  # noqa: E402
from jobs.blobs import Blobs  # noqa: E402
from jobs.catalogue import load_catalogue  # noqa: E402
from jobs.connection import connect  # noqa: E402
from tests.queue.fake_engine import fake_link  # noqa: E402
from worker.control import Control  # noqa: E402
from worker.finishing import Finishing, Spool  # noqa: E402
from worker.gpu import _new_name  # noqa: E402
from worker.logs import set_up  # noqa: E402
from worker.messages import EngineConfig  # noqa: E402
from worker.rq_bridge import BatchWorker  # noqa: E402
from worker.settings import WorkerSettings  # noqa: E402


def control_for(
    settings: WorkerSettings,
    *,
    step_s: float = 0.005,
    batch: int = 8,
    at: Callable[[str], None] = lambda _: None,
    blobs: Any = None,
) -> Control:
    """As worker/gpu.py wires it, with the fake engine."""
    catalogue = load_catalogue(settings.models_file)
    models = [entry.id for entry in catalogue.models]
    bridge = BatchWorker(
        [queue for model in models for queue in keys.queue_names(model)],
        name=settings.name or _new_name(),
        connection=connect(settings.redis_url),
        lease_s=settings.lease_s,
    )
    return Control(
        settings,
        bridge=bridge,
        link=fake_link(EngineConfig(catalogue=catalogue), step_s=step_s, batch=batch),
        finishing=Finishing(
            blobs or Blobs(settings),
            threads=settings.finish_threads,
            spool=Spool(settings.spool_dir, max_bytes=settings.spool_mb * 1024 * 1024),
        ),
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


@contextmanager
def worker_process(
    environ: Mapping[str, str], *args: str, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """This file as a process; killed at the end with its engine, if it still lives."""
    out = log.open("ab") if log else subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), *args],
        env={**os.environ, **environ, "PYTHONPATH": str(ROOT)},
        stderr=out,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if log:
            out.close()  # type: ignore[union-attr]


def main() -> None:
    step_s, batch, *crash = sys.argv[1:]
    settings = WorkerSettings.load()
    set_up(settings.log_level)
    at = crash_at(crash[0], int(crash[1])) if crash else lambda _: None
    control = control_for(settings, step_s=float(step_s), batch=int(batch), at=at)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: control.stop())
    control.run()


if __name__ == "__main__":
    main()
