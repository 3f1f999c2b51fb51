"""A started image as the engine sees it, and what it tells about it.

Owns the bookkeeping around one call and the making of its events. Knows no neighbour.
Invariant: what is reported is read from the call, never counted twice.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable

from worker.engine.admission import level, urgency
from worker.engine.capacity import Capacity
from worker.engine.errors import EngineError
from worker.engine.gates import Kind
from worker.engine.image_call import ImageCall
from worker.engine.model import Model
from worker.engine.signatures import Packed, take_apart
from worker.messages import (
    Canceled,
    Failed,
    Finished,
    ImageEvent,
    Preview,
    Progress,
    Reproducibility,
)

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.25  # four times a second is all that a person sees


class Live:
    """One image under way: its call, its model, and what it is parked at."""

    def __init__(self, model: Model, call: ImageCall, capacity: Capacity, since_s: float) -> None:
        self.model = model
        self.call = call
        self.capacity = capacity
        self.verdict = capacity.verdict
        self.device = model.pipeline.device
        self.packed: Packed | None = None  # its model call, taken apart; None at other gates
        self.place: Hashable = None  # calls of one place may run together
        self._unforeseen = False  # a call of it was of a form that no self-test tried
        self._remaining_s = 0.0  # in good company, when it was last looked at
        self._since_s = since_s  # when it was submitted
        self._told_s = 0.0  # when progress was last reported
        self._shown_s = -math.inf  # when a preview was

    @property
    def id(self) -> str:
        """The request's."""
        return self.call.request.id

    @property
    def kind(self) -> Kind:
        """Of the gate it is parked at."""
        parked = self.call.parked
        assert parked is not None, "a live call is parked between ticks"
        return parked.gate.kind

    @property
    def rows(self) -> int:
        """Of the model call it is parked at."""
        return self.packed.rows if self.packed else 0

    @property
    def rows_ms(self) -> float:
        """What its next model call takes, in good company."""
        return self.rows * self.capacity.row_ms

    def level(self, now_s: float) -> float:
        """Its priority, raised by age."""
        return level(self.call.request, now_s - self._since_s)

    def urgency(self, now_s: float) -> tuple[float, float]:
        """Sorts ascending: the smallest is the most urgent."""
        waited_s = now_s - self._since_s
        return urgency(self.call.request, remaining_s=self._remaining_s, waited_s=waited_s)

    def take_apart(self) -> None:
        """Read the model call it is parked at, if other images can meet it there."""
        parked, last, self.packed = self.call.parked, self.packed, None
        if parked is not None and parked.gate.kind is Kind.ROWS:
            self.packed = take_apart(parked, self.model.profile, self.call.memo, last)
            calls_left = max(1, self.call.expected_calls - self.call.calls)
            self._remaining_s = calls_left * self.rows_ms / 1000
            if last is None or self.packed.signature is not last.signature:
                self._take_place(self.packed)

    def _take_place(self, packed: Packed) -> None:
        """Of steps, seed, sampler, guidance and prompt a place holds nothing."""
        # Two kinds may share a signature and not their lanes: one has calls of other forms.
        shared = packed.signature, self.call.request.exact, self.verdict.lanes.widths
        self.place = shared if self.capacity.packs else self.id
        self._unforeseen |= packed.form.pattern not in self.verdict.patterns

    def progress(self, now_s: float) -> Progress | None:
        """Where it is, if that is worth telling again."""
        call = self.call
        if not call.enter_stage(now_s) and now_s - self._told_s < PROGRESS_EVERY_S:
            return None
        self._told_s = now_s
        done = min(1.0, call.calls / call.expected_calls)
        return Progress(
            id=self.id,
            calls=call.calls,
            expected_calls=call.expected_calls,
            steps=int(done * call.request.steps),
            stage=call.stage,
        )

    def preview(self, now_s: float) -> Preview | None:
        """What it looks like by now, if somebody asked to see it and it is time."""
        call = self.call
        if call.preview is None or call.request.preview_every_s is None:
            return None
        pixels = call.preview.take()
        if pixels is None:
            call.preview.due = now_s - self._shown_s >= call.request.preview_every_s
            return None
        self._shown_s = now_s
        return Preview(id=self.id, calls=call.calls, pixels=pixels)

    def ending(self, now_s: float) -> ImageEvent:
        """How it ended."""
        call = self.call
        if call.pixels is not None:
            return self._finished(now_s)
        if isinstance(call.error, EngineError):
            return failed(self.id, call.error)
        return Canceled(id=self.id, calls=call.calls)

    def _finished(self, now_s: float) -> Finished:
        call, verdict = self.call, self.verdict
        assert call.pixels is not None
        return Finished(
            id=self.id,
            pixels=call.pixels,
            encode_ms=call.stage_ms("encoding", now_s),
            denoise_ms=call.stage_ms("denoising", now_s),
            decode_ms=call.stage_ms("decoding", now_s),
            batch_size_mean=call.batch_size_sum / max(1, call.calls),
            calls=call.calls,
            fingerprint=self.model.fingerprint_for(call, verdict),
            reproducibility=self._earned if call.request.exact else "free",
        )

    @property
    def _earned(self) -> Reproducibility:
        """The class that holds for all of its calls, tried by a self-test or not."""
        found = self.verdict.reproducibility
        if self._unforeseen and found == "exact":
            log.warning("engine.unforeseen_call", extra={"model": self.model.entry.id})
            return "tolerance"
        return found


def failed(request_id: str, error: EngineError) -> Failed:
    """The event of an image that cannot be made."""
    return Failed(id=request_id, code=error.code, message=str(error), retryable=error.retryable)
