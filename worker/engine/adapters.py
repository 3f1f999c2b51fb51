"""LoRA adapters: for each requested set of files, a second network on the model's weights.

Owns the making of such networks by diffusers' own loader, and which of them stay in memory. Knows
no batch. Invariant: the model itself is never touched. A loader gets copies of the modules that
adapters are for, and nothing else of the pipeline (`shared_network.py`); what it wrote to is the
set's own, every other tensor is the model's. So an image without adapters runs the very code and
numbers that it ran before, and images of one set meet at that set's own gates.

A scale is a number in the forward: images that differ in scales alone share a network, which is
set anew when their turn comes. Only files are loaded and tested, so a new scale costs nothing.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from jobs.contract.loras import LoraFile, LoraFolder
from worker.engine.errors import DeviceMemoryFull, EngineError, ModelBroken, Unservable
from worker.engine.gated_pipeline import Gated
from worker.engine.gates import Gate, Tuned
from worker.engine.interruptible import breathe, unbroken
from worker.engine.memory import ran_out, release
from worker.engine.shared_network import Lent, tensors_of
from worker.messages import Lora

log = logging.getLogger(__name__)

# name, digest and scale of each, by name: the order of a request changes nothing
LoraSet = tuple[tuple[LoraFile, float], ...]
Files = tuple[LoraFile, ...]

REFUSALS_KEPT = 64  # sets that cannot be had: asked for again, they are not copied and read again


@dataclass(frozen=True, slots=True)
class Worn:
    """A gated pipeline, and which gates stand for its own where scales are set."""

    gated: Gated
    tuned: Mapping[Gate, Gate]


class Adapters:
    """The sets of one model: made when first asked for, the least recently used dropped."""

    def __init__(
        self,
        base: Gated,
        shelf: LoraFolder | None,
        gate: Callable[[Any, list[str]], Gated],
        *,
        kept: int,
    ) -> None:
        """`gate` puts gates on the named modules of a pipeline; `kept`: sets in memory at once."""
        self._base = base
        self._shelf = shelf
        self._gate = gate
        self._kept = kept
        self._sets: OrderedDict[Files, _Dressed] = OrderedDict()
        self._refused: OrderedDict[Files, str] = OrderedDict()
        if shelf is not None:
            _check(base.pipeline)

    @property
    def own_bytes(self) -> int:
        """Memory of all sets, in bytes."""
        return sum(dressed.own_bytes for dressed in self._sets.values())

    def find(self, loras: tuple[Lora, ...]) -> LoraSet:
        """Return the files of a request's adapters. Raises Unservable for a missing one."""
        chosen: list[tuple[LoraFile, float]] = []
        for lora in sorted(loras, key=lambda lora: (lora.name, lora.scale)):
            breathe()  # a new file is read whole, for its digest
            file = self._shelf.find(lora.name) if self._shelf else None
            if file is None:
                raise Unservable(
                    f"there is no LoRA {lora.name!r} for this model any more: choose another"
                )
            chosen.append((file, lora.scale))
        return tuple(chosen)

    def noted(self, loras: tuple[Lora, ...]) -> bool:
        """Return True if `find` has no file of these adapters to read."""
        return self._shelf is None or all(self._shelf.noted(lora.name) for lora in loras)

    def loaded(self, loras: LoraSet) -> bool:
        """Return whether the set is in memory; the empty set always is."""
        return not loras or _files(loras) in self._sets

    def refused(self, loras: LoraSet) -> bool:
        """Return whether loading the set was tried and refused."""
        return _files(loras) in self._refused

    def worn(self, loras: LoraSet) -> Worn:
        """Return the pipeline with these adapters at their scales.

        Raises Unservable for a file that does not fit, DeviceMemoryFull without room for it.
        """
        if not loras:
            return Worn(self._base, {})
        files = _files(loras)
        if files in self._refused:
            raise Unservable(self._refused[files])
        if files not in self._sets:
            self._sets[files] = self._dress(files)
            while len(self._sets) > self._kept:
                # Images under way with it keep it; new ones will have it loaded again.
                gone, _ = self._sets.popitem(last=False)
                log.info("engine.loras_dropped", extra={"loras": names_of(gone)})
        self._sets.move_to_end(files)
        dressed = self._sets[files]
        return Worn(dressed.gated, dressed.tuned(tuple(scale for _, scale in loras)))

    def _dress(self, files: Files) -> _Dressed:
        """Load these files onto a copy of the network, one file a piece of work."""
        pipeline = copy.copy(self._base.pipeline)
        try:
            for number, file in enumerate(files):  # a file may be named twice
                with unbroken():
                    pipeline = self._put_on(pipeline, f"a{number}", file)
        except Unservable as error:
            self._refused[files] = str(error)
            while len(self._refused) > REFUSALS_KEPT:
                self._refused.popitem(last=False)
            raise
        gated = self._gate(pipeline, _takers(pipeline))
        gated.open()
        log.info("engine.loras_loaded", extra={"loras": names_of(files)})
        return _Dressed(gated, self._base.pipeline, [f"a{i}" for i in range(len(files))])

    def _put_on(self, pipeline: Any, name: str, file: LoraFile) -> Any:
        """Return the pipeline with one more file on copies of its modules."""
        self._base.close()  # gates are no part of what is copied
        try:
            lent = {taker: Lent(getattr(pipeline, taker)) for taker in _takers(pipeline)}
        finally:
            self._base.open()
        try:
            return _taken_back(lent, _loaded(pipeline, lent, name, file))
        except Exception as error:
            raise _refusal(file, error) from error
        finally:
            for loan in lent.values():
                if loan.restore():
                    log.error("engine.loras_wrote_to_model", extra={"loras": names_of((file,))})
                loan.drop()


