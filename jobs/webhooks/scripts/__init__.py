"""The Lua scripts of webhooks: endpoints, deliveries and their attempts.

Owns the constants of these scripts, which share the queue's prelude (jobs/store/scripts/common.lua)
and its loader.
"""

from __future__ import annotations

from pathlib import Path

from jobs.store import scripts as store_scripts
from jobs.store.script_folder import ScriptFolder
from jobs.webhooks.keys import DELIVERED_TTL_S, PENDING_TTL_S

AT_ONCE = 5  # attempts under way at one endpoint: a slow one holds no more of the courier
AT_ONCE_PROBING = 1  # while its last attempt failed, or there was none: a dead one holds one
MOST_KEPT = 10_000  # deliveries that wait for one endpoint
_CONSTANTS: dict[str, object] = {
    "MOST_KEPT": MOST_KEPT,
    "AT_ONCE": AT_ONCE,
    "AT_ONCE_PROBING": AT_ONCE_PROBING,
    "PENDING_TTL_S": PENDING_TTL_S,
    "DELIVERED_TTL_S": DELIVERED_TTL_S,
}
SCRIPTS = ScriptFolder(Path(__file__).parent, _CONSTANTS, base=store_scripts.SCRIPTS)
load = SCRIPTS.load
