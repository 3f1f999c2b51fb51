"""What a pipeline has switched on around its model call, in a thread that all images share.

Owns the setting aside of it while a call is parked, and gates whose calls run under it. Knows no
batch. Invariant: the engine, and every other image, finds the thread as if nobody had switched
anything; calls under one setting meet no calls under another.

Why: autocast and inference mode belong to the thread. A pipeline that parks inside them would
leave them to its neighbours: their convolutions would run in bfloat16.
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
    """Tell whether this thread is other than it was found."""
    return torch.is_inference_mode_enabled() or any(map(torch.is_autocast_enabled, DEVICES))


@contextmanager
def set_aside() -> Generator[None]:
    """While others have the thread: neither autocast nor inference mode nor gradients."""
    with ExitStack() as stack:
        for kind, _ in casts():
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.no_grad())
        yield


def as_switched(call: ModelCall) -> ModelCall:
    """Return the same call, at a gate of those that run under this thread's autocast, if it is on.

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
        """Call the module as the pipeline would have."""
        with ExitStack() as stack:
            for kind, dtype in self._under:
                stack.enter_context(torch.autocast(kind, dtype))
            return self._gate.run(*args, **kwargs)
