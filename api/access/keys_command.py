"""`python -m api keys create|first|list|rotate|revoke`: manage API keys on the server.

Owns these commands: the first key cannot be created over HTTP. Output is JSON; a secret is shown
once, by `create` and `rotate`, and never again. `first` prints the key alone, each time.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from api.access.first_key import NoFirstKey, first_key
from api.settings import ApiSettings
from jobs.errors import KeyMissing, KeyRotated, StoreUnavailable
from jobs.store.api_keys import ApiKey, Scope, make_key, open_keystore


def add_to(commands: Any) -> None:
    """Add `keys` and its subcommands to the parser."""
    keys = commands.add_parser("keys", help="create, list, rotate and revoke API keys")
    verbs = keys.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create", help="create a key and show its secret once")
    create.add_argument("--tenant", default="default", help="tenant whose jobs the key can access")
    create.add_argument("--name", default="", help="note on the key's use")
    create.add_argument(
        "--scope",
        action="append",
        choices=[s.value for s in Scope],
        help="scope of the key; repeat for more; default: jobs:read and jobs:write",
    )
    create.add_argument("--max-open-jobs", type=int, help="limit of unfinished jobs")
    create.add_argument("--per-minute", type=int, help="limit of requests per minute")
    first = verbs.add_parser("first", help="create a key with every scope, if no key exists")
    first.add_argument("--file", type=Path, required=True, help="file for the key, with mode 600")
    verbs.add_parser("list", help="show all keys, without their secrets")
    rotate = verbs.add_parser("rotate", help="create a key's successor; both work for a while")
    rotate.add_argument("id")
    rotate.add_argument("--overlap-h", type=float, default=24.0, help="hours that both keys work")
    verbs.add_parser("revoke", help="refuse a key from now on").add_argument("id")


async def run(asked: argparse.Namespace, settings: ApiSettings) -> int:
    """Run the subcommand and return the exit code."""
    try:
        if asked.verb == "first":
            return await _first(asked.file, settings)
        _print(await _answer(asked, settings))
    except (KeyMissing, KeyRotated, StoreUnavailable, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _first(file: Path, settings: ApiSettings) -> int:
    """Print the first key. Existing keys are no error; a revoked first key is none either
    while another key is valid."""
    async with open_keystore(settings.redis_url) as store:
        try:
            print(f"first key (of every scope; kept in {file}): {await first_key(store, file)}")  # noqa: T201
        except NoFirstKey as none:
            others = await store.any()
            print(f"{'note' if others else 'error'}: {none}", file=sys.stderr)  # noqa: T201
            return 0 if others else 1
    return 0


async def _answer(asked: argparse.Namespace, settings: ApiSettings) -> Any:
    async with open_keystore(settings.redis_url) as store:
        if asked.verb == "create":
            scopes = [Scope(s) for s in asked.scope or [Scope.JOBS_READ, Scope.JOBS_WRITE]]
            new = make_key(
                tenant=asked.tenant,
                name=asked.name,
                scopes=scopes,
                max_open_jobs=asked.max_open_jobs,
                per_minute=asked.per_minute,
            )
            await store.add(new.key)
            return {"secret": new.secret, **shown(new.key)}
        if asked.verb == "rotate":
            overlap = timedelta(hours=asked.overlap_h)
            new = await store.rotate(asked.id, overlap=overlap)
            return {"secret": new.secret, **shown(new.key)}
        if asked.verb == "revoke":
            return shown(await store.revoke(asked.id))
        return [shown(key) for key in await store.list()]


def shown(key: ApiKey) -> dict[str, Any]:
    """Return the key's fields without its digest."""
    return key.model_dump(mode="json", exclude={"digest"})


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2))  # noqa: T201  (this command's output)
