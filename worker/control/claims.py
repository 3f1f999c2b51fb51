"""Claims jobs from the queues: timing, number of images, order of the queues.

Owns the polling interval and the order: models in rotation, priorities in order, and every eighth
job the longest waiting one of a lower priority. Knows no engine. Invariant: a worker claims no more
images than the engine should hold, and nothing beside a job that must run alone.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from jobs.store import keys
from jobs.store.scripts.worker_calls import Claimed, ClaimRules
from worker.control.held_job import HeldJob
from worker.rq_bridge import BatchWorker
from worker.settings import WorkerSettings

ASK_S = 0.02  # between two claims while jobs come
IDLE_ASK_S = 0.08  # while none come; then one EXISTS is sent instead of the script
AGED_S = 30.0  # a job of a lower priority that has waited so long ...
AGED_EVERY = 8  # ... gets one of every eight places: low never starves, high keeps seven eighths


class Claiming:
    """Claims jobs at the right times; `ask` is called in every loop iteration."""

    def __init__(self, models: tuple[str, ...], settings: WorkerSettings) -> None:
        self._models = models
        self._slots = settings.slots
        self._lease_s = settings.lease_s
        self._ask_at_s = 0.0
        self._quiet = False  # the last claim returned no job
        self._since_aged = 0  # jobs claimed since a lower priority had its turn
        self._turn = 0

    def ask(self, bridge: BatchWorker, held: Collection[HeldJob]) -> list[Claimed]:
        """Claim jobs if it is time and there is room. Return the newly claimed jobs."""
        room = self._slots - sum(job.in_engine for job in held)
        now_s = time.monotonic()
        if room <= 0 or now_s < self._ask_at_s or any(job.solo for job in held):
            return []
        queues = self._queues()
        if self._quiet and not bridge.any_waits(queues):
            self._ask_at_s = now_s + IDLE_ASK_S
            return []
        aged = self._since_aged >= AGED_EVERY - 1
        rules = ClaimRules(
            images=room,
            running=len(held),
            size_classes=frozenset(job.spec.size_class for job in held),
            aged_first_s=AGED_S if aged else None,
            lease_s=self._lease_s,
        )
        claimed = bridge.claim(rules, queues)
        self._since_aged = 0 if aged and claimed else self._since_aged + len(claimed)
        self._quiet = not claimed
        self._ask_at_s = now_s + (ASK_S if claimed else IDLE_ASK_S)
        return claimed

    def _queues(self) -> list[str]:
        """Return all queue names in serving order: by priority, with the models in rotation."""
        self._turn += 1
        first = self._turn % len(self._models)
        models = self._models[first:] + self._models[:first]
        return [keys.queue_name(m, priority) for priority in keys.PRIORITIES for m in models]
