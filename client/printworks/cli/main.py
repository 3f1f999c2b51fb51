"""The command line as a whole: its commands, and the options they share.

Owns the tables of jobs, models, samplers and usage. Everything else has a file of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from printworks.cli import keys
from printworks.cli.connection import Options, connect, reported
from printworks.cli.generate import deliver, follow, generate
from printworks.cli.tables import table
from printworks.protocol import success_of
from printworks.types import Job

EPILOG = (
    "Exit codes: 0 done, 1 the job failed, 2 the request is wrong, 3 no answer, 4 timeout, "
    "5 not allowed, 6 no such job, 7 no jobs taken now, 8 the service's fault, 130 interrupted."
)
app = typer.Typer(
    no_args_is_help=True,
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(generate)
app.add_typer(keys.app, name="keys")


@app.callback()
def shared(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(envvar="PRINTWORKS_URL", help="The service; else a running `up`.")
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="PRINTWORKS_KEY", help="Your API key.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Answers and errors as JSON.")] = False,
) -> None:
    """Text to pictures, from the command line."""
    context.obj = Options(url=url, key=key, as_json=as_json)


@app.command()
def jobs(
    context: typer.Context,
    job_id: Annotated[str | None, typer.Argument(help="One job, in full.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Save its pictures when it is done.")
    ] = None,
    status: Annotated[str | None, typer.Option(help="Only jobs of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="With an ID: until it has ended.")] = False,
) -> None:
    """Your latest jobs, or one of them."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        if job_id is None:
            page = client.list(status=status, limit=limit)
            rows = [
                [j.id, j.status, _when(j), j.resolved.model, j.resolved.prompt] for j in page.jobs
            ]
            table(
                ["job", "status", "made", "model", "prompt"],
                rows,
                page.jobs,
                as_json=options.as_json,
            )
            return
        job = client.get(job_id)
        if wait or out:
            job = success_of(follow(client, job, None))
        if out:
            deliver(client, job, out, options)
        else:
            print(job.model_dump_json(indent=None if options.as_json else 2))


@app.command()
def cancel(context: typer.Context, job_id: Annotated[str, typer.Argument()]) -> None:
    """End a job at once; one that has ended stays as it is."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        job = client.cancel(job_id)
        print(job.model_dump_json() if options.as_json else f"{job.id} {job.status}")


@app.command()
def models(context: typer.Context) -> None:
    """What can be asked for; the first is the default."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        found = client.models()
        rows = [
            [
                m.id,
                m.title,
                f"{m.defaults.width}x{m.defaults.height}, at most {m.limits.max_side}",
                f"{m.defaults.steps}, at most {m.limits.max_steps}",
                str(m.workers),
            ]
            for m in found
        ]
        table(
            ["model", "title", "size (px)", "steps", "workers"],
            rows,
            found,
            as_json=options.as_json,
        )


@app.command()
def samplers(context: typer.Context) -> None:
    """The ways from noise to picture, and what each is good for."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        found = client.samplers()
        rows = [[s.id, s.good_for, str(s.calls_per_step)] for s in found]
        table(["sampler", "good for", "calls a step"], rows, found, as_json=options.as_json)


@app.command()
def usage(
    context: typer.Context,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day; else 30 days back.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day; else today.")
    ] = None,
    *,
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="Everybody's; with an admin key.")
    ] = False,
) -> None:
    """What your keys had made, by day (UTC) and key."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        found = client.usage(
            since=since and since.date(), until=until and until.date(), all_tenants=all_tenants
        )
    if options.as_json:
        print(found.model_dump_json())
        return
    rows = [
        [str(e.day), e.tenant, e.key, *_used(e.jobs, e.images, e.megapixel_steps)]
        for e in found.entries
    ]
    total = found.total
    rows.append(["total", "", "", *_used(total.jobs, total.images, total.megapixel_steps)])
    head = ["day", "tenant", "key", "succeeded", "other ends", "images", "megapixel-steps"]
    table(head, rows, [], as_json=False)


def _used(jobs: dict[str, int], images: int, work: float) -> list[str]:
    done = jobs.get("succeeded", 0)
    return [str(done), str(sum(jobs.values()) - done), str(images), f"{work:.3f}"]


def main() -> None:
    """Run it. Errors of ours end in an exit code, usage errors in 2."""
    app(args=shared_first(sys.argv[1:]), prog_name="printworks")


def shared_first(arguments: Sequence[str]) -> list[str]:
    """The shared options moved before the command: people write them where they think of them."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--json" or word.startswith(("--url=", "--key=")):
            front.append(word)
        elif word in ("--url", "--key"):
            front += [word, *islice(words, 1)]
        else:
            rest.append(word)
    return front + rest


def _when(job: Job) -> str:
    return job.created_at.astimezone().strftime("%d %b %H:%M") if job.created_at else ""
