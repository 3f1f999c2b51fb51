"""Reports on many jobs: a model's queue, a worker, a page of a listing.

Owns the values only; `jobs/store/job_store.py` makes the reports. Knows no connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from jobs.contract.record import JobRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQueue:
    """Load of one model. `eta_s`: expected wait in seconds of a job sent now; None: unknown."""

    model: str
    queued: int
    running: int
    backlog_cost: float  # megapixel-rows waiting
    cost_per_s: float | None  # megapixel-rows a second, all the model's workers together
    eta_s: float | None
    workers: int


class ModelPace(BaseModel):
    """A worker's throughput and load for one model that it serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    cost_per_s: float | None  # megapixel-rows a second while busy; None: nothing done yet
    running_cost: float  # megapixel-rows left to do of the jobs that the worker runs
    reproducibility: str
    fingerprint: str
    image_steps_per_s: float | None


class WorkerReport(BaseModel):
    """A worker's report, sent at every heartbeat; expires WORKER_TTL_S after the last one."""

    # a newer worker may report fields that this process does not know
    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    host: str
    pid: int
    engine_ready: bool
    draining: bool
    running: int  # jobs held
    images: int  # images held by them
    slots: int  # images that the worker can hold
    step_ms: float | None
    models: tuple[ModelPace, ...]
    loading: dict[str, float] = {}  # models being loaded or tested: share done, 0 to 1
    broken: dict[str, str] = {}  # models that the worker cannot load: the reason
    uploads_fail: str | None = None  # why object storage refuses the images; None: uploads work
    held_up: str | None = None  # why an able worker takes no jobs; None: the worker takes jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a tenant's jobs, newest first. `next_cursor` is None on the last page."""

    jobs: tuple[JobRecord, ...]
    next_cursor: str | None
