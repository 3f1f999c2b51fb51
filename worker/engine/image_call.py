"""One image: a pipeline call of its own, in a greenlet that parks at every model call.

Owns the greenlet, what it waits for and how it ended. Knows no batch and no other image.
Invariant: whatever happens inside, control comes back to the engine with the call either
parked at a gate or ended; an ended call has an image or an error, never both.
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
    """The mutable state of one image while its pipeline call runs."""

    def __init__(
        self, request: ImageRequest, make: MakePicture, *, expected_calls: int, beside: str = ""
    ) -> None:
        self.request = request
        self.expected_calls = expected_calls
        self.preview: Preview | None = None
        self.beside = beside  # fingerprint words for networks besides the model's own
        self.tuned: Mapping[Gate, Gate] = {}  # gates of its adapters, at its scales
        self.parked: ModelCall | None = None
        self.pixels: Pixels | None = None
        self.error: BaseException | None = None
        self.calls = 0  # model calls that were answered
        self.batch_size_sum = 0  # of those calls: images that shared each
        self.stage: Stage = "encoding"
        self.stage_since_s: dict[Stage, float] = {}
        self.memo: dict[int, tuple[torch.Tensor, int, bytes]] = {}  # content of shared arguments
        self._nan_check: FiniteCheck | None = None  # of the latents of an earlier call
        self._make = make
        self._greenlet = CallGreenlet(self._run)
        self._greenlet.image_call = self

    @property
    def ended(self) -> bool:
        """True once there is an image or an error."""
        return self._greenlet.dead

    # Every way into the greenlet is under no_grad: a pipeline switches gradients off for its
    # thread, and parked or dropped it leaves the thread as it found it. That must be "off" inside
    # and the caller's own outside. `answer` requires it of its caller: 4 us at every step.

    @torch.no_grad()
    def start(self, now_s: float) -> None:
        """Run the pipeline call up to its first gate."""
        self.stage_since_s[self.stage] = now_s
        self._greenlet.switch()

    def answer(self, result: Any, *, batch_size: int) -> None:
        """Give the parked call its result and run up to the next gate; call under no_grad.

        `batch_size`: images that shared the model call.
        """
        assert not torch.is_grad_enabled(), "answer a call under no_grad, as a tick does"
        if self.parked is not None and self.parked.gate.kind is Kind.ROWS:
            self.calls += 1
            self.batch_size_sum += batch_size
        self.parked = None
        self._greenlet.switch(result)

    @torch.no_grad()
    def throw(self, error: BaseException) -> None:
        """Raise `error` inside the parked call, so that its `finally` blocks run."""
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
        """Park the greenlet at a gate, which calls this, and return the engine's answer."""
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
        """Record the start of the current stage; return True the first time."""
        if self.stage in self.stage_since_s:
            return False
        self.stage_since_s[self.stage] = now_s
        return True

    def stage_ms(self, stage: Stage, now_s: float) -> float:
        """Return the milliseconds a stage took, or has taken so far; 0 if never entered."""
        since_s = self.stage_since_s.get(stage)
        if since_s is None:
            return 0.0
        later = [s for s in self.stage_since_s.values() if s > since_s]
        return (min(later, default=now_s) - since_s) * 1000

    def looks_dead(self) -> bool:
        """Return whether the arguments at the gate hold NaN or infinity; checked every 8th call."""
        if self.parked is None:
            return False
        waiting = next(iter(self.parked.arguments.values()), None)
        if self.parked.gate.kind is Kind.DECODE:
            return not all_finite(waiting)
        if self.calls % NAN_CHECK_EVERY == 1:
            self._nan_check = FiniteCheck(waiting)
        if self._nan_check is None or not self._nan_check.answered:
            return False
        failed, self._nan_check = self._nan_check.failed, None
        return failed

    def _run(self) -> None:
        try:
            self.pixels = to_pixels(self._make_checked())
        except Dropped as error:
            self.error = error
        except torch.AcceleratorError:
            raise  # the device itself is broken: out through the engine, and the process ends
        except Exception as error:  # noqa: BLE001 - the fence around one image
            self.error = as_engine_error(error)

    def _make_checked(self) -> np.ndarray:
        """Run the pipeline; raise Unservable if it rounded the size, as some pipelines do."""
        picture, request = self._make(), self.request
        height, width = picture.shape[:2]
        if (width, height) != (request.width, request.height):
            raise Unservable(
                f"the pipeline made {width}x{height} instead of the requested "
                f"{request.width}x{request.height}: ask for a size that this model makes"
            )
        return picture


def as_engine_error(error: Exception) -> EngineError:
    """Convert whatever a pipeline or a model raised to an EngineError."""
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
    """Convert (H, W, 3) floats from 0 to 1 to 8 bits, as diffusers' `numpy_to_pil` rounds.

    Raises NanOutput, DegenerateOutput.
    """
    if not math.isfinite(float(picture.sum())):
        raise NanOutput("the decoded image holds NaN or infinity")
    data = (picture * 255).round().astype("uint8")
    if (data == data[0, 0]).all():
        raise DegenerateOutput("the decoded image is one flat colour")
    height, width = data.shape[:2]
    return Pixels(width=width, height=height, data=np.ascontiguousarray(data).tobytes())
