"""Signatures: split a model call into leaves, and tell which calls may share a batch.

Owns signatures. Knows no image and no sampler, only arguments. B: rows of one call.
Invariant: calls of one signature differ in nothing but the numbers of their own rows.

The signature holds all that chooses a kernel (shapes, dtypes, devices, how rows lie in memory)
and shared content; never steps, step index, sampler, guidance, seed or prompt: so that
unlike jobs can share a call.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from worker.engine.fingerprint import short_hash
from worker.engine.gates import Gate, ModelCall
from worker.engine.memory_layout import lies_alike, strides_of
from worker.engine.profiles.base import Profile

Memo = dict[int, tuple[torch.Tensor, int, bytes]]
LEAF: TreeSpec = tree_flatten(None)[1]
HALF = (torch.bfloat16, torch.float16)
NESTED = (dict, list, tuple)  # `dict | list | tuple` is made anew wherever it stands


class LeafRole(StrEnum):
    """The role of one leaf of the arguments in a batch."""

    ROWS = "rows"  # (B, ...) stacked
    TIME = "time"  # a scalar or (B,), stacked as (R,) in float32, or in the half that it came in
    ITEMS = "items"  # a list of B things, joined
    SHARED = "shared"  # equal in all calls of a batch, taken from the first


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """The structure of a call's arguments: splits them into leaves and rebuilds them."""

    names: tuple[str, ...]
    specs: list[TreeSpec]  # one an argument; LEAF: it is not nested
    parts: list[LeafRole]  # one a leaf
    lists_are_rows: bool
    tables: list[tuple[torch.Tensor, int]]  # shared tensors, and their versions when read
    pattern: str  # what a self-test tries: the signature without sizes and contents

    def arguments(self, leaves: Sequence[Any]) -> dict[str, Any]:
        """Rebuild the arguments by name, as the module takes them."""
        rest = iter(leaves)
        return {
            name: next(rest)
            if spec is LEAF
            else tree_unflatten(list(itertools.islice(rest, spec.num_leaves)), spec)
            for name, spec in zip(self.names, self.specs, strict=True)
        }


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One model call, split into leaves; calls of equal `signature` may share a batch."""

    gate: Gate
    rows: int
    signature: str  # a str caches its hash; a tuple computes it at every lookup
    leaves: list[Any]
    form: Form

    @property
    def device(self) -> torch.device:
        """Device of its rows."""
        first = self.leaves[0]
        return (first[0] if self.form.lists_are_rows else first).device


def take_apart(call: ModelCall, profile: Profile, memo: Memo, last: Packed | None = None) -> Packed:
    """Split a call's arguments into leaves; the row count is that of the first argument.

    `last`: the same image's previous call. Mostly only its numbers differ, and its signature is
    reused: that is a third of the engine's own time at a step.
    """
    first = next(iter(call.arguments.values()))
    lists_are_rows = isinstance(first, list)
    rows = len(first) if lists_are_rows else first.shape[0]
    leaves, specs = _flatten(call.arguments, rows, lists_are_rows=lists_are_rows)
    if last is not None and _made_alike(call, rows, leaves, specs, last):
        return Packed(call.gate, rows, last.signature, leaves, last.form)
    owners = [
        name
        for name, spec in zip(call.arguments, specs, strict=True)
        for _ in range(spec.num_leaves)
    ]
    parts = [_part_of(*owned, rows, profile) for owned in zip(owners, leaves, strict=True)]
    keys = [
        _key_of(leaf, part, memo, profile.padded_to)
        for leaf, part in zip(leaves, parts, strict=True)
    ]
    tables = [
        (leaf, version_of(leaf))
        for leaf, part in zip(leaves, parts, strict=True)
        if part is LeafRole.SHARED and isinstance(leaf, torch.Tensor)
    ]
    names, nesting = tuple(call.arguments), [*map(_nesting, specs)]
    signature = repr((call.gate.number, names, nesting, keys))
    if last is not None and signature == last.signature:
        pattern = last.form.pattern
    else:
        pattern = short_hash(repr((names, nesting, [*map(_pattern_of, leaves, parts)])))
    form = Form(names, specs, parts, lists_are_rows, tables, pattern)
    return Packed(call.gate, rows, signature, leaves, form)


def _flatten(
    arguments: dict[str, Any], rows: int, *, lists_are_rows: bool
) -> tuple[list[Any], list[TreeSpec]]:
    leaves: list[Any] = []
    specs: list[TreeSpec] = []
    for value in arguments.values():
        if isinstance(value, NESTED):
            parts, spec = tree_flatten(value, is_leaf=row_list(rows, tensors=lists_are_rows))
            leaves += parts
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
    """Return whether everything in the signature of `last` is unchanged."""
    return (
        call.gate is last.gate
        and rows == last.rows
        and tuple(call.arguments) == last.form.names
        and specs == last.form.specs
        and all(map(_alike, leaves, last.leaves, last.form.parts))
        and all(version_of(table) == version for table, version in last.form.tables)
    )


def _alike(leaf: Any, before: Any, part: LeafRole) -> bool:
    if leaf is before:
        return True
    if leaf.__class__ is not before.__class__:
        return False
    if part is LeafRole.TIME:
        return not isinstance(leaf, torch.Tensor) or leaf.dtype is before.dtype
    if part is LeafRole.ROWS:
        alike = leaf.shape == before.shape and leaf.dtype is before.dtype
        return alike and lies_alike(leaf, before)
    return False


def row_list(rows: int, *, tensors: bool) -> Callable[[Any], bool]:
    """Return a test for lists of one item a row (Z-Image's latents, Qwen-Image's shapes).

    All other lists are nesting. `tensors`: the model takes rows as lists; elsewhere a list of
    tensors is a nesting of (B, ...) tensors, such as a ControlNet's residuals.
    """

    def is_row_list(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != rows:
            return False
        return tensors or not isinstance(value[0], torch.Tensor)

    return is_row_list


def _part_of(name: str, leaf: Any, rows: int, profile: Profile) -> LeafRole:
    if name in profile.times and (
        isinstance(leaf, int | float) or (isinstance(leaf, torch.Tensor) and leaf.dim() < 2)
    ):
        return LeafRole.TIME
    if isinstance(leaf, list):
        alike = isinstance(leaf[0], torch.Tensor) or all(item == leaf[0] for item in leaf)
        return LeafRole.ITEMS if alike else LeafRole.SHARED
    if isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == rows:
        # (H*W, 3) position tables may be B long by chance; (B, H*W, 3) ones are rows.
        return LeafRole.SHARED if name in profile.shared and leaf.dim() < 3 else LeafRole.ROWS
    return LeafRole.SHARED


def _key_of(leaf: Any, part: LeafRole, memo: Memo, padded_to: int) -> Hashable:
    match part:
        case LeafRole.TIME:
            return part, _time_dtype(leaf)
        case LeafRole.ROWS:
            # Of the batch nothing: how far apart its rows lie is the same wherever it came from.
            return part, leaf.shape[1:], *_kind_of(leaf), strides_of(leaf)[1:]
        case LeafRole.ITEMS if isinstance(leaf[0], torch.Tensor):
            of_each = ((*_kind_of(t), _size_of(t, padded_to), _order_of(t)) for t in leaf)
            return part, *sorted(set(map(repr, of_each)))
        case LeafRole.ITEMS:
            return part, repr(leaf[0])
        case LeafRole.SHARED:
            return part, _content_key(leaf, memo)


def _time_dtype(time: Any) -> torch.dtype:
    """Return the dtype of a joined time: DDIM counts in int64, Euler in float32."""
    return time.dtype if isinstance(time, torch.Tensor) and time.dtype in HALF else torch.float32


def _content_key(leaf: Any, memo: Memo) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return leaf.shape, *_kind_of(leaf), leaf.stride(), content_of(leaf, memo)
    if isinstance(leaf, np.ndarray):  # its repr leaves out what is in the middle
        return leaf.shape, str(leaf.dtype), hashlib.sha256(leaf.tobytes()).digest()
    return repr(leaf)


def _pattern_of(leaf: Any, part: LeafRole) -> Hashable:
    """Return a leaf's properties that may choose a kernel, without size, text and scale."""
    first = leaf[0] if part is LeafRole.ITEMS else leaf
    if part is LeafRole.TIME or not isinstance(first, torch.Tensor):
        return part, type(first).__name__ if part is not LeafRole.TIME else getattr(
            leaf, "dtype", None
        ) in HALF
    order = sorted(range(first.dim()), key=lambda i: -first.stride(i))
    return part, *_kind_of(first), None if first.is_contiguous() else order


