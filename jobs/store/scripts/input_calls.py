"""Calls about input images: find, keep, drop; and the janitor's, which erase inputs without holds.

Owns the calls' keys and arguments and the reading of their answers. Knows no connection. Invariant:
a blob's name is used once, so that erasing an old blob never removes a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.contract import input_images
from jobs.contract.input_images import Input
from jobs.store import keys
from jobs.store.scripts import Call, load, text


def find(tenant: str, an_id: str, *, new_blob: str = "", hold_s: float = 0) -> Call[Input | None]:
    """Find the input `an_id`. `hold_s`: seconds to hold the input from now.

    `new_blob`: if there is no such input, the name of the blob that is about to be stored.
    """
    where = (*keys.an_input(tenant, an_id), keys.INPUTS)
    args = (f"{tenant}/{an_id}", new_blob, hold_s, input_images.GUARD_S, input_images.KEEP_S)
    return Call(load("input_find"), where, args, lambda r: _input(an_id, r) if r else None)


def keep(
    tenant: str, an_id: str, blob: str, *, changes: Sequence[str], hold_s: float
) -> Call[Input]:
    """Register an input whose bytes are stored, for `hold_s` seconds at least."""
    where = (*keys.an_input(tenant, an_id), keys.INPUTS)
    args = (f"{tenant}/{an_id}", blob, hold_s, " ".join(changes), input_images.KEEP_S)
    return Call(load("input_keep"), where, args, lambda r: _input(an_id, r))


def drop(tenant: str, an_id: str) -> Call[str | None]:
    """Delete an input despite any holds; the blob's key, or None: no such input."""
    where = (*keys.an_input(tenant, an_id), keys.INPUTS)

    def parse(reply: Any) -> str | None:
        return input_images.input_blob_key(f"{tenant}/{an_id}/{text(reply)}") if reply else None

    return Call(load("input_drop"), where, (f"{tenant}/{an_id}",), parse)


def due(*, most: int, hide_s: float) -> Call[list[str]]:
    """Take inputs without holds: members, for `input_blob_key` and `erased`."""
    return Call(
        load("due_input_deletions"), (keys.INPUTS,), (most, hide_s), lambda r: [text(m) for m in r]
    )


def erased(members: Sequence[str]) -> Call[int]:
    """Confirm that the blobs of these inputs are erased."""
    where = (keys.INPUTS, keys.unerased("inputs")[0])
    return Call(load("confirm_input_deletions"), where, tuple(members), int)


def _input(an_id: str, reply: Sequence[Any]) -> Input:
    return Input(
        id=an_id,
        blob=text(reply[0]),
        changes=tuple(text(reply[1]).split()),
        kept_until=float(text(reply[2])),
    )
