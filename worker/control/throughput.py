"""Throughput of this worker by model, from which the ETA of queued jobs is computed.

Owns a moving average per model. Pure arithmetic; time is an argument. Invariant: only busy time
counts, so that an idle hour does not make a worker slow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from jobs.contract.reports import ModelPace
from worker.control.held_job import HeldJob
from worker.messages import Ready

NEW_SHARE = 0.3  # of the latest interval in the average: settles in about ten beats


class Throughput:
    """Moving averages of megapixel-rows per second, by model."""

    def __init__(self) -> None:
        self._per_s: dict[str, float] = {}
        self._done: defaultdict[str, float] = defaultdict(float)
        self._since_s: dict[str, float] = {}

    def did(self, model: str, cost: float) -> None:
        """Add work just done; `cost` in megapixel-rows."""
        self._done[model] += cost

    def tick(self, now_s: float, busy: Collection[str]) -> None:
        """Close an interval at `now_s` (monotonic); `busy`: the models with work at its end."""
        for model, since_s in list(self._since_s.items()):
            done, elapsed_s = self._done.pop(model, 0.0), now_s - since_s
            if done > 0 and elapsed_s > 0:
                rate = done / elapsed_s
                was = self._per_s.get(model, rate)
                self._per_s[model] = was + NEW_SHARE * (rate - was)
        self._since_s = dict.fromkeys(busy, now_s)

    def per_s(self, model: str) -> float | None:
        """Return the average in megapixel-rows per second; None: nothing done yet."""
        return self._per_s.get(model)


def paces(ready: Ready, jobs: Sequence[HeldJob], pace: Throughput) -> tuple[ModelPace, ...]:
    """Return the entry of each loaded model in the worker's report."""
    return tuple(
        ModelPace(
            model=model.model,
            cost_per_s=pace.per_s(model.model),
            running_cost=sum(j.cost_left for j in jobs if j.spec.model == model.model),
            reproducibility=model.reproducibility,
            fingerprint=model.fingerprint,
            image_steps_per_s=model.image_steps_per_s,
        )
        for model in ready.models
    )
