"""Runs the parked calls of one group, fenced: every call gets a result or an error of its own.

Owns what happens when a model call goes wrong: finding out whose fault it was, and what a full
device means. Knows no waiting line. Invariant: what one image's rows do to a model call never
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
from worker.engine.collate import Joiner, company
from worker.engine.device_timer import Laps
from worker.engine.gates import Kind, ModelCall
from worker.engine.image_call import as_engine_error
from worker.engine.memory import measured, ran_out, release
from worker.engine.prompt_cache import PromptCache

log = logging.getLogger(__name__)

REMEMBERED = 31  # model calls whose median is what a call takes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a parked call gets: its result, or the error to raise in it."""

    live: Live
    result: Any
    company: int = 1  # images that shared the call


class Runner:
    """Model calls, one group at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._laps = Laps(clock)
        self._joiner = Joiner()
        self._prompts = PromptCache()
        self._took_ms: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def median_ms(self) -> float | None:
        """Of the last model calls; None before the first."""
        return statistics.median(self._took_ms) if self._took_ms else None

    def run(self, group: Sequence[Live]) -> list[Answer]:
        """Answers for those of the group that were run; who is left out stays parked."""
        self._laps.collect()
        if group[0].kind is Kind.ROWS:
            return self._run_rows(group)
        return [Answer(live, self._run_alone(live)) for live in group]

    def known(self, call: ModelCall) -> Any:
        """The result of a text encoding that was made before, or None."""
        return self._prompts.find(call) if call.gate.kind is Kind.ENCODE else None

    def forget(self) -> None:
        """Let go of all that calls were made of: their model leaves."""
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
        met = company(calls, widths)
        return [Answer(*answer) for answer in zip(group, results, met, strict=True)]

    def _blame(
        self, group: Sequence[Live], widths: tuple[int, ...], error: Exception, *, last_try: bool
    ) -> list[Answer]:
        """Whose fault was it? The device's, for so many rows, or that of somebody's rows?"""
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
        """Lower the cap of that model and size; False: these images would be run just so again."""
        capacity, rows = group[0].capacity, sum(live.rows for live in group)
        if not capacity.shed(max(widths)):
            return False
        narrower = capacity.widths_for(rows, exact=group[0].call.request.exact) != widths
        return narrower or (len(group) > 1 and rows > capacity.cap_rows)

    def _learn(self, live: Live, widths: tuple[int, ...], rows: int, took_s: float) -> None:
        live.capacity.learn(widths, rows, took_s)
        self._took_ms.append(took_s * 1000)

    def _run_alone(self, live: Live) -> Any:
        """A text encoding or a decoding: one at a time, exact in any company and least memory."""
        parked = live.call.parked
        assert parked is not None
        # Found now, though not when it parked: the image before it had the same prompt.
        if (known := self.known(parked)) is not None:
            return known
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
