"""The engine: step many images together, each in its own unmodified pipeline call.

Owns the engine's main loop:

    every live image is a pipeline call parked at a model call (gates, image_call)
    a tick admits waiting images (admission), picks parked calls that may share a batch
    (group_choice), runs them as one (runner, signatures, lane_widths), and hands each call its own
    rows: that call runs on to its next model call. Or the tick does one piece of what a new
    image needs before it can start (preparation)

Knows no process, no file and no family. One thread, no locks. Invariant: whatever one image
does (raise, turn to NaN, be canceled), the others get the bits that they would get alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import torch

from worker.engine.active_image import Live, failed
from worker.engine.admission import WaitingLine
from worker.engine.capacity import Capacities
from worker.engine.errors import DeadlinePassed, Dropped, EngineError, NanOutput, Unservable
from worker.engine.group_choice import Turns
from worker.engine.image_call import as_engine_error
from worker.engine.model import Model
from worker.engine.preparation import Preparation, Preparing, may_start
from worker.engine.runner import Runner
from worker.messages import Canceled, ImageEvent, ImageRequest, Started

log = logging.getLogger(__name__)


class Engine:
    """Submit, cancel and step images; each ends in one Finished, Failed or Canceled event."""

    def __init__(
        self,
        models: Iterable[Model],
        *,
        max_live: int = 32,
        room: Callable[[], int | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an engine for `models` that runs at most `max_live` images at once.

        `room`: bytes of memory that are left beside the weights of all models; None: no limit.
        """
        self._models = {model.entry.id: model for model in models}
        self._refused: dict[str, EngineError] = {}  # models that could not be loaded
        self._max_live = max_live
        self._room = room
        self._clock = clock
        self._waiting = WaitingLine(self._work_s)
        self._live: dict[str, Live] = {}
        self._events: list[ImageEvent] = []
        self._capacities = Capacities()
        self._preparing = Preparing()
        self._turns = Turns()
        self._runner = Runner(clock)

    @property
    def idle(self) -> bool:
        """True if nothing waits, nothing runs and nothing is left to report."""
        return not (self._waiting or self._live or self._events or self.preparing)

    @property
    def preparing(self) -> str | None:
        """ID of the model for which a new size or adapter is being loaded or tested, if any."""
        current = self._preparing.current
        return current and current.model.entry.id

    @property
    def live(self) -> int:
        """Number of images under way."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Number of images submitted and not started."""
        current = self._preparing.current
        return len(self._waiting) + bool(current and current.wanted)

    @property
    def step_ms(self) -> float | None:
        """Milliseconds to expect of a model call now; the watchdog waits for the slowest size."""
        median_ms = self._runner.median_ms
        expected = [live.capacity.slowest_ms for live in self._live.values()]
        return max([median_ms or 0.0, *expected]) or None

    def busy(self, model_id: str) -> bool:
        """Return whether images of that model wait or are under way."""
        return (
            self.preparing == model_id
            or any(live.model.entry.id == model_id for live in self._live.values())
            or any(request.model == model_id for request in self._waiting)
        )

    def add_model(self, model: Model) -> None:
        """Serve this model from now on."""
        self._models[model.entry.id] = model
        self._refused.pop(model.entry.id, None)

    def remove_model(self, model_id: str) -> None:
        """Stop serving a model; call this only for a model that is not `busy`."""
        self._models.pop(model_id, None)
        self._capacities.forget(model_id)
        self._runner.forget()

    def refuse_model(self, model_id: str, error: EngineError) -> None:
        """Fail this model's requests with the reason why the model cannot be loaded."""
        self._refused[model_id] = error

    def submit(self, request: ImageRequest) -> None:
        """Add an image to the waiting line, to start at one of the next ticks. Never raises."""
        prepared = self._prepared(request.id)
        if request.id in self._live or request.id in self._waiting or prepared:
            log.warning("engine.submitted_twice", extra={"image": request.id})
            return
        if request.model not in self._models:
            unknown = Unservable(
                f"model {request.model!r} is not loaded: choose a model that this worker serves"
            )
            self._events.append(failed(request.id, self._refused.get(request.model, unknown)))
            return
        self._waiting.add(request, self._clock())

    def cancel(self, request_id: str) -> None:
        """Cancel an image, waiting or running; unknown IDs are ignored."""
        if self._waiting.remove(request_id):
            self._events.append(Canceled(id=request_id, calls=0))
        elif preparation := self._prepared(request_id):
            preparation.wanted = False
            self._events.append(Canceled(id=request_id, calls=0))
        elif request_id in self._live:
            self._throw(self._live[request_id], Dropped())

    def tick(self) -> list[ImageEvent]:
        """Admit images, run one group of model calls or one preparation piece; return events."""
        with torch.no_grad():  # outermost: each pipeline's own no_grad then restores the same
            self._drop_late()
            self._admit()
            if preparation := self._preparing.its_turn(others=bool(self._live)):
                self._prepare(preparation)
            elif group := self._turns.next_group(list(self._live.values()), self._clock()):
                self._step(group)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Cancel everything, so that every pipeline call's `finally` blocks have run."""
        for request in list(self._waiting):
            self.cancel(request.id)
        for request_id in list(self._live):
            self.cancel(request_id)
        if (preparation := self._preparing.current) is not None:
            self.cancel(preparation.request.id)
            self._preparing.end()
            preparation.drop()

    # --- admission and deadlines

    def _drop_late(self) -> None:
        now_s = self._clock()
        late = DeadlinePassed("the deadline passed before this image was done: set a later one")
        for request in self._waiting:
            if _over(request, now_s):
                self._waiting.remove(request.id)
                self._events.append(failed(request.id, late))
        current = self._preparing.current
        if current is not None and current.wanted and _over(current.request, now_s):
            current.wanted = False
            self._events.append(failed(current.request.id, late))
        for live in [live for live in self._live.values() if _over(live.call.request, now_s)]:
            self._throw(live, late)

    def _admit(self) -> None:
        may, busy = self._may_start(), self._preparing.current is not None
        while self._waiting and len(self._live) + busy < self._max_live:
            now_s = self._clock()
            if (taken := self._waiting.take(now_s, may)) is None:
                return
            request, since_s = taken
            if busy or self._ready(request):
                self._start(request, since_s, now_s)
            else:
                self._preparing.begin(Preparation(self._models[request.model], request, since_s))
                may, busy = self._may_start(), True

    def _may_start(self) -> Callable[[ImageRequest], bool]:
        free = self._preparing.current is None
        return may_start(self._ready, free=free)

    def _ready(self, request: ImageRequest) -> bool:
        try:
            return self._models[request.model].prepared(request)
        except EngineError:
            return True  # the error is reported when the image starts

    def _prepared(self, request_id: str) -> Preparation | None:
        """Return the current preparation, if that image wants it."""
        current = self._preparing.current
        return current if current and current.wanted and current.request.id == request_id else None

    def _prepare(self, preparation: Preparation) -> None:
        """Do one piece of a preparation; after the last piece its image starts."""
        request, started_s = preparation.request, self._clock()
        try:
            unfinished = preparation.step()
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - the fence around one image
            self._preparing.end()
            if preparation.wanted:
                self._events.append(failed(request.id, as_engine_error(error)))
            return
        now_s = self._clock()
        self._waiting.charge(request.key, now_s - started_s)  # charged to the key that asked for it
        if not unfinished:
            self._preparing.end()
            if preparation.wanted:
                self._start(request, preparation.since_s, now_s)

    def _start(self, request: ImageRequest, since_s: float, now_s: float) -> None:
        model = self._models[request.model]
        try:
            call = model.call_for(request)
            capacity = self._capacities.of(request, model.verdict_for(request))
            capacity.fit(self._room())
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - the fence around one image
            self._events.append(failed(request.id, as_engine_error(error)))
            return
        self._events.append(Started(id=request.id))
        live = self._live[request.id] = Live(model, call, capacity, since_s)
        call.start(now_s)
        self._settle(live)

    # --- running

    def _step(self, group: Sequence[Live]) -> None:
        """Run one group of model calls, then run each of its images up to its next call."""
        for answer in self._runner.run(group):
            call = answer.live.call
            if isinstance(answer.result, BaseException):
                call.throw(answer.result)
            else:
                call.answer(answer.result, batch_size=answer.batch_size)
            self._settle(answer.live)

    def _settle(self, live: Live) -> None:
        """Retire an image that ended, or read the model call that an image is parked at."""
        call = live.call
        while call.parked and (encoding := self._runner.cached(call.parked)) is not None:
            call.answer(encoding, batch_size=1)
        if not call.ended and call.looks_dead():
            call.throw(NanOutput(f"NaN or infinity in the latents after {call.calls} model calls"))
        if call.ended:
            self._retire(live)
            return
        live.take_apart()
        if (progress := live.progress(self._clock())) is not None:
            self._events.append(progress)
        if (preview := live.preview(self._clock())) is not None:
            self._events.append(preview)

    def _throw(self, live: Live, error: BaseException) -> None:
        live.call.throw(error)
        self._retire(live)

    def _retire(self, live: Live) -> None:
        del self._live[live.id]
        self._events.append(live.ending(self._clock()))

    def _work_s(self, request: ImageRequest) -> float:
        """Return the device seconds of all model calls of one image, when run in full batches."""
        profile = self._models[request.model].profile
        calls = request.steps * profile.calls_per_step(request) * profile.rows(request)
        return calls * self._capacities.row_ms(request) / 1000


def _over(request: ImageRequest, now_s: float) -> bool:
    return request.deadline_s is not None and request.deadline_s < now_s
