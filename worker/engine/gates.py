"""Gates: where a pipeline call stops and the engine takes over.

Owns the replacement of a module's `forward` (or a VAE's `decode`) by a gate, the greenlet that
parks there, and gates of calls that want their network set one way (`Tuned`). Knows no batch and
no model family. Invariant: a call that is not ours (a plain `pipeline(...)` in the same process)
passes every gate as if it were not there.
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
    """What is behind a gate; `ROWS` may meet other images, the rest run one at a time."""

    ENCODE = "encode"
    ROWS = "rows"
    DECODE = "decode"


class Parker(Protocol):
    """One image's call as its gates see it."""

    tuned: Mapping[Gate, Gate]  # which gates stand for others in this call

    def park(self, call: ModelCall) -> Any: ...


class CallGreenlet(greenlet):
    """The greenlet of one image's pipeline call; `image_call` is how a gate finds it."""

    image_call: Parker | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ModelCall:
    """One call that a pipeline wants made; it waits until the engine has the result."""

    gate: Gate
    arguments: dict[str, Any]  # by name, in order, without those that the pipeline left out


class Gate:
    """Stands in for one method of one module."""

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
        """Take the method's place, on this one module."""
        # Through __dict__: nn.Module's own __setattr__ is for parameters and submodules.
        self.owner.__dict__[self._method] = self

    def close(self) -> None:
        """Give the method back."""
        self.owner.__dict__.pop(self._method, None)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module itself; in a self-test, others go on first."""
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
    """A gate whose calls want its network set one way: they meet no calls of another setting."""

    def __init__(self, gate: Gate, setting: str, tune: Callable[[], None]) -> None:
        """`tune` sets the network; `setting`: the same words for the same setting."""
        self.owner = gate.owner
        self.kind = gate.kind
        self.number = f"{gate.number}@{setting}"
        self._gate = gate
        self._tune = tune

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module, set so."""
        with unbroken():  # or another call would set it otherwise in between
            self._tune()
            return self._gate.run(*args, **kwargs)
