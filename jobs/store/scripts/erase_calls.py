"""Calls about overdue deletions in object storage: recorded and counted.

Owns the two kinds of deletions (images of jobs, input images) and their keys. Knows no connection.
Invariant: a deletion that is due and not done is counted, whatever the reason, until done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.store import keys
from jobs.store.scripts import Call, load, text

Kind = Literal["pictures", "inputs"]
KINDS: tuple[Kind, ...] = ("pictures", "inputs")
HIDE_S = 60.0  # seconds until a deletion that a janitor took, or a store refused, is tried again
_DUE: dict[Kind, str] = {"pictures": keys.ERASE, "inputs": keys.INPUTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """Overdue deletions: jobs with images, or inputs. `reason`: the store's, if refused."""

    kind: Kind
    count: int
    reason: str | None


def left(kind: Kind, members: Sequence[str], reason: str) -> Call[int]:
    """Record deletions that the store refused; the number of all such by now."""
    args = (int(3 * HIDE_S), reason, *members)
    return Call(load("erase_left"), keys.unerased(kind), args, int)


def late(kind: Kind) -> Call[Late]:
    """Count overdue deletions."""
    return Call(
        load("erase_late"),
        (_DUE[kind], *keys.unerased(kind)),
        (HIDE_S,),
        lambda r: Late(kind=kind, count=int(r[0]), reason=text(r[1]) or None),
    )
