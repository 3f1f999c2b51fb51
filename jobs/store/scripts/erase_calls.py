"""The calls about what is to be erased from the picture store: taken, done, refused, counted.

Owns the two kinds of what is erased (pictures that jobs made, inputs) and their keys. Knows no
connection. Invariant: what is due and not erased is counted, whatever the reason, until it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.store import keys
from jobs.store.scripts import Call, load, text

Kind = Literal["pictures", "inputs"]
KINDS: tuple[Kind, ...] = ("pictures", "inputs")
HIDE_S = 60.0  # what a janitor has in hand, or a store refused: tried again after this
_DUE: dict[Kind, str] = {"pictures": keys.ERASE, "inputs": keys.INPUTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """What is due and not erased: jobs with pictures, or inputs. `reason`: why, where refused."""

    kind: Kind
    count: int
    reason: str | None


def left(kind: Kind, members: Sequence[str], reason: str) -> Call[int]:
    """Note what the store would not erase; how many that are by now."""
    args = (int(3 * HIDE_S), reason, *members)
    return Call(load("erase_left"), keys.unerased(kind), args, int)


def late(kind: Kind) -> Call[Late]:
    """Count what is due and not erased."""
    return Call(
        load("erase_late"),
        (_DUE[kind], *keys.unerased(kind)),
        (HIDE_S,),
        lambda r: Late(kind=kind, count=int(r[0]), reason=text(r[1]) or None),
    )
