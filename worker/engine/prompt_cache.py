"""Cache of text encodings, by content: the same prompt is encoded once.

Owns a least-recently-used table of text-encoder results. Knows no family: it sees a gate and
its arguments. Invariant: a result that anybody changed in place is never handed out again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from worker.engine.gates import ModelCall

KEPT = 256  # SD: 77 x 768 floats, 0.2 MB each; T5-XXL: 4 MB each


class PromptCache:
    """A least-recently-used cache of the results of all text encoders."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._results: OrderedDict[Hashable, tuple[Any, list[int]]] = OrderedDict()
        self._read: tuple[ModelCall, Hashable] | None = None  # the call whose key was read last

    def find(self, call: ModelCall) -> Any:
        """Return the cached result, or None."""
        key = self._key(call)
        result, versions = self._results.get(key, (None, []))
        if result is None:
            return None
        if _versions(result) != versions:
            del self._results[key]
            return None
        self._results.move_to_end(key)
        return result

    def keep(self, call: ModelCall, result: Any) -> None:
        """Cache a result."""
        self._results[self._key(call)] = (result, _versions(result))
        while len(self._results) > self._kept:
            self._results.popitem(last=False)

    def _key(self, call: ModelCall) -> Hashable:
        # It is asked for when the call parks, when it runs and when its result is kept, and on a
        # GPU each reading of the words waits for all that is queued there.
        if self._read is None or self._read[0] is not call:
            self._read = (call, _key(call))
        return self._read[1]


def _key(call: ModelCall) -> Hashable:
    content = (
        (name, _content(leaf))
        for name, value in call.arguments.items()
        for leaf in tree_leaves(value)
    )
    return call.gate.number, tuple(content)


def _content(leaf: Any) -> Hashable:
    if not isinstance(leaf, torch.Tensor):
        return repr(leaf)
    flat = leaf.detach().reshape(-1).contiguous().view(torch.uint8).cpu()
    return leaf.dtype, leaf.shape, flat.numpy().tobytes()


def _versions(result: Any) -> list[int]:
    """Return torch's counts of in-place writes to each tensor."""
    return [t._version for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
