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
class Packed:
    """One model call, taken apart; calls with equal `signature` may meet."""

    gate: Gate
    rows: int
    signature: Hashable
    leaves: list[Any]
    parts: list[Part]
    spec: TreeSpec
    original: dict[str, Any]
    lists_are_rows: bool


def take_apart(call: ModelCall, profile: Profile, memo: Memo) -> Packed:
    """Read a call's arguments leaf by leaf. The first argument says how many rows there are."""
    first = next(iter(call.arguments.values()))
    lists_are_rows = isinstance(first, list)
    rows = len(first)
    key: list[Hashable] = [id(call.gate)]
    leaves: list[Any] = []
    parts: list[Part] = []
    specs: list[TreeSpec] = []
    for name, value in call.arguments.items():
        if isinstance(value, dict | list | tuple):
            found, spec = tree_flatten(value, is_leaf=_row_list(rows, tensors=lists_are_rows))
            key.append((name, str(spec)))
        else:
            found, spec = [value], LEAF
            key.append(name)
        specs.append(spec)
        for leaf in found:
            part = _part_of(name, leaf, rows, profile)
            leaves.append(leaf)
            parts.append(part)
            key.append(_key_of(leaf, part, memo))
    spec = TreeSpec(dict, list(call.arguments), specs)
    return Packed(call.gate, rows, tuple(key), leaves, parts, spec, call.arguments, lists_are_rows)


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
    outputs: list[tuple[int, int, list[Any], TreeSpec]] = []
    low = 0
    for width in widths:
        high = min(low + width, total)
        lane = [_lane(c, p, low, high, width) for c, p in zip(columns, head.parts, strict=True)]
        out = head.gate.run(**tree_unflatten(lane, head.spec))
        row_list = _row_list(width, tensors=True) if head.lists_are_rows else None
        leaves, spec = tree_flatten(out, is_leaf=row_list)
        outputs.append((low, high, leaves, spec))
        low = high
    assert low >= total, f"lanes {widths} hold fewer than {total} rows"
    return _hand_back(calls, outputs)


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
    match calls[0].parts[index]:
        case Part.ROWS:
            return torch.cat(values)
        case Part.TIME:
            return _times(calls, values)
        case Part.ITEMS:
            return [item for value in values for item in value]
        case Part.SHARED:
            return values[0]


def _times(calls: Sequence[Packed], values: list[Any]) -> torch.Tensor:
    tensors = [torch.as_tensor(v) for v in values]
    if len({t.dtype for t in tensors}) > 1:
        # DDIM counts in int64, Euler in float32; every model's embedding starts with .float().
        tensors = [t.float() for t in tensors]
    return torch.cat([t.expand(c.rows) for c, t in zip(calls, tensors, strict=True)])


def _lane(column: Any, part: Part, low: int, high: int, width: int) -> Any:
    if part is Part.SHARED:
        return column
    piece = column[low:high]
    missing = width - (high - low)
    if not missing:
        return piece
    # Padding repeats a real row: zeros could turn to NaN and cost slow paths for nothing.
    if part is Part.ITEMS:
        return piece + piece[:1] * missing
    return torch.cat([piece, piece[:1].expand(missing, *piece.shape[1:])])


def _hand_back(
    calls: Sequence[Packed], outputs: Sequence[tuple[int, int, list[Any], TreeSpec]]
) -> list[Any]:
    results: list[Any] = []
    start = 0
    for call in calls:
        stop = start + call.rows
        pieces = [
            [_cut(leaf, start - low, stop - low) for leaf in leaves]
            for low, high, leaves, _ in outputs
            if low < stop and start < high
        ]
        joined = pieces[0] if len(pieces) == 1 else [_join(p) for p in zip(*pieces, strict=True)]
        results.append(tree_unflatten(joined, outputs[0][3]))
        start = stop
    return results


def _cut(leaf: Any, start: int, stop: int) -> Any:
    if isinstance(leaf, list) or (isinstance(leaf, torch.Tensor) and leaf.dim() > 0):
        return leaf[max(0, start) : stop]
    return leaf


def _join(pieces: Sequence[Any]) -> Any:
    if isinstance(pieces[0], torch.Tensor):
        return torch.cat(list(pieces)) if pieces[0].dim() > 0 else pieces[0]
    if isinstance(pieces[0], list):
        return [item for piece in pieces for item in piece]
    return pieces[0]
