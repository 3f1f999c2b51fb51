"""What the engine process says of its models: loading, loaded, or not to be had.

Owns these three facts for the worker's report. Knows no job. Invariant: a model is in one of them
at a time.
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
    """Filled by the engine's events, read at every beat."""

    def __init__(self, models_file: Path) -> None:
        self._file = models_file
        self._hopeless: str | None = None
        self.ready = Ready(models=())
        self.loading: dict[str, float] = {}  # the share that is done, 0 to 1
        self.broken: dict[str, str] = {}  # why

    def hear(self, event: Ready | Loading | Unloadable | Fatal | EngineDied) -> None:
        """Take in one event. Raises SettingsError if no start of the engine can ever succeed."""
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
        """These facts as fields of the worker's report."""
        return {
            "models": paces(self.ready, jobs, pace),
            "loading": dict(self.loading),
            "broken": dict(self.broken),
        }

    def _advice(self, why: str) -> str:
        ids = " ".join(self.broken)
        return (
            f"no model of {self._file} can be loaded. {why}. Mend the entry or take it out; "
            f"`python -m worker models check {ids}` tries it again"
        )