class _Dressed:
    """A network with adapters on it; their scales are the one thing that changes."""

    def __init__(self, gated: Gated, base: Any, names: Sequence[str]) -> None:
        self.gated = gated
        self.own_bytes = _own_bytes(gated.pipeline, base)  # beside the weights that it shares
        self._names = names
        self._layers = _layers(gated.pipeline)
        self._scales: tuple[float, ...] = ()
        for layer in self._layers:
            layer.set_adapter(list(names))

    def tuned(self, scales: tuple[float, ...]) -> Mapping[Gate, Gate]:
        """For each of its gates, the one whose calls run at these scales."""
        words, tune = "+".join(map(repr, scales)), partial(self._tune, scales)
        return {gate: Tuned(gate, words, tune) for gate in self.gated.gates}

    def _tune(self, scales: tuple[float, ...]) -> None:
        if scales == self._scales:
            return
        for layer in self._layers:
            for name, scale in zip(self._names, scales, strict=True):
                layer.set_scale(name, scale)  # as the pipeline's own `set_adapters` does
        self._scales = scales


def label(loras: LoraSet) -> str:
    """Return a set as in a fingerprint: `name@digest:scale` joined by +, all scale digits."""
    return "+".join(f"{names_of((file,))}:{_digits(scale)}" for file, scale in loras)


def _digits(scale: float) -> str:
    return repr(float(scale)).removesuffix(".0")


def names_of(files: Files) -> str:
    """Return `name@digest` of each file, joined by +; self-tests ignore scales."""
    return "+".join(f"{file.name}@{file.digest[:12]}" for file in files)


def untuned(loras: LoraSet) -> str:
    """Return a set's files as text, without scales."""
    return names_of(_files(loras))


def _files(loras: LoraSet) -> Files:
    return tuple(file for file, _ in loras)


def _loaded(pipeline: Any, lent: Mapping[str, Lent], name: str, file: LoraFile) -> Any:
    """Run diffusers' own loader on lent modules and return the pipeline; errors pass through."""
    made = copy.copy(pipeline)
    # Through __dict__: a pipeline's own __setattr__ would note each in its configuration.
    made.__dict__.update({taker: loan.module for taker, loan in lent.items()})
    others = {n: p for n, p in vars(made).items() if isinstance(p, torch.nn.Module)}
    hidden = {n: part for n, part in others.items() if n not in lent}
    made.__dict__.update(dict.fromkeys(hidden))  # what a loader is not given, it cannot change
    with warnings.catch_warnings():
        # peft warns of a second adapter as if nobody could want one.
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        made.load_lora_weights(
            str(file.path.parent),
            weight_name=file.path.name,
            adapter_name=name,
            use_safetensors=True,
            local_files_only=True,
        )
    made.__dict__.update(hidden)
    if any(getattr(made, taker) is not loan.module for taker, loan in lent.items()):
        raise ValueError("the loader replaces the model's network with another")
    if not any(name in layer.scaling for layer in _layers(made)):
        raise ValueError("none of its weights fits a part of this model")
    return made


def _taken_back(lent: Mapping[str, Lent], pipeline: Any) -> Any:
    """Put the model's own tensors back wherever the loader left them unwritten."""
    if any(loan.restore() for loan in lent.values()):
        raise ValueError("its loader wrote to the model itself, which was restored")
    for loan in lent.values():
        loan.take_back()
    return pipeline


def _refusal(file: LoraFile, error: Exception) -> EngineError:
    if ran_out(error):
        release(error)
        return DeviceMemoryFull(f"there is no memory left for {names_of((file,))} beside the model")
    return Unservable(f"{names_of((file,))} cannot be put on this model: {error}")


def _layers(pipeline: Any) -> list[Any]:
    """Return the layers of a pipeline's modules that have adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - only where `loras` is

    modules = (part for name in _takers(pipeline) for part in getattr(pipeline, name).modules())
    return [part for part in modules if isinstance(part, BaseTunerLayer)]


def _takers(pipeline: Any) -> list[str]:
    """Return the names of a pipeline's modules that LoRA files are for."""
    named = getattr(pipeline, "_lora_loadable_modules", [])
    return [name for name in named if getattr(pipeline, name, None) is not None]


def _check(pipeline: Any) -> None:
    if not hasattr(pipeline, "load_lora_weights"):
        raise ModelBroken(f"{type(pipeline).__name__} takes no LoRA: remove `loras`")
    if find_spec("peft") is None:
        raise ModelBroken("`loras` needs the package peft: pip install peft")


def _own_bytes(pipeline: Any, base: Any) -> int:
    shared = {id(t) for name in _takers(base) for t in tensors_of(getattr(base, name))}
    return sum(
        t.numel() * t.element_size()
        for name in _takers(pipeline)
        for t in tensors_of(getattr(pipeline, name))
        if id(t) not in shared
    )
