"""Status of the engine's models: loading, loaded or broken.

Owns these three states for the worker's report. Knows no rule of jobs. Invariant: a model is in one
state at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.errors import SettingsError
from worker.control.held_job import HeldJob
from worker.control.throughput import Throughput, paces
from worker.messages import EngineDied, Fatal, Loading, Ready, Unloadable

log = logging.getLogger(__name__)


class ModelNews:
    """Status of the models, updated by the engine's events and read at every heartbeat."""

    def __init__(self, models_file: Path) -> None:
        self._file = models_file
        self._hopeless: str | None = None
        self.ready = Ready(models=())
        self.loading: dict[str, float] = {}  # share loaded, 0 to 1
        self.broken: dict[str, str] = {}  # the reason

    def hear(self, event: Ready | Loading | Unloadable | Fatal | EngineDied) -> None:
        """Apply one event. Raises SettingsError if no start of the engine can ever succeed."""
        log.info("engine.said", extra={"said": repr(event)})
        match event:
            case Ready():
                self.ready = event
            case Loading(model=model, fraction=fraction):
                self.loading.pop(model, None)
                if fraction < 1.0:
                    self.broken.pop(model, None)
                    self.loading[model] = fraction
            case Unloadable(model=model, message=message):
                self.loading.pop(model, None)
                self.broken[model] = message
            case Fatal(code=code, message=message):
                self._hopeless = message if code == "model_load_failed" else None
            case EngineDied():
                self.loading.clear()
                if event.cause == "failed_to_start" and self._hopeless is not None:
                    raise SettingsError(self._advice(self._hopeless))

    def report(self, jobs: Sequence[HeldJob], pace: Throughput) -> dict[str, Any]:
        """Return the models' status as fields of the worker's report."""
        return {
            "models": paces(self.ready, jobs, pace),
            "loading": dict(self.loading),
            "broken": dict(self.broken),
        }

    def _advice(self, why: str) -> str:
        ids = " ".join(self.broken)
        return (
            f"no model of {self._file} can be loaded. {why}. Correct or remove the entry, then "
            f"run `python -m worker models check {ids}`"
        )