def _kind_of(tensor: torch.Tensor) -> tuple[object, ...]:
    """Return class, dtype, device and layout, which choose kernels too (sparse, subclassed)."""
    return type(tensor).__name__, tensor.dtype, str(tensor.device), tensor.layout


def _size_of(item: torch.Tensor, padded_to: int) -> tuple[int, ...]:
    """Return an item's shape after the network's own padding, which is along L of (L, D).

    Unlike items are padded to the longest of their call, which changes the bits of the others
    (Z-Image in float32, 64 x 64 beside 96 x 64: 6e-6).
    """
    if item.dim() != 2:
        return tuple(item.shape)
    length, features = item.shape
    return -(-length // padded_to) * padded_to, features


def _order_of(item: torch.Tensor) -> tuple[int, ...] | None:
    """Return an item's strides; None if contiguous, which is the same order at any length."""
    return None if item.is_contiguous() else item.stride()


def content_of(tensor: torch.Tensor, memo: Memo) -> bytes:
    """Return SHA-256 of the values, cached in `memo` while the same tensor is unwritten."""
    cached = memo.get(id(tensor))
    if cached is None or cached[0] is not tensor or cached[1] != version_of(tensor):
        flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu()
        digest = hashlib.sha256(flat.numpy().tobytes()).digest()
        cached = memo[id(tensor)] = (tensor, version_of(tensor), digest)
    return cached[2]


def version_of(tensor: torch.Tensor) -> int:
    """Return the number of in-place writes to a tensor; a new number if torch counts none.

    Tensors of `torch.inference_mode`, which some pipelines use, have no such count.
    """
    return next(_unlike) if tensor.is_inference() else tensor._version


_unlike = itertools.count(-1, -1)
