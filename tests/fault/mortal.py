"""A worker process that a test kills at one exact point of a job's way from claim to event.

The world outside changes only by what is sent to Redis and to the picture store, so a point is
before or after one of these messages ("finish asked", "put answered"), or one that the control
loop names itself (`Control(at=...)`). The hooks stand in this file, in a forked process of the
test's own: nothing in the product can be told to die.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from jobs.blobs.s3 import S3Blobs
from jobs.store import scripts
from tests.queue.worker_process import Worker, control_for, crash_at
from worker.settings import WorkerSettings

SCRIPTS = {script.sha: script for script in map(scripts.load, scripts.SCRIPTS.names)}

At = Callable[[str], None]


class HookedBlobs(S3Blobs):
    """The picture store, with a point before and after each upload."""

    def __init__(self, settings: WorkerSettings, at: At) -> None:
        super().__init__(settings)
        self.at = at

    def put(self, key: str, data: bytes, content_type: str) -> None:
        self.at("put asked")
        super().put(key, data, content_type)
        self.at("put answered")


def hook_redis(at: At) -> None:
    """From now on, in this process, every script has a point before and after it.

    Redis knows them all beforehand (`teach`): a first one would be sent twice.
    """
    real = Redis.execute_command

    def execute_command(self: Redis, *args: Any, **options: Any) -> Any:
        script = SCRIPTS.get(args[1]) if args[0] == "EVALSHA" else None
        if script is None:
            return real(self, *args, **options)
        at(f"{script.name} asked")
        answer = real(self, *args, **options)
        at(f"{script.name} answered")
        return answer

    Redis.execute_command = execute_command  # type: ignore[method-assign]


def teach(redis: Redis) -> None:
    """Load every script that Redis does not know yet."""
    known = redis.script_exists(*SCRIPTS)
    for script, there in zip(SCRIPTS.values(), known, strict=True):
        if not there:
            redis.script_load(script.text)


@contextmanager
def mortal_worker(
    environ: Mapping[str, str],
    *,
    crash: tuple[str, int] | None = None,
    record: Path | None = None,
    step_s: float = 0.01,
) -> Iterator[Worker]:
    """A worker that dies the n-th time it reaches a point, or writes down all that it reaches."""
    process = multiprocessing.get_context("fork").Process(
        target=_work, args=(environ, crash, record, step_s)
    )
    process.start()
    try:
        yield Worker(process)
    finally:
        process.kill()
        process.join()


def _work(
    environ: Mapping[str, str], crash: tuple[str, int] | None, record: Path | None, step_s: float
) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)  # its engine says that the pipe broke, which it did
    logging.getLogger().handlers = []
    at = crash_at(*crash) if crash else _recorder(record or Path(os.devnull))
    settings = WorkerSettings.load(environ)
    hook_redis(at)
    control = control_for(settings, step_s=step_s, at=at, blobs=HookedBlobs(settings, at))
    signal.signal(signal.SIGTERM, lambda *_: control.stop())
    control.run()


def _recorder(path: Path) -> At:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda point: (os.write(file, f"{point}\n".encode()), None)[1]
