"""Collate rows of several calls into one model call, and split the result by call.

Owns the joining of packed calls into lanes and the splitting of results. Knows no image and no
signature's meaning: all calls passed in may share a batch. R: rows of all calls; W: of one lane.
Invariant: a row goes through the model with nothing but its own numbers beside the shared ones,
at any position of a lane, next to any other row, and with the same memory layout everywhere
(memory_layout); so does each call's result.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from worker.engine.memory_layout import padded, settled, together
from worker.engine.signatures import HALF, LEAF, LeafRole, Packed, row_list, version_of

REMEMBERED = 2  # signatures: two sizes alternate, rarely three


def run_together(calls: Sequence[Packed], widths: Sequence[int]) -> list[Any]:
    """Run calls of one signature in lanes of these widths; return one result per call."""
    return Joiner().run(calls, widths)


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """One leaf of all calls, joined along the rows, and the tensors that it was joined from."""

    joined: Any
    values: list[Any]
    versions: list[int]

    def holds(self, values: list[Any]) -> bool:
        """Return whether `joined` is the join of these very tensors, unwritten since."""
        return (
            len(values) == len(self.values)
            and all(new is old for new, old in zip(values, self.values, strict=True))
            and _versions(self.joined, values) == self.versions
        )


class Joiner:
    """Joiner of rows, with a cache of its last joins.

    A text embedding is the same tensor at every step: joining eight of them anew each time was
    most of the engine's own time in a step (1.2 MB of fresh memory for the smallest of models).
    """

    def __init__(self) -> None:
        self._columns: OrderedDict[Hashable, dict[int, _Column]] = OrderedDict()

    def run(self, calls: Sequence[Packed], widths: Sequence[int]) -> list[Any]:
        """Run calls of one signature in lanes of these widths; return one result per call."""
        head = calls[0]
        if len(calls) == 1 and list(widths) == [head.rows]:
            return [head.gate.run(**_alone(head))]
        columns = self._join(calls)
        total = sum(call.rows for call in calls)
        assert sum(widths) >= total, f"lanes {widths} hold fewer than {total} rows"
        lanes: list[list[Any]] = []  # of each lane the leaves of its result
        spec: TreeSpec | None = LEAF
        for low, width in zip(itertools.accumulate(widths, initial=0), widths, strict=False):
            lane = [
                column if part is LeafRole.SHARED or width == total else _lane(column, low, width)
                for column, part in zip(columns, head.form.parts, strict=True)
            ]
            out = head.gate.run(**head.form.arguments(lane))
            leaves, spec = _came_out(out, width, head)
            lanes.append(leaves)
        return _hand_back(calls, lanes, spec)

    def _join(self, calls: Sequence[Packed]) -> list[Any]:
        signature = calls[0].signature
        cached = self._columns.setdefault(signature, {})
        self._columns.move_to_end(signature)
        if len(self._columns) > REMEMBERED:
            self._columns.popitem(last=False)
        head = calls[0]
        return [
            leaf if part is LeafRole.SHARED else _joined(calls, index, part, cached)
            for index, (leaf, part) in enumerate(zip(head.leaves, head.form.parts, strict=True))
        ]


def _joined(calls: Sequence[Packed], index: int, part: LeafRole, cached: dict[int, _Column]) -> Any:
    values = [call.leaves[index] for call in calls]
    if part is LeafRole.TIME:
        return _times(calls, values)
    if part is LeafRole.ITEMS:
        return list(itertools.chain.from_iterable(values))
    column = cached.get(index)
    if column is None or not column.holds(values):
        joined = together(values)
        column = cached[index] = _Column(joined, values, _versions(joined, values))
    return column.joined


def _versions(joined: torch.Tensor, values: list[torch.Tensor]) -> list[int]:
    return [version_of(joined), *map(version_of, values)]


def _alone(call: Packed) -> dict[str, Any]:
    """Return a call's own arguments, in the memory layout and dtypes that a batch would have."""
    leaves = call.leaves.copy()
    for index, part in enumerate(call.form.parts):
        if part is LeafRole.ROWS:
            leaves[index] = settled(leaves[index])
        elif part is LeafRole.TIME:
            leaves[index] = _times([call], leaves[index : index + 1])
    return call.form.arguments(leaves)


