"""`printworks batch`: a file of requests, JSONL or CSV, to a folder of images.

Owns the journal `results.jsonl` in that folder. Invariants: a line is sent once, however often the
command is broken off and run again; every line's end is in the journal; one line that fails stops
no other.
"""

from __future__ import annotations

import csv
import json
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from printworks.cli import request
from printworks.cli.connection import Options, connect, reported
from printworks.cli.delivery import INTERRUPTED, SUFFIXES
from printworks.client import Client
from printworks.errors import Busy, NotAllowed, PrintworksError, ServiceFault, Unreachable
from printworks.types import Job

JOURNAL = "results.jsonl"
# What fails one line fails every line: no service, no right; and whether a request that met a fault
# of the service was accepted is not known.
ENDS_ALL = (NotAllowed, ServiceFault, Unreachable)
BUSY_S = 5.0  # where the service accepts no jobs now, after the client's own retries


@dataclass
class Journal:
    """The journal of a batch: one JSON object a line, the last one of a line of the file counts."""

    path: Path
    last: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> None:
        """Read what an earlier run wrote; a half-written last line is ignored."""
        if not self.path.exists():
            return
        for line in self.path.read_text("utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            self.last[entry["line"]] = entry

    def write(self, line: int, **entry: Any) -> None:
        """Append an entry."""
        said = {"line": line, **entry}
        with self.lock, self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(said) + "\n")
            self.last[line] = said


def batch(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="Requests: .jsonl (one a line) or .csv (fields as columns).")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for images and results.jsonl.")],
    parallel: Annotated[
        int, typer.Option(min=1, max=64, help="Jobs that wait or run at once.")
    ] = 16,
    other: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE for every line that does not say it; repeatable."),
    ] = None,
) -> None:
    """Generate the images of a file of requests; run it again to go on where it stopped."""
    options: Options = context.obj
    lines = requests_of(file, request.values_of("--set", other or ()))
    out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out / JOURNAL)
    journal.read()
    waiting = {n: asked for n, asked in lines.items() if not _made(journal, n)}
    with reported(options), connect(options) as client:
        _run(client, waiting, out, journal, parallel, done=len(lines) - len(waiting))
    ends = [journal.last.get(n, {}).get("status", "waiting") for n in lines]
    said = {"lines": len(lines), "succeeded": ends.count("succeeded"), "folder": str(out)}
    print(
        json.dumps(said) if options.as_json else "{succeeded} of {lines}: {folder}".format(**said)
    )
    raise typer.Exit(0 if said["succeeded"] == said["lines"] else 1)


def _made(journal: Journal, line: int) -> bool:
    """Return whether a line has its images: those whose files were removed are made again."""
    entry = journal.last.get(line, {})
    files = [journal.path.parent / name for name in entry.get("files", ())]
    return entry.get("status") == "succeeded" and all(file.exists() for file in files)


def _run(
    client: Client,
    waiting: dict[int, dict[str, Any]],
    out: Path,
    journal: Journal,
    parallel: int,
    *,
    done: int,
) -> None:
    """Run all lines, `parallel` at a time. Ctrl-C stops sending, and cancels what has not ended."""
    stop = threading.Event()
    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("generating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar, ThreadPoolExecutor(parallel) as pool:
        task = bar.add_task("", total=done + len(waiting), completed=done)
        futures = {
            pool.submit(_one, client, n, asked, out, journal, stop): n
            for n, asked in waiting.items()
        }
        try:
            for future in as_completed(futures):
                future.result()
                bar.advance(task)
                _say(console, journal.last.get(futures[future], {}))
        except (KeyboardInterrupt, OSError, *ENDS_ALL) as error:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, PrintworksError):
                raise
            if isinstance(error, KeyboardInterrupt):
                _cancel_open(client, journal)  # what is waited for ends, and then the threads
                pool.shutdown()
                _cancel_open(client, journal)  # what they had sent meanwhile
            said = error if isinstance(error, OSError) else "interrupted"
            print(f"printworks: {said}; run it again to go on", file=sys.stderr)
            raise typer.Exit(1 if isinstance(error, OSError) else INTERRUPTED) from None


