"""`printworks jobs`, `watch`, `cancel`, `rerun`, `delete`, `group`: jobs that were sent.

Owns the texts of these commands. Must not know how a job is described.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from printworks.cli.connection import Options, connect, reported
from printworks.cli.delivery import deliver, follow
from printworks.cli.request import check_writable
from printworks.cli.tables import table
from printworks.protocol import success_of
from printworks.types import Job

JobId = Annotated[str, typer.Argument(help="ID of the job.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="File or folder for the images.")]


def jobs(
    context: typer.Context,
    job_id: Annotated[
        str | None, typer.Argument(help="ID of one job, to show in full. Default: a list.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="With an ID: wait, and save the images.")
    ] = None,
    status: Annotated[str | None, typer.Option(help="List only jobs of this status.")] = None,
    model: Annotated[str | None, typer.Option(help="List only jobs of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Number of jobs to list.")] = 20,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="With an ID: wait until the job has ended.")
    ] = False,
) -> None:
    """List your latest jobs, or show one job."""
    options: Options = context.obj
    check_writable(out)
    with reported(options), connect(options) as client:
        if job_id is None:
            page = client.list(status=status, model=model, limit=limit)
            _list(page.jobs, as_json=options.as_json)
            return
        job = client.get(job_id)
        if wait or out:
            job = success_of(follow(client, job, None, ours=False))
        if out:
            deliver(client, job, out, options)
        else:
            print(job.model_dump_json(indent=None if options.as_json else 2))


def watch(context: typer.Context, job_id: JobId, out: Out = None) -> None:
    """Follow a job until its end; with -o save its images. Ctrl-C leaves it alone."""
    options: Options = context.obj
    check_writable(out)
    with reported(options), connect(options) as client:
        job = success_of(follow(client, client.get(job_id), None, ours=False))
        if out:
            deliver(client, job, out, options)
        else:
            print(job.model_dump_json() if options.as_json else f"{job.id} {job.status}")


def cancel(context: typer.Context, job_id: JobId) -> None:
    """Cancel a job at once; a job that has ended stays as it is."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        job = client.cancel(job_id)
        print(job.model_dump_json() if options.as_json else f"{job.id} {job.status}")


def rerun(context: typer.Context, job_id: JobId, out: Out = None) -> None:
    """Make a job's images again, with the same seeds; prints the names of the files."""
    options: Options = context.obj
    check_writable(out)
    with reported(options), connect(options) as client:
        job = success_of(follow(client, client.rerun(job_id), None))
        deliver(client, job, out, options)


def delete(context: typer.Context, job_id: JobId) -> None:
    """Cancel a job, and erase its prompt and images."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        client.delete(job_id)
    print(f'{{"id": "{job_id}", "deleted": true}}' if options.as_json else f"{job_id} deleted")


def group(
    context: typer.Context,
    group_id: Annotated[str, typer.Argument(help="ID of the group.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for all images made so far.")
    ] = None,
    *,
    stop: Annotated[bool, typer.Option("--cancel", help="Cancel what has not ended.")] = False,
) -> None:
    """Show a group of jobs; cancel it, or save its images."""
    options: Options = context.obj
    if out is not None and not out.is_dir():
        raise typer.BadParameter(f"{out}: name a folder that exists")
    with reported(options), connect(options) as client:
        found = client.cancel_group(group_id) if stop else client.group(group_id)
        if out is None:
            _list(found.jobs, as_json=options.as_json)
            return
        for job in found.jobs:
            if job.status == "succeeded":
                deliver(client, job, out, options)


def _list(found: list[Job], *, as_json: bool) -> None:
    rows = [[j.id, j.status, _when(j), j.resolved.model, j.resolved.prompt] for j in found]
    table(["job", "status", "made", "model", "prompt"], rows, found, as_json=as_json)


def _when(job: Job) -> str:
    return job.created_at.astimezone().strftime("%d %b %H:%M") if job.created_at else ""
