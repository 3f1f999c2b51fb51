"""The engine: many images, each in its own unmodified pipeline call, stepped together.

Owns the loop that the project is about:

    every live image is a pipeline call parked at a model call (gates, call)
    a tick admits waiting images, picks the parked calls that may meet, runs them as one
    (turns, packing, lanes), and hands each its own rows: it runs on to its next model call

Knows no process, no file and no family. One thread, no locks. Invariant: whatever one image
does (raise, turn to NaN, be canceled), its neighbours get the bits they would get alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from worker.engine.admission import WaitingLine
from worker.engine.call import as_engine_error
from worker.engine.errors import DeadlinePassed, Dropped, EngineError, NanOutput, Unservable
from worker.engine.gates import Kind, ModelCall
from worker.engine.live import Live, failed
from worker.engine.model import Model
from worker.engine.packing import company, run_together
from worker.engine.prompts import PromptCache
from worker.engine.turns import lanes_of, next_group
from worker.messages import Canceled, ImageEvent, ImageRequest, Started

log = logging.getLogger(__name__)


class Engine:
    """Submit, cancel, tick. Every submitted image ends in one Finished, Failed or Canceled."""

    def __init__(
        self,
        models: Iterable[Model],
        *,
        max_live: int = 32,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = {model.entry.id: model for model in models}
        self._refused: dict[str, EngineError] = {}  # models that could not be loaded
        self._max_live = max_live
        self._clock = clock
        self._waiting = WaitingLine(self._work)
        self._live: dict[str, Live] = {}
        self._events: list[ImageEvent] = []
        self._prompts = PromptCache()
        self._pace_s = 0.01  # seconds a megapixel-row, learned as it goes
        self.step_ms: float | None = None  # of the last model call, for the watchdog

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing runs, nothing is left to report."""
        return not (self._waiting or self._live or self._events)

    @property
    def live(self) -> int:
        """Images under way."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Images submitted and not started."""
        return len(self._waiting)

    def busy(self, model_id: str) -> bool:
        """Whether images of that model wait or are under way."""
        return any(live.model.entry.id == model_id for live in self._live.values()) or any(
            request.model == model_id for request in self._waiting
        )

    def add_model(self, model: Model) -> None:
        """Serve this model from now on."""
        self._models[model.entry.id] = model

    def remove_model(self, model_id: str) -> None:
        """Serve it no more; only for one that is not `busy`."""
        self._models.pop(model_id, None)

    def refuse_model(self, model_id: str, error: EngineError) -> None:
        """Fail this model's requests with the reason why it cannot be loaded."""
        self._refused[model_id] = error

    def submit(self, request: ImageRequest) -> None:
        """Take an image in; it starts at one of the next ticks. Never raises."""
        if request.id in self._live or request.id in self._waiting:
            log.warning("engine.submitted_twice", extra={"image": request.id})
            return
        if request.model not in self._models:
            unknown = Unservable(f"model {request.model!r} is not loaded")
            self._events.append(failed(request.id, self._refused.get(request.model, unknown)))
            return
        self._waiting.add(request, self._clock())

    def cancel(self, request_id: str) -> None:
        """Drop an image wherever it is; unknown IDs are ignored."""
        if self._waiting.remove(request_id):
            self._events.append(Canceled(id=request_id, calls=0))
        elif request_id in self._live:
            self._throw(self._live[request_id], Dropped())

    def tick(self) -> list[ImageEvent]:
        """Admit, run one group of model calls, move its images on; what came of it."""
        with torch.no_grad():  # outermost: each pipeline's own no_grad then restores the same
            self._drop_late()
            self._admit()
            if group := self._whose_turn():
                self._step(group)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Drop everything, so that every pipeline call's `finally` blocks have run."""
        for request in list(self._waiting):
            self.cancel(request.id)
        for request_id in list(self._live):
            self.cancel(request_id)

    # --- who

    def _drop_late(self) -> None:
        now_s = self._clock()
        late = DeadlinePassed("its deadline passed before it was done")
        for request in self._waiting:
            if request.deadline_s is not None and request.deadline_s < now_s:
                self._waiting.remove(request.id)
                self._events.append(failed(request.id, late))
        for live in list(self._live.values()):
            deadline_s = live.call.request.deadline_s
            if deadline_s is not None and deadline_s < now_s:
                self._throw(live, late)

    def _admit(self) -> None:
        while self._waiting and len(self._live) < self._max_live:
            now_s = self._clock()
            request, since_s = self._waiting.take(now_s, self._pace_s)
            self._start(request, since_s, now_s)

    def _start(self, request: ImageRequest, since_s: float, now_s: float) -> None:
        model = self._models[request.model]
        try:
            call = model.call_for(request)
            verdict = model.verdict_for(request)
        except EngineError as error:
            self._events.append(failed(request.id, error))
            return
        self._events.append(Started(id=request.id))
        live = self._live[request.id] = Live(model, call, verdict, since_s)
        call.start(now_s)
        self._settle(live)

    def _whose_turn(self) -> list[Live]:
        lives, now_s = list(self._live.values()), self._clock()
        return next_group(lives, work=self._work, pace_s=self._pace_s, now_s=now_s)

    # --- what

    def _step(self, group: list[Live]) -> None:
        """Run one group and let each of its images go on."""
        started_s = self._clock()
        if group[0].kind is Kind.ROWS:
            answers = self._run_rows(group)
            self._learn(group, self._clock() - started_s)
        else:
            answers = [(live, self._run_alone(live), 1) for live in group]
        for live, result, met in answers:
            if isinstance(result, BaseException):
                live.call.throw(result)
            else:
                live.call.answer(result, company=met)
            self._settle(live)

    def _run_rows(self, group: list[Live]) -> list[tuple[Live, Any, int]]:
        calls = [live.packed for live in group if live.packed is not None]
        widths = lanes_of(group)
        try:
            results = run_together(calls, widths)
        except torch.AcceleratorError:
            raise  # the device itself is broken: the process ends, the link hands all back
        except Exception as error:  # noqa: BLE001 - the fence around one model call
            if len(group) == 1:
                return [(group[0], as_engine_error(error), 1)]
            # Somebody's rows did this. Each alone, in lanes as before, finds out whose.
            log.warning("engine.group_failed", extra={"images": len(group), "error": repr(error)})
            return [answer for live in group for answer in self._run_rows([live])]
        return list(zip(group, results, company(calls, widths), strict=True))

    def _run_alone(self, live: Live) -> Any:
        """A text encoding or a decoding: one at a time, exact in any company and least memory."""
        parked = live.call.parked
        assert parked is not None
        # Found now, though not when it parked: the image before it had the same prompt.
        if (known := self._known(parked)) is not None:
            return known
        try:
            result = parked.gate.run(**parked.arguments)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - the fence around one model call
            return as_engine_error(error)
        if parked.gate.kind is Kind.ENCODE:
            self._prompts.keep(parked, result)
        return result

    def _known(self, call: ModelCall) -> Any:
        """The result of a text encoding that was made before, or None."""
        return self._prompts.find(call) if call.gate.kind is Kind.ENCODE else None

    def _settle(self, live: Live) -> None:
        """After an image ran on: it is parked again, or it ended."""
        call = live.call
        while call.parked and (known := self._known(call.parked)) is not None:
            call.answer(known, company=1)
        if not call.ended and call.looks_dead():
            call.throw(NanOutput(f"NaN or infinity in the latents after {call.calls} model calls"))
        if call.ended:
            self._retire(live)
            return
        live.take_apart()
        if (progress := live.progress(self._clock())) is not None:
            self._events.append(progress)

    def _throw(self, live: Live, error: BaseException) -> None:
        live.call.throw(error)
        self._retire(live)

    def _retire(self, live: Live) -> None:
        del self._live[live.id]
        self._events.append(live.ending(self._clock()))

    # --- learning

    def _work(self, request: ImageRequest) -> float:
        """Megapixel-rows of all model calls of one image."""
        profile = self._models[request.model].profile
        calls = request.steps * profile.calls_per_step(request) * profile.rows(request)
        return calls * request.width * request.height / 1e6

    def _learn(self, group: Sequence[Live], took_s: float) -> None:
        request = group[0].call.request
        rows = sum(live.rows for live in group)
        pace_s = took_s / (rows * request.width * request.height / 1e6)
        self._pace_s += 0.1 * (pace_s - self._pace_s)
        took_ms = took_s * 1000
        self.step_ms = took_ms if self.step_ms is None else 0.9 * self.step_ms + 0.1 * took_ms
