"""Which model calls may meet, and how their rows become one call and come apart again.

Owns signatures and lanes. Knows no image and no sampler: it sees arguments only.
Letters: B rows of one call; R rows of all calls that meet; W rows of one lane.
Invariant: a row goes through the model with nothing but its own numbers beside the shared ones,
in a lane of a width that the model's lane rule allows, at any position, next to any neighbour.

The signature holds shapes, dtypes and shared content; never steps, step index, sampler,
guidance, seed or prompt: that is what lets unlike jobs share a call.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from worker.engine.gates import Gate, ModelCall
from worker.engine.profiles.base import Profile

Memo = dict[int, tuple[torch.Tensor, bytes]]
LEAF: TreeSpec = tree_flatten(None)[1]


class Part(Enum):
    """What one leaf of the arguments is to a batch."""

    ROWS = "rows"  # (B, ...) stacked
    TIME = "time"  # a scalar or (B,), stacked as (R,)
    ITEMS = "items"  # a list of B things, joined
    SHARED = "shared"  # equal in all calls that meet, taken from the first


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How a call's arguments come apart into leaves, and together again."""

    names: tuple[str, ...]
    specs: list[TreeSpec]  # one an argument; LEAF: it is not nested
    parts: list[Part]  # one a leaf
    lists_are_rows: bool

    def arguments(self, leaves: Sequence[Any]) -> dict[str, Any]:
        """By name, as the module wants them."""
        rest = iter(leaves)
        return {
            name: next(rest)
            if spec is LEAF
            else tree_unflatten(list(itertools.islice(rest, spec.num_leaves)), spec)
            for name, spec in zip(self.names, self.specs, strict=True)
        }


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One model call, taken apart; calls with equal `signature` may meet."""

    gate: Gate
    rows: int
    signature: Hashable
    leaves: list[Any]
    form: Form
    original: dict[str, Any]


def take_apart(call: ModelCall, profile: Profile, memo: Memo, last: Packed | None = None) -> Packed:
    """Read a call's arguments leaf by leaf. The first argument says how many rows there are.

    `last`: the same image's call before this one. It mostly differs in its numbers only, and its
    signature holds again: that is a third of the engine's own time at a step.
    """
    first = next(iter(call.arguments.values()))
    lists_are_rows = isinstance(first, list)
    rows = len(first) if lists_are_rows else first.shape[0]
    leaves, specs = _flatten(call.arguments, rows, lists_are_rows=lists_are_rows)
    if last is not None and _made_alike(call, rows, leaves, specs, last):
        return Packed(call.gate, rows, last.signature, leaves, last.form, call.arguments)
    owners = [
        name
        for name, spec in zip(call.arguments, specs, strict=True)
        for _ in range(spec.num_leaves)
    ]
    parts = [_part_of(*owned, rows, profile) for owned in zip(owners, leaves, strict=True)]
    keys = [_key_of(leaf, part, memo) for leaf, part in zip(leaves, parts, strict=True)]
    form = Form(tuple(call.arguments), specs, parts, lists_are_rows)
    signature = id(call.gate), form.names, tuple(map(_nesting, specs)), tuple(keys)
    return Packed(call.gate, rows, signature, leaves, form, call.arguments)


def _flatten(
    arguments: dict[str, Any], rows: int, *, lists_are_rows: bool
) -> tuple[list[Any], list[TreeSpec]]:
    leaves: list[Any] = []
    specs: list[TreeSpec] = []
    for value in arguments.values():
        if isinstance(value, dict | list | tuple):
            found, spec = tree_flatten(value, is_leaf=_row_list(rows, tensors=lists_are_rows))
            leaves += found
            specs.append(spec)
        else:
            leaves.append(value)
            specs.append(LEAF)
    return leaves, specs


def _nesting(spec: TreeSpec) -> str:
    return "" if spec is LEAF else str(spec)


def _made_alike(
    call: ModelCall, rows: int, leaves: list[Any], specs: list[TreeSpec], last: Packed
) -> bool:
    """Whether all that a signature holds is as it was."""
    return (
        call.gate is last.gate
        and rows == last.rows
        and tuple(call.arguments) == last.form.names
        and specs == last.form.specs
        and all(map(_alike, leaves, last.leaves, last.form.parts))
    )


def _alike(leaf: Any, before: Any, part: Part) -> bool:
    if leaf is before:
        return True
    if part is Part.TIME:
        return type(leaf) is type(before)
    if part is Part.ROWS:
        return leaf.__class__ is before.__class__ and (
            leaf.shape == before.shape and leaf.dtype is before.dtype
        )
    return False


def _row_list(rows: int, *, tensors: bool) -> Callable[[Any], bool]:
    """Tells lists with one item a row (Z-Image's pictures, Qwen-Image's shapes) from nesting.

    `tensors`: the model takes rows as lists; elsewhere a list of tensors is a nesting of
    (B, ...) tensors, such as a ControlNet's residuals.
    """

    def is_row_list(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != rows:
            return False
        return tensors or not isinstance(value[0], torch.Tensor)

    return is_row_list


def _part_of(name: str, leaf: Any, rows: int, profile: Profile) -> Part:
    if name in profile.times and isinstance(leaf, torch.Tensor | int | float):
        return Part.TIME
    if isinstance(leaf, list):
        alike = isinstance(leaf[0], torch.Tensor) or all(item == leaf[0] for item in leaf)
        return Part.ITEMS if alike else Part.SHARED
    if isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == rows:
        # (H*W, 3) position tables may be B long by chance; (B, H*W, 3) ones are rows.
        return Part.SHARED if name in profile.shared and leaf.dim() < 3 else Part.ROWS
    return Part.SHARED


def _key_of(leaf: Any, part: Part, memo: Memo) -> Hashable:
    match part:
        case Part.TIME:
            return part
        case Part.ROWS:
            return part, leaf.shape[1:], leaf.dtype
        case Part.ITEMS if isinstance(leaf[0], torch.Tensor):
            return part, leaf[0].dtype
        case Part.ITEMS:
            return part, repr(leaf[0])
        case Part.SHARED if isinstance(leaf, torch.Tensor):
            return part, leaf.shape, leaf.dtype, content_of(leaf, memo)
        case Part.SHARED:
            return part, repr(leaf)


def content_of(tensor: torch.Tensor, memo: Memo) -> bytes:
    """A hash of the values, remembered while the same tensor object is passed again."""
    known = memo.get(id(tensor))
    if known is None or known[0] is not tensor:
        flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu()
        known = memo[id(tensor)] = (tensor, hashlib.sha256(flat.numpy().tobytes()).digest())
    return known[1]


def run_together(calls: Sequence[Packed], widths: Sequence[int]) -> list[Any]:
    """Run calls of one signature in lanes of these widths; each gets its own result back."""
    head = calls[0]
    if len(calls) == 1 and list(widths) == [head.rows]:
        return [head.gate.run(**head.original)]
    columns = [_column(calls, i) for i in range(len(head.leaves))]
    total = sum(call.rows for call in calls)
    assert sum(widths) >= total, f"lanes {widths} hold fewer than {total} rows"
    lanes: list[list[Any]] = []  # of each lane the leaves of what came out, without its padding
    spec = LEAF
    for low, width in zip(itertools.accumulate(widths, initial=0), widths, strict=False):
        high = min(low + width, total)
        lane = [
            column if part is Part.SHARED or width == total else _lane(column, low, high, width)
            for column, part in zip(columns, head.form.parts, strict=True)
        ]
        out = head.gate.run(**head.form.arguments(lane))
        row_list = _row_list(width, tensors=True) if head.form.lists_are_rows else None
        leaves, spec = tree_flatten(out, is_leaf=row_list)
        lanes.append([_first_rows(leaf, high - low) for leaf in leaves])
    return _hand_back(calls, lanes, spec)


def company(calls: Sequence[Packed], widths: Sequence[int]) -> list[int]:
    """For each call, how many calls share its fullest lane."""
    edges = list(itertools.accumulate(widths, initial=0))
    spans: list[tuple[int, int]] = []
    for call in calls:
        start = spans[-1][1] if spans else 0
        spans.append((start, start + call.rows))
    lanes = list(itertools.pairwise(edges))
    inside = [[a < high and low < b for a, b in spans] for low, high in lanes]
    return [max(sum(row) for row in inside if row[i]) for i in range(len(calls))]


def _column(calls: Sequence[Packed], index: int) -> Any:
    """One leaf of all calls, joined along the rows; shared ones as they are."""
    values = [call.leaves[index] for call in calls]
    match calls[0].form.parts[index]:
        case Part.ROWS:
            return torch.cat(values)
        case Part.TIME:
            return _times(calls, values)
        case Part.ITEMS:
            return [item for value in values for item in value]
        case Part.SHARED:
            return values[0]


def _times(calls: Sequence[Packed], values: list[Any]) -> torch.Tensor:
    tensors = [v if isinstance(v, torch.Tensor) else torch.as_tensor(v) for v in values]
    if len({t.dtype for t in tensors}) > 1:
        # DDIM counts in int64, Euler in float32; every model's embedding starts with .float().
        tensors = [t.float() for t in tensors]
    return torch.cat([t.expand(c.rows) for c, t in zip(calls, tensors, strict=True)])


def _lane(column: Any, low: int, high: int, width: int) -> Any:
    piece = column[low:high]
    missing = width - (high - low)
    if not missing:
        return piece
    # Padding repeats a real row: zeros could turn to NaN and cost slow paths for nothing.
    if isinstance(piece, list):
        return piece + piece[:1] * missing
    return torch.cat([piece, piece[:1].expand(missing, *piece.shape[1:])])


def _first_rows(leaf: Any, rows: int) -> Any:
    return leaf[:rows] if _has_rows(leaf) else leaf


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, list) or (isinstance(leaf, torch.Tensor) and leaf.dim() > 0)


def _hand_back(calls: Sequence[Packed], lanes: list[list[Any]], spec: TreeSpec) -> list[Any]:
    rows = [call.rows for call in calls]
    shares = [_split(_joined(pieces), rows) for pieces in zip(*lanes, strict=True)]
    return [tree_unflatten(list(share), spec) for share in zip(*shares, strict=True)]


def _joined(pieces: Sequence[Any]) -> Any:
    """One leaf of the results, of all lanes."""
    if len(pieces) == 1 or not _has_rows(pieces[0]):
        return pieces[0]
    if isinstance(pieces[0], list):
        return list(itertools.chain.from_iterable(pieces))
    return torch.cat(list(pieces))


def _split(leaf: Any, rows: list[int]) -> Sequence[Any]:
    """To each call its rows of a leaf."""
    if isinstance(leaf, torch.Tensor) and leaf.dim() > 0:
        return leaf.split(rows)
    if isinstance(leaf, list):
        rest = iter(leaf)
        return [list(itertools.islice(rest, n)) for n in rows]
    return [leaf] * len(rows)
