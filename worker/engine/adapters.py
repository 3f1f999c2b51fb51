"""LoRA adapters: for each set that is asked for, a second network on the first one's weights.

Owns the making of such networks by diffusers' own loader, and which of them stay in memory. Knows
no batch. Invariant: the model itself is never touched. A set is put on a copy of its modules
whose every tensor is the model's own, so an image without adapters runs the very code and
numbers that it ran before, and images of one set meet at that set's own gates.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from jobs.loras import LoraFile, LoraShelf
from worker.engine.errors import ModelBroken, Unservable
from worker.engine.gated import Gated
from worker.messages import Lora

log = logging.getLogger(__name__)

# name, digest and scale of each, by name: the order of a request changes nothing
LoraSet = tuple[tuple[LoraFile, float], ...]


@dataclass(frozen=True, slots=True)
class Dressed:
    """A network with adapters on it."""

    gated: Gated
    own_bytes: int  # beside the weights that it shares


class Adapters:
    """The sets of one model: made when first asked for, the least recently used dropped."""

    def __init__(
        self,
        base: Gated,
        shelf: LoraShelf | None,
        gate: Callable[[Any, list[str]], Gated],
        *,
        kept: int,
    ) -> None:
        """`gate` puts gates on the named modules of a pipeline; `kept`: sets in memory at once."""
        self._base = base
        self._shelf = shelf
        self._gate = gate
        self._kept = kept
        self._sets: OrderedDict[LoraSet, Dressed] = OrderedDict()
        if shelf is not None:
            _check(base.pipeline)

    @property
    def own_bytes(self) -> int:
        """What all sets take in memory."""
        return sum(dressed.own_bytes for dressed in self._sets.values())

    def find(self, loras: tuple[Lora, ...]) -> LoraSet:
        """The files of a request's adapters. Raises Unservable for one that is not there."""
        chosen: list[tuple[LoraFile, float]] = []
        for lora in sorted(loras, key=lambda lora: (lora.name, lora.scale)):
            file = self._shelf.find(lora.name) if self._shelf else None
            if file is None:
                raise Unservable(f"there is no LoRA {lora.name!r} for this model any more")
            chosen.append((file, lora.scale))
        return tuple(chosen)

    def loaded(self, loras: LoraSet) -> bool:
        """Whether it is in memory; the empty set always is."""
        return not loras or loras in self._sets

    def network(self, loras: LoraSet) -> Gated:
        """The gated pipeline with these adapters. Raises Unservable for a file that fits not."""
        if not loras:
            return self._base
        if loras not in self._sets:
            self._sets[loras] = self._dress(loras)
            while len(self._sets) > self._kept:
                # Images under way with it keep it; new ones will have it loaded again.
                gone, _ = self._sets.popitem(last=False)
                log.info("engine.loras_dropped", extra={"loras": label(gone)})
        self._sets.move_to_end(loras)
        return self._sets[loras].gated

    def _dress(self, loras: LoraSet) -> Dressed:
        pipeline = self._bare_copy()
        names = [f"a{number}" for number in range(len(loras))]  # a file may be named twice
        try:
            with warnings.catch_warnings():
                # peft warns of a second adapter as if nobody could want one.
                warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
                for name, (file, _) in zip(names, loras, strict=True):
                    pipeline.load_lora_weights(
                        str(file.path.parent),
                        weight_name=file.path.name,
                        adapter_name=name,
                        use_safetensors=True,
                        local_files_only=True,
                    )
                _set_scales(pipeline, names, [scale for _, scale in loras])
        except Exception as error:  # whatever a client's choice of files does
            raise Unservable(f"{label(loras)} cannot be put on this model: {error}") from error
        gated = self._gate(pipeline, _takers(pipeline))
        gated.open()
        log.info("engine.loras_loaded", extra={"loras": label(loras)})
        return Dressed(gated, _own_bytes(pipeline, self._base.pipeline))

    def _bare_copy(self) -> Any:
        """The pipeline with copies of the modules that take adapters, on the same tensors."""
        pipeline = copy.copy(self._base.pipeline)
        self._base.close()  # gates are no part of what is copied
        try:
            for name in _takers(pipeline):
                module = getattr(pipeline, name)
                tensors = [*module.parameters(), *module.buffers()]
                setattr(pipeline, name, copy.deepcopy(module, {id(t): t for t in tensors}))
        finally:
            self._base.open()
        return pipeline


def _set_scales(pipeline: Any, names: Sequence[str], scales: Sequence[float]) -> None:
    """Set these adapters to work, as the pipeline's own `set_adapters` does with plain numbers.

    That one counts a UNet's layers for scales by block, which nobody can ask for here, and adds 1
    to `layers_per_block`: a list in the shipped model and in every UNet of unequal blocks.
    """
    layers = _layers(pipeline)
    if missing := [name for name in names if not any(name in layer.scaling for layer in layers)]:
        raise ValueError(f"none of the weights of {missing[0]} is for a part of this model")
    for layer in layers:
        layer.set_adapter(list(names))
        for name, scale in zip(names, scales, strict=True):
            layer.set_scale(name, scale)


def _layers(pipeline: Any) -> list[Any]:
    """The layers of its modules that adapters sit on."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - only where `loras` is

    modules = (part for name in _takers(pipeline) for part in getattr(pipeline, name).modules())
    return [part for part in modules if isinstance(part, BaseTunerLayer)]


def label(loras: LoraSet) -> str:
    """A set in a fingerprint: `name@digest:scale`, joined by +."""
    return "+".join(f"{file.name}@{file.digest[:12]}:{scale:g}" for file, scale in loras)


def _takers(pipeline: Any) -> list[str]:
    """The names of its modules that LoRA files are for."""
    named = getattr(pipeline, "_lora_loadable_modules", [])
    return [name for name in named if getattr(pipeline, name, None) is not None]


def _check(pipeline: Any) -> None:
    if not hasattr(pipeline, "load_lora_weights"):
        raise ModelBroken(f"{type(pipeline).__name__} takes no LoRA: leave out `loras`")
    if find_spec("peft") is None:
        raise ModelBroken("`loras` needs the package peft: pip install peft")


def _own_bytes(pipeline: Any, base: Any) -> int:
    shared = {id(t) for name in _takers(base) for t in _tensors(getattr(base, name))}
    return sum(
        t.numel() * t.element_size()
        for name in _takers(pipeline)
        for t in _tensors(getattr(pipeline, name))
        if id(t) not in shared
    )


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
