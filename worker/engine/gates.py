"""Gates: the points at which a pipeline call parks and the engine takes over.

Owns the replacement of a module's `forward` (or a VAE's `decode`) by a gate, the greenlet that
parks there, and gates for calls that need their network at given LoRA scales (`Tuned`).
Knows no batch and no model family. Invariant: a call that is not ours (a plain `pipeline(...)` in
the same process) passes every gate as if it were not there.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from greenlet import getcurrent, greenlet

from worker.engine.interruptible import breathe, unbroken

_numbers = itertools.count()


class Kind(Enum):
    """The kind of work behind a gate; `ROWS` calls may be batched, the rest run one by one."""

    ENCODE = "encode"
    ROWS = "rows"
    DECODE = "decode"


class Parker(Protocol):
    """The interface of one image's call that its gates use."""

    tuned: Mapping[Gate, Gate]  # which gates stand for others in this call

    def park(self, call: ModelCall) -> Any: ...


class CallGreenlet(greenlet):
    """The greenlet of one image's pipeline call; a gate finds that call by `image_call`."""

    image_call: Parker | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ModelCall:
    """One model call that a pipeline asks for; the pipeline is parked until the result is there."""

    gate: Gate
    arguments: dict[str, Any]  # by name, in order, without those that the pipeline left out


class Gate:
    """A stand-in for one method of one module."""

    def __init__(self, owner: Any, method: str, kind: Kind) -> None:
        self.owner = owner
        self.kind = kind
        # What is remembered of a gate may outlive it, and an id() comes again.
        self.number: int | str = next(_numbers)
        self._method = method
        self._run: Callable[..., Any] = getattr(owner, method)
        assert not isinstance(self._run, Gate), "one Model a pipeline: this module has gates"
        parameters = inspect.signature(self._run).parameters.values()
        self._names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    def open(self) -> None:
        """Replace the method, on this one module."""
        # Through __dict__: nn.Module's own __setattr__ is for parameters and submodules.
        self.owner.__dict__[self._method] = self

    def close(self) -> None:
        """Restore the method."""
        self.owner.__dict__.pop(self._method, None)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module itself; in a self-test, let other images run first."""
        breathe()
        return self._run(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        image_call = getattr(getcurrent(), "image_call", None)
        if image_call is None:
            return self.run(*args, **kwargs)
        # In the order of the call: packing takes the first argument for the latents.
        arguments = dict(zip(self._names, args, strict=False)) | kwargs
        return image_call.park(ModelCall(image_call.tuned.get(self, self), arguments))


class Tuned(Gate):
    """A gate that sets its network before each call; calls of other settings share no batch."""

    def __init__(self, gate: Gate, setting: str, tune: Callable[[], None]) -> None:
        """Create a gate whose network `tune` sets.

        `setting`: the name of the setting, the same text for the same setting.
        """
        self.owner = gate.owner
        self.kind = gate.kind
        self.number = f"{gate.number}@{setting}"
        self._gate = gate
        self._tune = tune

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Set the network, then call the module."""
        with unbroken():  # or another call would set it otherwise in between
            self._tune()
            return self._gate.run(*args, **kwargs)
