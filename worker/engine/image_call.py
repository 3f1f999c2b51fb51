"""One image: its own pipeline call, run in a greenlet that parks at every model call.

Owns the greenlet, what it waits for and how it ended. Knows no batch and no neighbour.
Invariant: whatever happens inside, control comes back to the engine with the call either
parked at a gate or ended; an ended call has a picture or an error, never both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from greenlet import GreenletExit, getcurrent

from worker.engine.errors import (
    DegenerateOutput,
    DeviceMemoryFull,
    Dropped,
    EngineError,
    NanOutput,
    PipelineFailed,
    Unservable,
)
from worker.engine.gates import CallGreenlet, Gate, Kind, ModelCall
from worker.engine.memory import ran_out, release
from worker.engine.nan_check import FiniteCheck, all_finite
from worker.engine.previews import Preview
from worker.engine.thread_state import as_switched, set_aside, switched
from worker.messages import ImageRequest, Pixels, Stage

# A check is one pass over the latents: 20 us on a CPU. Every 8th call finds a dead image early
# enough to save most of its work; on a GPU the answer comes a call or two later.
NAN_CHECK_EVERY = 8

STAGES: dict[Kind, Stage] = {
    Kind.ENCODE: "encoding",
    Kind.ROWS: "denoising",
    Kind.DECODE: "decoding",
}

# Runs the whole pipeline call; gives height x width x 3 floats, 0 to 1.
MakePicture = Callable[[], np.ndarray]


class ImageCall:
    """The one mutable thing of an image while it is being made."""

    def __init__(
        self, request: ImageRequest, make: MakePicture, *, expected_calls: int, beside: str = ""
    ) -> None:
        self.request = request
        self.expected_calls = expected_calls
        self.preview: Preview | None = None
        self.beside = beside  # what its fingerprint says of networks beside the model's own
        self.tuned: Mapping[Gate, Gate] = {}  # those of its adapters, set to its scales
        self.parked: ModelCall | None = None
        self.pixels: Pixels | None = None
        self.error: BaseException | None = None
        self.calls = 0  # model calls that were answered
        self.company = 0  # images that shared those calls, summed
        self.stage: Stage = "encoding"
        self.stage_since_s: dict[Stage, float] = {}
        self.memo: dict[int, tuple[torch.Tensor, int, bytes]] = {}  # content of shared arguments
        self._asked: FiniteCheck | None = None  # about the latents of a call before
        self._make = make
        self._greenlet = CallGreenlet(self._run)
        self._greenlet.image_call = self

    @property
    def ended(self) -> bool:
        """Whether there is a picture or an error."""
        return self._greenlet.dead

    # Every way into the greenlet is under no_grad: a pipeline switches gradients off for its
    # thread, and parked or dropped it leaves the thread as it found it. That must be "off" inside
    # and the caller's own outside. `answer` leaves it to who calls it: 4 us at every step.

    @torch.no_grad()
    def start(self, now_s: float) -> None:
        """Run up to the first gate."""
        self.stage_since_s[self.stage] = now_s
        self._greenlet.switch()

    def answer(self, result: Any, *, company: int) -> None:
        """Hand over what the parked call waits for, and run up to the next gate; under no_grad."""
        assert not torch.is_grad_enabled(), "answer a call under no_grad, as a tick does"
        if self.parked is not None and self.parked.gate.kind is Kind.ROWS:
            self.calls += 1
            self.company += company
        self.parked = None
        self._greenlet.switch(result)

    @torch.no_grad()
    def throw(self, error: BaseException) -> None:
        """Raise `error` inside the parked call; its `finally` blocks run."""
        self.parked = None
        if not self._greenlet.dead:
            self._greenlet.throw(error)
        if not self._greenlet.dead:  # it swallowed the error and went on to another gate
            self.parked = None
            self._greenlet.throw(GreenletExit)
            self.error = error
        elif self.error is None:
            self.error = error

    def park(self, call: ModelCall) -> Any:
        """Called by a gate, inside the greenlet: wait there for the engine's answer."""
        self.stage = STAGES[call.gate.kind]
        parent = getcurrent().parent
        assert parent is not None
        if not switched():
            self.parked = call
            return parent.switch()
        self.parked = as_switched(call)
        with set_aside():
            return parent.switch()

    def enter_stage(self, now_s: float) -> bool:
        """Note when a stage was first seen; True if this is it."""
        if self.stage in self.stage_since_s:
            return False
        self.stage_since_s[self.stage] = now_s
        return True

    def stage_ms(self, stage: Stage, now_s: float) -> float:
        """How long a stage took, or has taken by now; 0 if it was never entered."""
        since_s = self.stage_since_s.get(stage)
        if since_s is None:
            return 0.0
        later = [s for s in self.stage_since_s.values() if s > since_s]
        return (min(later, default=now_s) - since_s) * 1000

    def looks_dead(self) -> bool:
        """Whether the numbers that wait at a gate are NaN or infinite; looked at now and then."""
        if self.parked is None:
            return False
        waiting = next(iter(self.parked.arguments.values()), None)
        if self.parked.gate.kind is Kind.DECODE:
            return not all_finite(waiting)
        if self.calls % NAN_CHECK_EVERY == 1:
            self._asked = FiniteCheck(waiting)
        if self._asked is None or not self._asked.answered:
            return False
        failed, self._asked = self._asked.failed, None
        return failed

    def _run(self) -> None:
        try:
            self.pixels = to_pixels(self._make_as_asked())
        except Dropped as error:
            self.error = error
        except torch.AcceleratorError:
            raise  # the device itself is broken: out through the engine, and the process ends
        except Exception as error:  # noqa: BLE001 - the fence around one image
            self.error = as_engine_error(error)

    def _make_as_asked(self) -> np.ndarray:
        """Some pipelines round sizes: never in silence."""
        picture, request = self._make(), self.request
        height, width = picture.shape[:2]
        if (width, height) != (request.width, request.height):
            raise Unservable(
                f"the pipeline made {width}x{height} where {request.width}x{request.height} was "
                "asked for: ask for a size that it makes"
            )
        return picture


def as_engine_error(error: Exception) -> EngineError:
    """The error of our tree for whatever a pipeline or a model raised."""
    if isinstance(error, EngineError):
        return error
    if ran_out(error):
        release(error)
        return DeviceMemoryFull(
            "the device's memory is full even for this image alone: ask for a smaller size, keep "
            "fewer models resident, or use a device with more memory"
        )
    failed = PipelineFailed(f"{type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed


def to_pixels(picture: np.ndarray) -> Pixels:
    """Floats 0 to 1 to 8 bits, rounded just as diffusers' own `numpy_to_pil` does."""
    if not math.isfinite(float(picture.sum())):
        raise NanOutput("the decoded picture holds NaN or infinity")
    data = (picture * 255).round().astype("uint8")
    if (data == data[0, 0]).all():
        raise DegenerateOutput("the decoded picture is one flat colour")
    height, width = data.shape[:2]
    return Pixels(width=width, height=height, data=np.ascontiguousarray(data).tobytes())
