"""The display of a job in progress: a bar on a terminal, one line for each change elsewhere.

Owns everything on stderr while waiting. Must not know how jobs are fetched.
"""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from printworks.types import Job

TENTHS = 10  # without a terminal: a line each tenth of the work


class Display:
    """A progress display of one job, updated with every new state of the job."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("sending", total=1.0, detail="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, job: Job) -> None:
        """Display the current state of `job`."""
        doing, detail = _doing(job), _detail(job)
        if self._bar and self._task is not None:
            self._bar.update(
                self._task, description=doing, detail=detail, completed=job.progress.fraction
            )
            return
        step = f"{int(job.progress.fraction * TENTHS) * (100 // TENTHS)} %"
        line = f"{doing} {step if job.status == 'running' else detail}".rstrip()
        if line != self._said:
            self._console.print(line, soft_wrap=True)
            self._said = line


def _doing(job: Job) -> str:
    return "queued" if job.status == "queued" else job.stage or job.status


def _detail(job: Job) -> str:
    if job.status == "queued" and job.queue and job.queue.position is not None:
        eta_s = job.queue.eta_seconds
        eta = "" if eta_s is None else f", about {eta_s:.0f} s"
        return f"{job.queue.position} ahead{eta}" if job.queue.position else f"next{eta}"
    if job.progress.steps:
        return f"step {job.progress.step}/{job.progress.steps}"
    return ""


class GroupDisplay:
    """A progress display of several jobs: how many have ended."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._total = total
        self._ended: set[str] = set()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (TextColumn("generating"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, job: Job) -> None:
        """Count `job` if it has ended."""
        if not job.final or job.id in self._ended:
            return
        self._ended.add(job.id)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=len(self._ended))
        else:
            self._console.print(f"{len(self._ended)} of {self._total}")
