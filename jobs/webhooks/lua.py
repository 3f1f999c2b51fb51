"""The webhooks' Lua scripts: read, joined with what they share, numbers filled in.

Owns the joining and the numbers. Invariant: a number that Lua and Python share stands once, in
Python; an @NAME@ that has none is a KeyError where its script is loaded, so at start.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jobs.store.keys import OUTBOX_TTL_S
from jobs.webhooks.keys import DELIVERED_TTL_S, PENDING_TTL_S

FOLDER = Path(__file__).parent / "scripts"
AT_ONCE = 5  # attempts under way at one endpoint: a slow one holds no more of the courier
AT_ONCE_PROBING = 1  # while its last attempt failed, or there was none: a dead one holds one
MOST_KEPT = 10_000  # deliveries that wait for one endpoint
NUMBERS = {
    "MOST_KEPT": MOST_KEPT,
    "AT_ONCE": AT_ONCE,
    "AT_ONCE_PROBING": AT_ONCE_PROBING,
    "PENDING_TTL_S": PENDING_TTL_S,
    "DELIVERED_TTL_S": DELIVERED_TTL_S,
    "OUTBOX_TTL_S": OUTBOX_TTL_S,
}


@cache
def script(name: str, *shared: str) -> str:
    """The text of `name`.lua, after shelf.lua and the `shared` ones that it needs."""
    parts = [(FOLDER / f"{part}.lua").read_text("utf-8") for part in ("shelf", *shared, name)]
    return re.sub(r"@(\w+)@", lambda match: str(NUMBERS[match[1]]), "\n".join(parts))
