"""`printworks keys`: create, list, rotate and revoke API keys, with a key of the scope `admin`.

Owns the texts of these commands. The very first key is created beside the service, by
`python -m api keys create --scope admin`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from printworks.cli.connection import Options, connect, reported
from printworks.cli.tables import table
from printworks.types import Key, NewKey

app = typer.Typer(
    no_args_is_help=True, help="Create, list, rotate and revoke API keys; needs an admin key."
)
KeyId = Annotated[str, typer.Argument(help="The key's ID, as `list` shows it.")]


@app.command()
def create(
    context: typer.Context,
    tenant: Annotated[
        str | None, typer.Option(help="Tenant whose jobs the key sees (`default`).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Label: what the key is for.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="Permission; repeat for several (jobs:read and jobs:write)."),
    ] = None,
    max_open_jobs: Annotated[
        int | None, typer.Option(min=0, help="Most unfinished jobs of the key at a time.")
    ] = None,
    per_minute: Annotated[int | None, typer.Option(min=1, help="Most requests a minute.")] = None,
) -> None:
    """Create a key; prints its secret, which is shown this once."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        made = client.create_key(
            tenant=tenant,
            name=name,
            scopes=scope,
            max_open_jobs=max_open_jobs,
            per_minute=per_minute,
        )
    _show_secret(options, made)


@app.command("list")
def list_(context: typer.Context) -> None:
    """List all keys, without their secrets."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        found = client.keys()
    rows = [[k.id, k.tenant, k.name, " ".join(k.scopes), _state(k)] for k in found]
    table(["key", "tenant", "name", "scopes", "state"], rows, found, as_json=options.as_json)


@app.command()
def rotate(context: typer.Context, key_id: KeyId) -> None:
    """Create a key's successor and print its secret; the old key works for one more day."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        made = client.rotate_key(key_id)
    _show_secret(options, made)


@app.command()
def revoke(context: typer.Context, key_id: KeyId) -> None:
    """Refuse a key from now on."""
    options: Options = context.obj
    with reported(options), connect(options) as client:
        key = client.revoke_key(key_id)
    print(key.model_dump_json() if options.as_json else f"{key.id} {_state(key)}")


def _show_secret(options: Options, made: NewKey) -> None:
    print(made.model_dump_json() if options.as_json else made.secret)


def _state(key: Key) -> str:
    if key.revoked_at:
        return "revoked"
    return f"ends {key.ends_at:%Y-%m-%d %H:%M}" if key.ends_at else "good"
