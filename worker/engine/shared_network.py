"""A copy of a network that shares every tensor with it until somebody writes to one.

Owns the sharing, and the network's return to what it was. Knows no adapter and no pipeline.
Invariant: whatever is done to the copy, in place, by replacing parts or half way into an error,
the network has the bits that it had; what is done to the network meanwhile is undone.

Why: loaders of LoRA files write where they please. That of Flux copies norm weights into the
network (`_load_norm_into_transformer`, diffusers 0.42.1; #10745, #10202), and a plain second
network on the same tensors passed that on to everybody's pictures, for as long as the process ran.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch


class Lent:
    """A network's copy in somebody else's hands; afterwards `restore`, `take_back`, `drop`."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._slots = _slots(network)
        self._loans = [_Loan.of(tensor) for tensor in tensors_of(network)]
        memo: dict[int, Any] = {id(loan.own): loan.shared for loan in self._loans}
        self.module: torch.nn.Module = copy.deepcopy(network, memo)
        self._settings = _settings(self.module)

    def restore(self) -> bool:
        """Undo writes to the network itself; return whether there were any.

        A lazy copy keeps the first bits when its original is written to: they are put back.
        """
        replaced = [slot for slot in self._slots if slot.holder.get(slot.name) is not slot.held]
        for slot in replaced:
            slot.holder[slot.name] = slot.held
        written = [loan for loan in self._loans if loan.own_written]
        for loan in written:
            loan.own.data = loan.shared.detach()
        return bool(replaced or written)

    def take_back(self) -> None:
        """Put the network's own tensors where the copy's still have their bits.

        What was written to is the copy's own from here on. Raises ValueError where the copy's
        configuration was changed: its pipeline would no longer fit it.
        """
        unwritten = {id(loan.shared): loan.own for loan in self._loans if loan.unwritten}
        for part in self.module.modules():
            holders: Any = (part._parameters, part._buffers)
            for held in holders:
                for name, tensor in held.items():
                    if tensor is not None and id(tensor) in unwritten:
                        held[name] = unwritten[id(tensor)]
        before, now = self._settings, _settings(self.module)
        if changed := {at[0] for at in {**before, **now} if before.get(at) != now.get(at)}:
            raise ValueError(f"it changes the network itself ({', '.join(sorted(changed))})")

    def drop(self) -> None:
        """Release the shared tensors, even if an error's traceback still holds the copy."""
        self._loans, self._slots = [], []


def tensors_of(network: torch.nn.Module) -> list[torch.Tensor]:
    """Return the network's parameters and buffers, each once."""
    return [*network.parameters(), *network.buffers()]


@dataclass(frozen=True, slots=True)
class _Loan:
    """A tensor of the network, its copy, and where in memory both were."""

    own: torch.Tensor
    shared: torch.Tensor
    own_at: int
    shared_at: int

    @classmethod
    def of(cls, own: torch.Tensor) -> _Loan:
        shared = _shared(own)
        return cls(own, shared, _address(own), _address(shared))

    @property
    def unwritten(self) -> bool:
        """True if the copy has the network's bits."""
        return _address(self.shared) == self.own_at or _same(self.own, self.shared)

    @property
    def own_written(self) -> bool:
        """True if the network's tensor has other bits than before: a write moves it."""
        moved = _address(self.own) != self.own_at
        kept = _address(self.shared) == self.shared_at
        return moved and kept and not _same(self.own, self.shared)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place in a network and what is there: a parameter, a buffer, a part."""

    holder: dict[str, Any]
    name: str
    held: Any


def _slots(network: torch.nn.Module) -> list[_Slot]:
    return [
        _Slot(holder, name, held)
        for part in network.modules()
        for holder in (part._parameters, part._buffers, part._modules)
        for name, held in holder.items()
    ]


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    """Return a lazy clone: the same memory, copied by torch at the first write to either."""
    with torch.no_grad():
        try:
            shared = torch.ops.aten._lazy_clone(tensor.detach())
        except RuntimeError:  # memory that is not torch's own: a file that is mapped in
            shared = tensor.detach().clone()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(shared, requires_grad=tensor.requires_grad)
    return shared


def _address(tensor: torch.Tensor) -> int:
    """Return the read-only data address: `data_ptr()` would make a lazy copy a real one."""
    native: Any = torch._C
    return native._data_address(tensor)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare bytes, since NaN differs from itself."""
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    one, other = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(one, other)


def _settings(network: torch.nn.Module) -> dict[tuple[str, str], str]:
    """Its configuration, as text; a key and the attribute of its name may come to differ."""
    config: Any = getattr(network, "config", None)
    if config is None:
        return {}
    items: dict[str, Any] = dict(config) if isinstance(config, dict) else config.to_dict()
    return {
        (key, how): repr(value)
        for how, values in (("item", items), ("attribute", vars(config)))
        for key, value in values.items()
        if not key.startswith("_")
    }
