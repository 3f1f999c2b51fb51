"""Waiting for a job, and its images as files.

Owns the names of files and the output for a finished job. Invariants: Ctrl-C cancels the job, and
its ID is printed before; an existing file is only replaced when its name was given with -o.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from printworks.cli.connection import Options
from printworks.cli.display import Display
from printworks.cli.request import STDOUT
from printworks.client import Client
from printworks.errors import Busy
from printworks.types import Image, Job

SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
INTERRUPTED = 130


def follow(client: Client, job: Job, timeout_s: float | None, *, ours: bool = True) -> Job:
    """Wait for the end of a job, and display progress. Ctrl-C cancels the job if it is `ours`."""
    print(f"job {job.id}", file=sys.stderr)  # whatever happens next, the job can be found again
    try:
        with Display() as display:
            display.show(job)
            return _followed(client, job, timeout_s, display)
    except KeyboardInterrupt:
        if ours:
            client.cancel(job.id)
        became = "is canceled" if ours else "goes on"
        print(f"printworks: interrupted; job {job.id} {became}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _followed(client: Client, job: Job, timeout_s: float | None, display: Display) -> Job:
    """Return the job at its end, displayed as its events arrive."""
    try:
        for event in client.events(job.id, timeout_s=timeout_s):
            job = event.onto(job)
            display.show(job)
    except Busy:  # too many event streams: polling still works
        return client.wait(job.id, timeout_s=timeout_s, on_look=display.show)
    return job if job.final else client.get(job.id)  # deleted: Gone


def deliver(client: Client, job: Job, out: Path | None, options: Options) -> None:
    """Write the images; file names go to stdout, seeds to stderr."""
    if out == STDOUT:
        sys.stdout.buffer.write(client.image(job.images[0]))
        return
    try:
        files = [client.save(image, name_of(job, image, out)) for image in job.images]
    except OSError as error:
        print(
            f"printworks: {error}; the job is done, so: printworks jobs {job.id} -o FILE",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None
    if options.as_json:
        print(json.dumps(job.model_dump(mode="json") | {"files": [str(file) for file in files]}))
        return
    for file, image in zip(files, job.images, strict=True):
        print(f"seed {image.seed}, {image.width}x{image.height}", file=sys.stderr)
        print(file)


def name_of(job: Job, image: Image, out: Path | None) -> Path:
    """Return the file name of one image: `out` (numbered if there are several), or the job's ID.

    A folder gets names after the job's ID.
    """
    if out is None or out.is_dir():
        named = Path(job.id).with_suffix(SUFFIXES.get(image.content_type, ".bin"))
        out = out / named if out else named
    return out if len(job.images) == 1 else out.with_stem(f"{out.stem}-{image.index}")