def _one(
    client: Client,
    line: int,
    asked: dict[str, Any],
    out: Path,
    journal: Journal,
    stop: threading.Event,
) -> None:
    """Send one line, unless an earlier run did; wait for its end; save its images."""
    try:
        job_id = _sent(client, line, asked, journal, stop)
        if job_id is None or stop.is_set():
            return
        job = client.wait(job_id)
        if job.status == "canceled" and stop.is_set():
            return
        names = _saved(client, job, out, line)
        said = {"error": job.error.message} if job.error else {}
        journal.write(line, job=job.id, status=job.status, files=names, **said)
    except ENDS_ALL:
        raise  # the journal still has the line's key or job: the next run goes on with it
    except PrintworksError as error:
        journal.write(line, status="refused", error=str(error))


def _sent(
    client: Client, line: int, asked: dict[str, Any], journal: Journal, stop: threading.Event
) -> str | None:
    """Return the ID of a line's job; wait while the service accepts none. None: stopped.

    The idempotency key is written down before it is used: a run that is killed between the two
    and repeated gets the job that the first one sent.
    """
    before = journal.last.get(line, {})
    if before.get("status") == "sent":
        return str(before["job"])
    key = before["key"] if before.get("status") == "sending" else str(uuid.uuid4())
    journal.write(line, status="sending", key=key)
    words = {name: value for name, value in asked.items() if name != "prompt"}
    while not stop.is_set():
        try:
            options = request.options_of(words)
            job = client.submit(asked["prompt"], idempotency_key=key, **options)
        except Busy:
            stop.wait(BUSY_S)
        else:
            journal.write(line, job=job.id, status="sent")
            return job.id
    return None


def _saved(client: Client, job: Job, out: Path, line: int) -> list[str]:
    names: list[str] = []
    for image in job.images if job.status == "succeeded" else ():
        many = f"-{image.index}" if len(job.images) > 1 else ""
        name = f"{line:05}{many}{SUFFIXES.get(image.content_type, '.bin')}"
        client.save(image, out / name)
        names.append(name)
    return names


def _cancel_open(client: Client, journal: Journal) -> None:
    for line, entry in list(journal.last.items()):
        if entry.get("status") == "sent":
            client.cancel(entry["job"])
            journal.write(line, job=entry["job"], status="canceled")


def _say(console: Console, entry: dict[str, Any]) -> None:
    """Print what became of a line: always if it failed, else only without a progress bar."""
    if entry.get("status") == "succeeded" and console.is_terminal:
        return
    rest = entry.get("error") or " ".join(entry.get("files", ()))
    console.print(f"line {entry.get('line')}: {entry.get('status')} {rest}", soft_wrap=True)


def requests_of(file: Path, defaults: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the requests of a file by line number. Raises BadParameter with the line at fault."""
    try:
        text = file.read_text("utf-8-sig")  # spreadsheets write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file}: {error}") from None
    read = _of_csv(text) if file.suffix.lower() == ".csv" else _of_jsonl(text, file)
    made = {line: defaults | asked for line, asked in read}
    without = [line for line, asked in made.items() if not isinstance(asked.get("prompt"), str)]
    if without:
        raise typer.BadParameter(f"{file}, line {without[0]}: there is no prompt")
    if not made:
        raise typer.BadParameter(f"{file}: there is no request in it")
    return made


def _of_jsonl(text: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            asked = json.loads(line)
        except ValueError as error:
            raise typer.BadParameter(f"{file}, line {number}: {error}") from None
        if not isinstance(asked, dict):
            raise typer.BadParameter(f"{file}, line {number}: not an object")
        yield number, asked


def _of_csv(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows; a cell is JSON if it reads as JSON, else text; an empty one says nothing."""
    reader = csv.DictReader(text.splitlines(keepends=True))
    for row in reader:
        cells = {k.strip(): v for k, v in row.items() if k and v and v.strip()}
        texts = ("prompt", "negative_prompt")  # "42" is a prompt, too
        yield (
            reader.line_num,
            {k: v if k in texts else request.value_of(v) for k, v in cells.items()},
        )
