"""Response models for operators: drain, purge, statistics by model.

Owns these public shapes. Must not know connections.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from api.views.jobs import View
from jobs.store.counters import Count


class Draining(View):
    """Drain state of the queue: paused, and jobs still running."""

    paused: bool
    running: int = Field(description="Jobs still running; 0: drained.")


class Purged(View):
    """Number of queued jobs that were canceled, or would be in a dry run."""

    jobs: int
    dry_run: bool


class WorkerDraining(View):
    """A worker that drains and then exits."""

    name: str


class ModelStats(View):
    """Totals of one model: jobs, failures, images, batch size, stage times."""

    model: str
    jobs: dict[str, int] = Field(description="Jobs that ended, by status.")
    failures: dict[str, int] = Field(description="Failed jobs, by error code.")
    images: int
    batch_size_mean: float | None = Field(description="Mean number of images per model call.")
    stage_seconds: dict[str, float] = Field(description="Mean of succeeded jobs, by stage.")


class StatsList(View):
    """Statistics by model, in the order of the model file."""

    models: list[ModelStats]


def stats_of(models: Sequence[str], counts: Sequence[Count]) -> StatsList:
    """Compute each model's statistics from the counters."""
    return StatsList(models=[_of_model(model, counts) for model in models])


def _of_model(model: str, counts: Sequence[Count]) -> ModelStats:
    own = [c for c in counts if c.labels and c.labels[0] == model]
    jobs: dict[str, int] = {}
    failures: dict[str, int] = {}
    for count in own:
        if count.name == "jobs":
            _, outcome, reason = count.labels
            jobs[outcome] = jobs.get(outcome, 0) + int(count.value)
            if outcome == "failed":
                failures[reason] = int(count.value)
    batched = _one(own, "batched")
    done = jobs.get("succeeded", 0)
    return ModelStats(
        model=model,
        jobs=jobs,
        failures=failures,
        images=int(_one(own, "images")),
        batch_size_mean=round(_one(own, "batch") / batched, 3) if batched else None,
        stage_seconds={
            c.labels[1]: round(c.value / done, 6) for c in own if c.name == "stage" and done
        },
    )


def _one(counts: Sequence[Count], name: str) -> float:
    return sum(c.value for c in counts if c.name == name)