def _sent(time: torch.Tensor, device: torch.device) -> torch.Tensor:
    # A few bytes, which CUDA takes at once from any memory: not to wait is safe.
    return time.to(device, non_blocking=True)


def _times(calls: Sequence[Packed], values: list[Any]) -> torch.Tensor:
    """Join times to (R,), in float32 unless half: int64 and float samplers share a batch.

    Every model's embedding of a time starts with `.float()`.
    """
    tensors = [v if isinstance(v, torch.Tensor) else torch.as_tensor(v) for v in values]
    tensors = [t if t.dtype in HALF else t.float() for t in tensors]
    if all(t.dim() == 0 for t in tensors):  # one operation instead of one expand a call
        joined = torch.stack(
            [t for c, t in zip(calls, tensors, strict=True) for _ in range(c.rows)]
        )
    else:
        joined = torch.cat([t.expand(c.rows) for c, t in zip(calls, tensors, strict=True)])
    return _sent(joined, calls[0].device)


def _lane(column: Any, low: int, width: int) -> Any:
    piece = column[low : low + width]
    if isinstance(piece, list):
        return piece + piece[:1] * (width - len(piece))
    return padded(piece, width)


def _came_out(out: Any, width: int, head: Packed) -> tuple[list[Any], TreeSpec | None]:
    """Return the leaves of a result and their nesting; None: a plain tuple, as almost always."""
    if type(out) is tuple and all(isinstance(leaf, torch.Tensor) for leaf in out):
        return list(out), None
    as_row = row_list(width, tensors=True) if head.form.lists_are_rows else None
    return tree_flatten(out, is_leaf=as_row)


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, list) or (isinstance(leaf, torch.Tensor) and leaf.dim() > 0)


def _hand_back(calls: Sequence[Packed], lanes: list[list[Any]], spec: TreeSpec | None) -> list[Any]:
    rows = [call.rows for call in calls]
    shares = [_split(_in_one(pieces), rows) for pieces in zip(*lanes, strict=True)]
    own = zip(*shares, strict=True)
    return list(own) if spec is None else [tree_unflatten(list(share), spec) for share in own]


def _in_one(pieces: Sequence[Any]) -> Any:
    """Join one leaf of the results of all lanes."""
    if len(pieces) == 1 or not _has_rows(pieces[0]):
        return pieces[0]
    if isinstance(pieces[0], list):
        return list(itertools.chain.from_iterable(pieces))
    return together(pieces)


def _split(leaf: Any, rows: list[int]) -> Sequence[Any]:
    """Split a leaf into each call's rows."""
    if isinstance(leaf, torch.Tensor) and leaf.dim() > 0:
        total = sum(rows)
        own = (leaf if len(leaf) == total else leaf[:total]).split(rows)  # the rest is padding
        return [*map(settled, own)]
    if isinstance(leaf, list):
        rest = iter(leaf)
        return [list(itertools.islice(rest, n)) for n in rows]
    return [leaf] * len(rows)


def batch_sizes(calls: Sequence[Packed], widths: Sequence[int]) -> list[int]:
    """Return, for each call, the number of calls in its fullest lane."""
    if len(widths) == 1:
        return [len(calls)] * len(calls)
    edges = list(itertools.accumulate(widths, initial=0))
    spans: list[tuple[int, int]] = []
    for call in calls:
        start = spans[-1][1] if spans else 0
        spans.append((start, start + call.rows))
    lanes = list(itertools.pairwise(edges))
    inside = [[a < high and low < b for a, b in spans] for low, high in lanes]
    return [max(sum(row) for row in inside if row[i]) for i in range(len(calls))]
