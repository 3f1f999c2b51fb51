"""The Lua scripts of the queue, and the typed calls that fill their keys and arguments.

Owns the constants of these scripts and what a `Call` is (jobs/store/script_folder.py loads them).
Knows no connection: the stores run a Call, async or sync. Invariant: every change of a job's state
is one script, so that there is no moment between two halves of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rq.defaults import RQ_KEY_PREFIX

from jobs.contract import input_images, record
from jobs.store import counters, keys
from jobs.store.script_folder import Script, ScriptFolder

T = TypeVar("T")
_CONSTANTS: dict[str, object] = {
    "RQ": RQ_KEY_PREFIX,
    "WORKER_TTL_S": keys.WORKER_TTL_S,
    "UNEXPLAINED": record.UNEXPLAINED.model_dump_json(),
    "OPEN_TTL_S": keys.OPEN_TTL_S,
    "GONE_TTL_S": keys.GONE_TTL_S,
    "LISTING_TTL_S": keys.LISTING_TTL_S,
    "GROUP_TTL_S": keys.GROUP_TTL_S,
    "OUTBOX_TTL_S": keys.OUTBOX_TTL_S,
    "READ_FIELDS": ", ".join(f"'{field}'" for field in keys.READ_FIELDS),
    "INPUT_KEEP_S": input_images.KEEP_S,
    "PREVIEW_TTL_S": keys.PREVIEW_TTL_S,
    "USAGE_TTL_S": counters.USAGE_TTL_S,
    "REASONS": ", ".join(f"{code} = true" for code in counters.FAILURES),
    "BUCKETS_S": ", ".join(f"{bound:g}" for bound in counters.JOB_BUCKETS_S),
}
SCRIPTS = ScriptFolder(Path(__file__).parent, _CONSTANTS)
load = SCRIPTS.load


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A script with its keys and arguments, and how to read the answer."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | bytes | int | float, ...]
    parse: Callable[[Any], T]
    lasting: bool = False  # a client or a webhook is told of it: it must outlive a failover


def text(value: Any) -> str:
    """Return a reply as text, of a connection that decodes or not."""
    return value.decode() if isinstance(value, bytes) else str(value)
