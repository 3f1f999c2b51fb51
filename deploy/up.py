"""The command `up`: all services on one machine until Ctrl-C, or with --once for one image.

Owns the order of the steps and the terminal's messages. Invariant: whatever goes wrong, every
started service is stopped, and the exit status tells success from failure.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from deploy.data import DataFolder
from deploy.first_key import first_key
from deploy.options import Options
from deploy.picture import make_picture
from deploy.progress import Progress
from deploy.readiness import Patience, wait_ready
from deploy.service import ServiceError
from deploy.stack import Stack, one_machine
from deploy.supervisor import Supervisor

FIRST_PROMPT = "a red house on a snowy field"
INTERRUPTED = 130
LOOK_S = 1.0  # between two requests to /readyz
FIRST_SEED = 7  # the same first picture for everybody


class Interrupts:
    """Ctrl-C and SIGTERM: the first asks for an orderly stop, the second for an immediate one."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def once(self) -> bool:
        """Return whether to stop."""
        return self.count > 0

    def twice(self) -> bool:
        """Return whether to stop without waiting for anything."""
        return self.count > 1

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


def up(options: Options) -> int:
    """Run the services until interrupted. Return the exit status."""
    interrupts = Interrupts()
    progress = Progress()
    try:
        data = DataFolder(options.data)
    except (ServiceError, OSError) as refused:
        progress.say(_words(refused))
        return 1
    try:
        return _OneMachine(options, data, progress, interrupts).run()
    except (ServiceError, OSError) as failed:
        progress.say(_words(failed))
        return 1
    finally:
        data.close()


class _OneMachine:
    """One `up`: its services, from the first start to the last stop."""

    def __init__(
        self, options: Options, data: DataFolder, progress: Progress, interrupts: Interrupts
    ) -> None:
        self._options = options
        self._data = data
        self._progress = progress
        self._interrupts = interrupts
        self._stack = one_machine(data, port=options.port, workers=options.workers)
        self._key: str | None = None
        self._start_patience = Patience(
            self._stack.api_url, ignored=("api", "worker"), every_s=LOOK_S
        )
        self._supervisor = Supervisor(self._stack.services, progress, changed=self._write_up)

    def run(self) -> int:
        """Start all services, wait for Ctrl-C, stop them. Return the exit status."""
        supervisor, interrupts = self._supervisor, self._interrupts
        try:
            if not supervisor.start(self._stop_starting):
                return INTERRUPTED
            if not wait_ready(self._stack.api_url, meanwhile=self._look_after):
                return INTERRUPTED
            self._key = first_key(self._stack.api_url, self._data, self._stack.env)
            supervisor.tell()
            if self._options.once is not None:
                return self._once(self._options.once)
            self._print(_table(self._stack, self._key, self._data, self._progress.seconds))
            if self._options.first_picture:
                self._first_picture()
            supervisor.watch(interrupts.once)
            return 0
        finally:
            supervisor.stop(at_once=interrupts.twice)

    def _stop_starting(self) -> bool:
        """Return whether Ctrl-C ends the start. Raises ServiceError when Redis or S3 is missing.

        A worker may load a model for an hour; a wrong address of Redis or S3 stays wrong.
        """
        self._start_patience.look()
        return self._interrupts.once()

    def _look_after(self, missing: str) -> bool:
        """Keep all services running while `missing` is not ready; False when interrupted."""
        self._supervisor.tick()
        self._progress.show(f"not ready yet: {missing}")
        return not self._interrupts.once()

    def _write_up(self, pids: Mapping[str, int]) -> None:
        self._data.write_up(self._stack.as_up_json(pids, self._key))

    def _once(self, prompt: str) -> int:
        if not self._paint({"prompt": prompt}, self._options.out):
            return INTERRUPTED
        self._print(str(self._options.out))
        return 0

    def _print(self, text: str) -> None:
        """Print a result on stdout; an error there (a full disk) is ignored."""
        with suppress(OSError):
            print(text, flush=True)

    def _first_picture(self) -> None:
        """Generate the first image, as a check. A failure is reported, and the services go on."""
        out = self._data.path / "first-picture.png"
        since = self._progress.seconds
        try:
            if self._paint({"prompt": FIRST_PROMPT, "seed": FIRST_SEED}, out):
                took_s = self._progress.seconds - since
                self._print(f'"{FIRST_PROMPT}", {took_s:.1f} s: {out}')
        except (ServiceError, OSError) as failed:
            self._progress.say(f"The first image was not generated: {_words(failed)}")

    def _paint(self, request: dict[str, Any], out: Path) -> bool:
        """Generate an image; False when interrupted. Services that die meanwhile are restarted.

        Raises ServiceError if the job fails, or if /readyz reports the service as not ready.
        """
        patience = Patience(self._stack.api_url)
        for job in make_picture(self._stack.api_url, self._key, request, out):
            if self._interrupts.once():
                return False
            self._supervisor.tick()
            patience.look()
            step, steps = job["progress"]["step"], job["progress"]["steps"]
            stage = job["stage"] or job["status"]
            self._progress.show(f"generating: {stage}", f"{step}/{steps}" if steps else "")
        self._progress.clear()
        return True


def _words(error: Exception) -> str:
    """Return the error's message; for a full disk, with what to do next."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{error}; free some space there, or give another --data" if full else str(error)


def _table(stack: Stack, key: str, data: DataFolder, seconds: float) -> str:
    """Return the addresses, the key and the paths to print after the start."""
    rows = {
        "playground": f"{stack.api_url}/",
        "API": f"{stack.api_url}/v1/jobs",
        "reference": f"{stack.api_url}/docs",
        "admin API key": f"{key} (for webhooks, keys, the queue's control)",
        "images (S3)": stack.s3["endpoint"] or "AWS",
        "addresses": data.up_file,
        "logs": data.logs,
        "try": f'.venv/bin/printworks --url {stack.api_url} generate "a blue owl" -o owl.png',
    }
    lines = [f"  {name:<14} {value}" for name, value in rows.items()]
    return "\n".join([f"Printworks is up ({seconds:.1f} s). Ctrl-C stops it.", *lines])
