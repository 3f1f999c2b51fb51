"""`printworks webhooks`: register, test, list and delete webhook endpoints.

Owns the texts of these commands. A secret is printed once, when it is made.
"""

from __future__ import annotations

from typing import Annotated

import typer

from printworks.cli.connection import Options, connect, reported
from printworks.cli.tables import table
from printworks.webhook_types import Delivery, Webhook

app = typer.Typer(
    no_args_is_help=True, help="Register, test, list and delete webhooks: signed HTTP callbacks."
)
EndpointId = Annotated[str, typer.Argument(help="The webhook's ID, as `list` shows it.")]


@app.command()
def create(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="URL that events are posted to.")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="Event, such as job.succeeded; repeatable. Default: every end."),
    ] = None,
    description: Annotated[str | None, typer.Option(help="Note for your own use.")] = None,
) -> None:
    """Register a URL; prints the secret that verifies its events, which is shown this once."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        made = client.create_webhook(url, events=event, description=description)
    print(made.model_dump_json() if options.as_json else f"{made.id} {made.secret}")


@app.command("list")
def list_(context: typer.Context) -> None:
    """List all webhooks, without their secrets."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        found = client.webhooks()
    rows = [[w.id, w.state, w.url, " ".join(w.events), w.reason or ""] for w in found]
    table(["webhook", "state", "url", "events", "reason"], rows, found, as_json=options.as_json)


@app.command()
def test(context: typer.Context, endpoint_id: EndpointId) -> None:
    """Send a test event; `deliveries` shows what became of it."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        _show(options, client.test_webhook(endpoint_id))


@app.command()
def deliveries(context: typer.Context, endpoint_id: EndpointId) -> None:
    """List a webhook's latest deliveries."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        found = client.deliveries(endpoint_id)
    rows = [[d.id, d.state, d.type, str(d.attempts), d.job_id or ""] for d in found]
    head = ["delivery", "state", "event", "attempts", "job"]
    table(head, rows, found, as_json=options.as_json)


@app.command()
def redeliver(
    context: typer.Context,
    endpoint_id: EndpointId,
    delivery_id: Annotated[str, typer.Argument(help="The delivery's ID.")],
) -> None:
    """Send an event again."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        _show(options, client.redeliver(endpoint_id, delivery_id))


@app.command()
def rotate(context: typer.Context, endpoint_id: EndpointId) -> None:
    """Make a new secret and print it; the old one still signs for a day."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        secret = client.rotate_webhook(endpoint_id)
    print(f'{{"secret": "{secret}"}}' if options.as_json else secret)


@app.command()
def enable(context: typer.Context, endpoint_id: EndpointId) -> None:
    """Enable a disabled webhook; the events held meanwhile are sent."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        _show(options, client.enable_webhook(endpoint_id))


@app.command()
def disable(context: typer.Context, endpoint_id: EndpointId) -> None:
    """Send no more events until the webhook is enabled."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        _show(options, client.disable_webhook(endpoint_id))


@app.command()
def delete(context: typer.Context, endpoint_id: EndpointId) -> None:
    """Delete a webhook."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        client.delete_webhook(endpoint_id)
    print(f'{{"id": "{endpoint_id}", "deleted": true}}' if options.as_json else "deleted")


def _show(options: Options, one: Webhook | Delivery) -> None:
    print(one.model_dump_json() if options.as_json else f"{one.id} {one.state}")
