"""The Lua scripts, loaded once, and the typed calls that fill their keys and arguments.

Owns how a `.lua` file becomes a script (its `uses:` line, its @CONSTANTS@) and what a `Call` is.
Knows no connection: the stores run a Call, async or sync. Invariant: every change of a job's
state is one script, so that there is no moment between two halves of it.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rq.defaults import RQ_KEY_PREFIX

from jobs.contract import input_images, record
from jobs.store import counters, keys

T = TypeVar("T")
_HERE = Path(__file__).parent
_USES = re.compile(r"^-- uses: ([a-z, ]+)$", re.MULTILINE)
_CONSTANTS = {
    "RQ": RQ_KEY_PREFIX,
    "WORKER_TTL_S": str(keys.WORKER_TTL_S),
    "UNEXPLAINED": record.UNEXPLAINED.model_dump_json(),
    "OPEN_TTL_S": str(keys.OPEN_TTL_S),
    "GONE_TTL_S": str(keys.GONE_TTL_S),
    "LISTING_TTL_S": str(keys.LISTING_TTL_S),
    "GROUP_TTL_S": str(keys.GROUP_TTL_S),
    "OUTBOX_TTL_S": str(keys.OUTBOX_TTL_S),
    "READ_FIELDS": ", ".join(f"'{field}'" for field in keys.READ_FIELDS),
    "INPUT_KEEP_S": str(input_images.KEEP_S),
    "PREVIEW_TTL_S": str(keys.PREVIEW_TTL_S),
    "USAGE_TTL_S": str(counters.USAGE_TTL_S),
    "REASONS": ", ".join(f"{code} = true" for code in counters.FAILURES),
    "BUCKETS_S": ", ".join(f"{bound:g}" for bound in counters.JOB_BUCKETS_S),
}


@dataclass(frozen=True, slots=True)
class Script:
    """One command: its source as Redis gets it, and the SHA-1 by which it is called."""

    name: str
    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A script with its keys and arguments, and how to read the answer."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | bytes | int | float, ...]
    parse: Callable[[Any], T]
    lasting: bool = False  # a client or a webhook is told of it: it must outlive a failover


@functools.cache
def load(name: str) -> Script:
    """The script in `name`.lua, with what it uses put before it."""
    text = "\n".join(_with_used(name, set()))
    for constant, value in _CONSTANTS.items():
        text = text.replace(f"@{constant}@", value)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _with_used(name: str, there: set[str]) -> list[str]:
    """The files of a script in their order, each once: what it uses, and that, then itself."""
    there.add(name)
    own = (_HERE / f"{name}.lua").read_text(encoding="utf-8")
    used = _USES.search(own)
    parts = [p.strip() for p in used[1].split(",")] if used else []
    return [t for p in parts if p not in there for t in _with_used(p, there)] + [own]


def text(value: Any) -> str:
    """A reply as text, whether or not the connection decodes."""
    return value.decode() if isinstance(value, bytes) else str(value)
