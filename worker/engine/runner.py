"""Run the parked calls of one group; every call gets a result or an error of its own.

Owns the handling of failed model calls: finding the image that caused the failure, and what a
full device means. Knows no waiting line. Invariant: what one image's rows do to a model call never
costs another image more than time.
"""

from __future__ import annotations

import logging
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from worker.engine.active_image import Live
from worker.engine.collate import Joiner, batch_sizes
from worker.engine.device_timer import Laps
from worker.engine.gates import Kind, ModelCall
from worker.engine.image_call import as_engine_error
from worker.engine.memory import measured, ran_out, release
from worker.engine.prompt_cache import PromptCache

log = logging.getLogger(__name__)

REMEMBERED = 31  # model calls in the median time


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a parked call: its result, or the error to raise in it."""

    live: Live
    result: Any
    batch_size: int = 1  # images that shared the call


class Runner:
    """Runner of model calls, one group at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._laps = Laps(clock)
        self._joiner = Joiner()
        self._prompts = PromptCache()
        self._took_ms: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def median_ms(self) -> float | None:
        """Median milliseconds of the last 31 model calls; None before the first."""
        return statistics.median(self._took_ms) if self._took_ms else None

    def run(self, group: Sequence[Live]) -> list[Answer]:
        """Run a group; return an answer per image that ran. An image without one stays parked."""
        self._laps.collect()
        if group[0].kind is Kind.ROWS:
            return self._run_rows(group)
        return [Answer(live, self._run_alone(live)) for live in group]

    def cached(self, call: ModelCall) -> Any:
        """Return the cached result of a text encoding, or None."""
        return self._prompts.find(call) if call.gate.kind is Kind.ENCODE else None

    def forget(self) -> None:
        """Release all tensors of past calls, before their model is unloaded."""
        self._laps.finish()
        self._joiner = Joiner()

    def _run_rows(self, group: Sequence[Live], *, last_try: bool = False) -> list[Answer]:
        calls = [live.packed for live in group if live.packed is not None]
        capacity, rows = group[0].capacity, sum(live.rows for live in group)
        widths = capacity.widths_for(rows, exact=group[0].call.request.exact)
        try:
            with self._laps.lap(group[0].device, partial(self._learn, group[0], widths, rows)):
                results = self._joiner.run(calls, widths)
        except torch.AcceleratorError:
            raise  # the device itself is broken: the process ends, the link hands all back
        except Exception as error:  # noqa: BLE001 - the fence around one model call
            return self._blame(group, widths, error, last_try=last_try)
        sizes = batch_sizes(calls, widths)
        return [Answer(*answer) for answer in zip(group, results, sizes, strict=True)]

    def _blame(
        self, group: Sequence[Live], widths: tuple[int, ...], error: Exception, *, last_try: bool
    ) -> list[Answer]:
        """Find the cause of a failed group: too many rows for the device, or one image's rows."""
        full = ran_out(error)
        log.warning(
            "engine.group_failed",
            extra={"images": len(group), "widths": widths, "full": full, "error": repr(error)},
        )
        if full:
            release(error)
            if self._smaller(group, widths):
                return []  # all stay parked, and the next turns are smaller
        if len(group) > 1 or (full and not last_try):
            # Each alone, in lanes as before: the others' bits do not know of it.
            return [a for live in group for a in self._run_rows([live], last_try=True)]
        return [Answer(group[0], as_engine_error(error))]

    def _smaller(self, group: Sequence[Live], widths: tuple[int, ...]) -> bool:
        """Lower the cap of that model and size; False: the next run would be the very same."""
        capacity, rows = group[0].capacity, sum(live.rows for live in group)
        if not capacity.shed(max(widths)):
            return False
        narrower = capacity.widths_for(rows, exact=group[0].call.request.exact) != widths
        return narrower or (len(group) > 1 and rows > capacity.cap_rows)

    def _learn(self, live: Live, widths: tuple[int, ...], rows: int, took_s: float) -> None:
        live.capacity.learn(widths, rows, took_s)
        self._took_ms.append(took_s * 1000)

    def _run_alone(self, live: Live) -> Any:
        """Run a text encoding or a decoding by itself: always exact, with the least memory."""
        parked = live.call.parked
        assert parked is not None
        # Cached by now, though not when it parked: the image before it had the same prompt.
        if (encoding := self.cached(parked)) is not None:
            return encoding
        result = self._try(live, parked)
        if isinstance(result, Exception) and ran_out(result):
            release(result)
            result = self._try(live, parked)
        if isinstance(result, Exception):
            return as_engine_error(result)
        if parked.gate.kind is Kind.ENCODE:
            self._prompts.keep(parked, result)
        return result

    def _try(self, live: Live, call: ModelCall) -> Any:
        try:
            if call.gate.kind is Kind.DECODE and live.capacity.decode_bytes is None:
                result, live.capacity.decode_bytes = measured(partial(_run, call), live.device)
                return result
            return _run(call)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - the fence around one model call
            return error


def _run(call: ModelCall) -> Any:
    return call.gate.run(**call.arguments)
