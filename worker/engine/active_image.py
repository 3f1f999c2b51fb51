"""A started image: its call, its place in the choice of batches, and its events.

Owns the bookkeeping around one call and the making of its events. Knows no other image.
Invariant: reported numbers are read from the call, never counted twice.
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

PROGRESS_EVERY_S = 0.25  # four times a second is enough for a person


class Live:
    """One image under way: its call, its model, and the model call that it is parked at."""

    def __init__(self, model: Model, call: ImageCall, capacity: Capacity, since_s: float) -> None:
        self.model = model
        self.call = call
        self.capacity = capacity
        self.verdict = capacity.verdict
        self.device = model.pipeline.device
        self.packed: Packed | None = None  # its model call, split into leaves; None at other gates
        self.place: Hashable = None  # calls of one place may run together
        self._unforeseen = False  # it made a call of a form that no self-test covered
        self._remaining_s = 0.0  # in full batches, at the last model call
        self._since_s = since_s  # when it was submitted
        self._progress_s = 0.0  # when progress was last reported
        self._preview_s = -math.inf  # when a preview was last reported

    @property
    def id(self) -> str:
        """The request's ID."""
        return self.call.request.id

    @property
    def kind(self) -> Kind:
        """Kind of the gate that the image is parked at."""
        parked = self.call.parked
        assert parked is not None, "a live call is parked between ticks"
        return parked.gate.kind

    @property
    def rows(self) -> int:
        """Number of rows of the model call that the image is parked at."""
        return self.packed.rows if self.packed else 0

    @property
    def rows_ms(self) -> float:
        """Milliseconds of its next model call, in a full batch."""
        return self.rows * self.capacity.row_ms

    def level(self, now_s: float) -> float:
        """Return the image's priority, raised by age."""
        return level(self.call.request, now_s - self._since_s)

    def urgency(self, now_s: float) -> tuple[float, float]:
        """Return a sort key; the smallest is the most urgent."""
        waited_s = now_s - self._since_s
        return urgency(self.call.request, remaining_s=self._remaining_s, waited_s=waited_s)

    def take_apart(self) -> None:
        """Read the model call that the image is parked at, if that call can be batched."""
        parked, last, self.packed = self.call.parked, self.packed, None
        if parked is not None and parked.gate.kind is Kind.ROWS:
            self.packed = take_apart(parked, self.model.profile, self.call.memo, last)
            calls_left = max(1, self.call.expected_calls - self.call.calls)
            self._remaining_s = calls_left * self.rows_ms / 1000
            if last is None or self.packed.signature is not last.signature:
                self._take_place(self.packed)

    def _take_place(self, packed: Packed) -> None:
        """Set the place, which does not depend on steps, seed, sampler, guidance or prompt."""
        # Two kinds may share a signature and not their lanes: one has calls of other forms.
        shared = packed.signature, self.call.request.exact, self.verdict.lanes.widths
        self.place = shared if self.capacity.packs else self.id
        self._unforeseen |= packed.form.pattern not in self.verdict.patterns

    def progress(self, now_s: float) -> Progress | None:
        """Return progress, at a new stage or every 0.25 s; else None."""
        call = self.call
        if not call.enter_stage(now_s) and now_s - self._progress_s < PROGRESS_EVERY_S:
            return None
        self._progress_s = now_s
        done = min(1.0, call.calls / call.expected_calls)
        return Progress(
            id=self.id,
            calls=call.calls,
            expected_calls=call.expected_calls,
            steps=int(done * call.request.steps),
            stage=call.stage,
        )

    def preview(self, now_s: float) -> Preview | None:
        """Return a preview, if the request wants previews and the next one is due; else None."""
        call = self.call
        if call.preview is None or call.request.preview_every_s is None:
            return None
        pixels = call.preview.take()
        if pixels is None:
            call.preview.due = now_s - self._preview_s >= call.request.preview_every_s
            return None
        self._preview_s = now_s
        return Preview(id=self.id, calls=call.calls, pixels=pixels)

    def ending(self, now_s: float) -> ImageEvent:
        """Return the image's last event: Finished, Failed or Canceled."""
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
        """The reproducibility of all its calls: `tolerance` if one was in no self-test."""
        found = self.verdict.reproducibility
        if self._unforeseen and found == "exact":
            log.warning("engine.unforeseen_call", extra={"model": self.model.entry.id})
            return "tolerance"
        return found


def failed(request_id: str, error: EngineError) -> Failed:
    """Return the event of an image that cannot be made."""
    return Failed(id=request_id, code=error.code, message=str(error), retryable=error.retryable)
