"""The calls about inputs: find, keep, drop; and of the janitor, who erases what nobody holds.

Owns their keys and arguments and the reading of their answers. Knows no connection. Invariant: a
name of bytes is used once, so that erasing an old one never meets a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.contract import input_images
from jobs.contract.input_images import Input
from jobs.store import keys
from jobs.store.scripts import Call, load, text


def find(tenant: str, an_id: str, *, new_blob: str = "", hold_s: float = 0) -> Call[Input | None]:
    """The input of that ID. `hold_s`: keep it for so long from now; `new_blob`: where it is not
    there, bytes are about to be stored under this name."""
    where = (*keys.an_input(tenant, an_id), keys.INPUTS)
    args = (f"{tenant}/{an_id}", new_blob, hold_s, input_images.GUARD_S, input_images.KEEP_S)
    return Call(load("input_find"), where, args, lambda r: _input(an_id, r) if r else None)


def keep(
    tenant: str, an_id: str, blob: str, *, changes: Sequence[str], hold_s: float
) -> Call[Input]:
    """Its bytes are stored: from now on it is an input, for `hold_s` seconds at least."""
    where = (*keys.an_input(tenant, an_id), keys.INPUTS)
    args = (f"{tenant}/{an_id}", blob, hold_s, " ".join(changes), input_images.KEEP_S)
    return Call(load("input_keep"), where, args, lambda r: _input(an_id, r))


def drop(tenant: str, an_id: str) -> Call[str | None]:
    """Forget an input, whoever holds it; the key of its bytes, or None: there is none."""
    where = (*keys.an_input(tenant, an_id), keys.INPUTS)

    def parse(reply: Any) -> str | None:
        return input_images.input_blob_key(f"{tenant}/{an_id}/{text(reply)}") if reply else None

    return Call(load("input_drop"), where, (f"{tenant}/{an_id}",), parse)


def due(*, most: int, hide_s: float) -> Call[list[str]]:
    """What nobody holds any more: members, for `inputs.blob_of` and `erased`."""
    return Call(
        load("due_input_deletions"), (keys.INPUTS,), (most, hide_s), lambda r: [text(m) for m in r]
    )


def erased(members: Sequence[str]) -> Call[int]:
    """These bytes are gone."""
    where = (keys.INPUTS, keys.unerased("inputs")[0])
    return Call(load("confirm_input_deletions"), where, tuple(members), int)


def _input(an_id: str, reply: Sequence[Any]) -> Input:
    return Input(
        id=an_id,
        blob=text(reply[0]),
        changes=tuple(text(reply[1]).split()),
        kept_until=float(text(reply[2])),
    )
