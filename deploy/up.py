"""The command `up`: everything on one machine, until Ctrl-C; or one picture, and out again.

Owns the order of the acts and what the person at the terminal reads. Invariant: whatever goes
wrong, what was started is stopped, and the exit status says whether it went well.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from types import FrameType

from deploy.commands import Options
from deploy.data import DataFolder
from deploy.picture import make_picture
from deploy.progress import Progress
from deploy.service import ServiceError
from deploy.stack import Stack, one_machine
from deploy.supervisor import Supervisor

FIRST_PROMPT = "a red bicycle on a cobblestone street"
FIRST_SEED = 7  # the same first picture for everybody


class Interrupts:
    """Ctrl-C and SIGTERM: the first asks for an orderly end, the second for one at once."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def once(self) -> bool:
        """Whether to end."""
        return self.count > 0

    def twice(self) -> bool:
        """Whether to end without waiting for anything."""
        return self.count > 1

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


def up(options: Options) -> int:
    """Run it; the exit status."""
    interrupts = Interrupts()
    progress = Progress()
    try:
        data = DataFolder(options.data)
    except ServiceError as refused:
        print(refused, file=sys.stderr)
        return 1
    try:
        return _run(options, data, progress, interrupts)
    except ServiceError as failed:
        progress.clear()
        print(failed, file=sys.stderr)
        return 1
    finally:
        data.close()


def _run(options: Options, data: DataFolder, progress: Progress, interrupts: Interrupts) -> int:
    stack = one_machine(data, port=options.port, workers=options.workers)

    def write_up(pids: Mapping[str, int]) -> None:
        data.write_up(stack.as_up_json(pids, api_key=None))

    supervisor = Supervisor(stack.services, progress, changed=write_up)
    try:
        if not supervisor.start(interrupts.once):
            return 130
        write_up(supervisor.pids())
        if options.once is not None:
            return _once(options, stack, progress)
        print(_table(stack, data, progress.seconds), flush=True)
        if options.first_picture:
            _first_picture(stack, data, progress)
        supervisor.watch(interrupts.once)
        return 0
    finally:
        supervisor.stop(at_once=interrupts.twice)


def _once(options: Options, stack: Stack, progress: Progress) -> int:
    make_picture(stack.api_url, None, {"prompt": options.once}, options.out, progress)
    print(options.out, flush=True)
    return 0


def _first_picture(stack: Stack, data: DataFolder, progress: Progress) -> None:
    """Show that it works. That it does not is said, and ends nothing."""
    out = data.path / "first-picture.png"
    since = progress.seconds
    try:
        request = {"prompt": FIRST_PROMPT, "seed": FIRST_SEED}
        make_picture(stack.api_url, None, request, out, progress)
    except ServiceError as failed:
        progress.say(f"The first picture was not made: {failed}")
        return
    print(f'"{FIRST_PROMPT}", {progress.seconds - since:.1f} s: {out}', flush=True)


def _table(stack: Stack, data: DataFolder, seconds: float) -> str:
    rows = {
        "playground": f"{stack.api_url}/",
        "API": f"{stack.api_url}/v1/jobs",
        "reference": f"{stack.api_url}/docs",
        "pictures (S3)": str(stack.s3["endpoint"] or "AWS"),
        "everything else": str(data.up_file),
        "logs": str(data.logs),
    }
    lines = [f"  {name:<16} {value}" for name, value in rows.items()]
    command = f'  try: .venv/bin/printworks --url {stack.api_url} generate "a blue owl" -o owl.png'
    head = (
        f"Printworks is up ({seconds:.1f} s). No key is needed from this machine. Ctrl-C stops it."
    )
    return "\n".join([head, *lines, command])
