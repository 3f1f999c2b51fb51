"""Thread state (autocast, inference mode) of one pipeline, in a thread that all images share.

Owns the suspension of that state while a call is parked, and gates whose calls run under it.
Knows no batch. Invariant: the engine, and every other image, finds the thread in its
default state; calls under one setting share no batch with calls under another.

Why: autocast and inference mode belong to the thread. A pipeline that parks inside them would
leave them on for the other images: their convolutions would run in bfloat16.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from worker.engine.gates import Gate, ModelCall

Casts = tuple[tuple[str, torch.dtype], ...]  # of which type of device, to what
DEVICES = ("cpu", "cuda")


def casts() -> Casts:
    """Return where autocast is on in this thread."""
    on = [kind for kind in DEVICES if torch.is_autocast_enabled(kind)]
    return tuple((kind, torch.get_autocast_dtype(kind)) for kind in on)


def switched() -> bool:
    """Return whether a pipeline has switched this thread's state."""
    return torch.is_inference_mode_enabled() or any(map(torch.is_autocast_enabled, DEVICES))


@contextmanager
def set_aside() -> Generator[None]:
    """Suspend autocast, inference mode and gradients, while other images use the thread."""
    with ExitStack() as stack:
        for kind, _ in casts():
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.no_grad())
        yield


def as_switched(call: ModelCall) -> ModelCall:
    """Return the same call, at a gate that applies this thread's autocast, if that is on.

    Inference mode changes no number: what was made under it is joined like everything else.
    """
    found = casts()
    return ModelCall(Cast(call.gate, found), call.arguments) if found else call


class Cast(Gate):
    """A gate whose calls run under autocast."""

    def __init__(self, gate: Gate, under: Casts) -> None:
        self.owner = gate.owner
        self.kind = gate.kind
        self.number = f"{gate.number}@{under}"
        self._gate = gate
        self._under = under

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module under autocast, as the pipeline would."""
        with ExitStack() as stack:
            for kind, dtype in self._under:
                stack.enter_context(torch.autocast(kind, dtype))
            return self._gate.run(*args, **kwargs)
