"""A device that is not here: tensors that lie "far away", to see what a GPU would be asked.

Real numbers, kept on the CPU behind a tensor that says device `meta`. What a GPU refuses is
refused (tensors of two devices in one call, but for single numbers); what makes Python wait for a
GPU is noted with the line that asked: reading a number, copying back, copying there unpinned.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

FAR = torch.device("meta")
aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


class Far(torch.Tensor):
    """One tensor over there."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Far:
        made = torch.Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(),
            dtype=near.dtype, device=FAR,
        )  # fmt: skip
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, Counter())


class Away(TorchDispatchMode):
    """While it is on, tensors can be made on FAR; `waits` counts what Python would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, self.waits)


def run(func: Any, args: Any, kwargs: dict[str, Any], waits: Counter[str]) -> Any:
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = [leaf for leaf in leaves if isinstance(leaf, Far)]
    wanted = kwargs.get("device")
    there = bool(far) if wanted is None else wanted == FAR
    if (func in READS and far) or (func in COPIES and _crosses(func, leaves, wanted, kwargs)):
        waits[_asker(func)] += 1
    if far and func not in COPIES and any(t.dim() and not isinstance(t, Far) for t in leaves):
        raise RuntimeError(f"{func}: tensors on two devices, here and far")
    near = tree_map(lambda x: x.near if isinstance(x, Far) else x, (args, kwargs))
    if wanted is not None:
        near[1]["device"] = torch.device("cpu")
        near[1].pop("pin_memory", None)
    out = func(*near[0], **near[1])
    if not there or func in READS - {aten.nonzero.default}:
        return out
    known = {id(leaf.near): leaf for leaf in far}  # in-place: the same tensor comes back
    return tree_map(lambda x: _sent(x, known) if isinstance(x, torch.Tensor) else x, out)


def _sent(near: torch.Tensor, known: dict[int, Far]) -> Far:
    return known[id(near)] if id(near) in known else Far(near)


def _crosses(func: Any, leaves: list[Any], wanted: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a copy goes from one device to the other and is waited for."""
    if func is aten.copy_.default:
        return isinstance(leaves[0], Far) != isinstance(leaves[1], Far)
    if wanted is None or kwargs.get("non_blocking"):
        return False
    return isinstance(leaves[0], Far) != (wanted == FAR)


def _asker(func: Any) -> str:
    for frame in reversed(traceback.extract_stack()):
        if "/torch/" not in frame.filename and not frame.filename.endswith("far.py"):
            return f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno} {func}"
    return str(func)


def send(module: torch.nn.Module) -> None:
    """All that a module has, over there."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(Far(parameter.data), False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = Far(buffer)


@contextmanager
def sent(*modules: torch.nn.Module) -> Iterator[Away]:
    for module in modules:
        send(module)
    with Away() as away:
        yield away
