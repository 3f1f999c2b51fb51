"""The command line as a whole: commands, and the options that all commands share.

Owns the tables of models, samplers, the queue and usage. Other commands have files of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import Annotated

import typer

from printworks import __version__
from printworks.cli import batch, generate, grid, jobs, keys, webhooks
from printworks.cli.connection import Options, connect, reported
from printworks.cli.tables import table

EPILOG = (
    "Exit codes: 0 done, 1 the job failed, 2 the request is wrong, 3 no answer, 4 timeout, "
    "5 not allowed, 6 no such job, 7 no jobs accepted now, 8 a fault of the service, "
    "130 interrupted."
)
app = typer.Typer(
    no_args_is_help=True,
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    generate.generate,
    batch.batch,
    grid.grid,
    jobs.jobs,
    jobs.watch,
    jobs.cancel,
    jobs.rerun,
    jobs.delete,
    jobs.group,
):
    app.command()(command)
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(keys.app, name="keys")


def show_version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    """Print the client's version and end the program."""
    if wanted:
        print(f"printworks {__version__}")
        raise typer.Exit


@app.callback()
def shared(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="PRINTWORKS_URL", help="Address of the service; default: a running `up`."
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="PRINTWORKS_KEY", help="Your API key.")] = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results and errors as JSON.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Print the version, and exit."
        ),
    ] = False,
) -> None:
    """Generate images from text on the command line."""
    del version
    context.obj = Options(url=url, key=key, as_json=as_json)


@app.command()
def models(context: typer.Context) -> None:
    """List the models; the first is the default."""
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
    """List the samplers, and what each sampler is good for."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        found = client.samplers()
        rows = [[s.id, s.good_for, str(s.calls_per_step)] for s in found]
        table(["sampler", "good for", "calls a step"], rows, found, as_json=options.as_json)


@app.command()
def queue(context: typer.Context) -> None:
    """Show the queue, by model: jobs waiting and running, expected wait, workers."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        found = client.queue()
    rows = [
        [m.model, str(m.queued), str(m.running), _seconds(m.eta_seconds), str(m.workers)]
        for m in found.models
    ]
    if found.paused and not options.as_json:
        print("the queue is paused", file=sys.stderr)
    head = ["model", "queued", "running", "wait", "workers"]
    table(head, rows, found.models, as_json=options.as_json)


@app.command()
def usage(
    context: typer.Context,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="First day; default: 30 days back."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day; default: today.")
    ] = None,
    *,
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="Usage of all tenants; needs an admin key.")
    ] = False,
) -> None:
    """Show the usage of your API keys, by day (UTC) and key."""
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


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f} s"


def _used(jobs: dict[str, int], images: int, work: float) -> list[str]:
    done = jobs.get("succeeded", 0)
    return [str(done), str(sum(jobs.values()) - done), str(images), f"{work:.3f}"]


def main() -> None:
    """Run the command line. A PrintworksError ends in its exit code, a usage error in 2."""
    app(args=shared_first(sys.argv[1:]), prog_name="printworks")


def shared_first(arguments: Sequence[str]) -> list[str]:
    """Return `arguments` with the shared options first: people write them after the command too."""
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
