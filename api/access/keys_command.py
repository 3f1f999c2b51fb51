"""`python -m api keys create|first|list|rotate|revoke`: the first key cannot be made over HTTP.

Owns the words of these commands. They print JSON, so that a script can read it; a secret is shown
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
    """Add `keys` and its own commands to the subparsers."""
    keys = commands.add_parser("keys", help="make, list and revoke API keys")
    verbs = keys.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create", help="make a key and show it once")
    create.add_argument("--tenant", default="default", help="whose jobs it sees")
    create.add_argument("--name", default="", help="what it is for")
    create.add_argument(
        "--scope",
        action="append",
        choices=[s.value for s in Scope],
        help="what it may do, again for more; left out: jobs:read and jobs:write",
    )
    create.add_argument("--max-open-jobs", type=int, help="unfinished jobs it may have")
    create.add_argument("--per-minute", type=int, help="requests a minute")
    first = verbs.add_parser("first", help="make a key of every scope where there is none")
    first.add_argument("--file", type=Path, required=True, help="where it is kept, with mode 600")
    verbs.add_parser("list", help="show all keys, without their secrets")
    rotate = verbs.add_parser("rotate", help="make its successor; it works on for a while")
    rotate.add_argument("id")
    rotate.add_argument("--overlap-h", type=float, default=24.0, help="hours that both work")
    verbs.add_parser("revoke", help="refuse a key from now on").add_argument("id")


async def run(asked: argparse.Namespace, settings: ApiSettings) -> int:
    """Do what was asked; the exit code."""
    try:
        if asked.verb == "first":
            return await _first(asked.file, settings)
        _print(await _answer(asked, settings))
    except (KeyMissing, KeyRotated, StoreUnavailable, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _first(file: Path, settings: ApiSettings) -> int:
    """Print the first key. That there are others is no fault; that it was revoked is none, either,
    where one of them lets somebody in."""
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
    """A key without its digest."""
    return key.model_dump(mode="json", exclude={"digest"})


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2))  # noqa: T201  (this command's answer)
