"""Views over many jobs: one model's queue, one worker, one page of a listing.

Owns the values only; `jobs/store/job_store.py` fills them. Knows no connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from jobs.contract.record import JobRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQueue:
    """How busy one model is. `eta_s`: expected wait of a job sent now; None: nothing known."""

    model: str
    queued: int
    running: int
    backlog_cost: float  # megapixel-rows waiting
    cost_per_s: float | None  # what its workers get done together
    eta_s: float | None
    workers: int


class ModelPace(BaseModel):
    """What one worker says of one model it serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    cost_per_s: float | None  # megapixel-rows a second while busy; None: nothing done yet
    running_cost: float  # work of the jobs it holds, less what is done of them
    reproducibility: str
    fingerprint: str
    image_steps_per_s: float | None


class WorkerReport(BaseModel):
    """What a worker says of itself at every beat; gone WORKER_TTL_S after its last word."""

    # a newer worker may say more than this process knows
    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    host: str
    pid: int
    engine_ready: bool
    draining: bool
    running: int  # jobs held
    images: int  # images held by them
    slots: int  # images it wants to hold
    step_ms: float | None
    models: tuple[ModelPace, ...]
    loading: dict[str, float] = {}  # models being loaded or tested: the share that is done
    broken: dict[str, str] = {}  # models that cannot be loaded here, and why
    uploads_fail: str | None = (
        None  # why the picture store takes none of its pictures; None: it does
    )
    held_up: str | None = None  # why it takes no jobs though it could run them; None: it does


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some jobs of a tenant, newest first. `next_cursor` is None on the last page."""

    jobs: tuple[JobRecord, ...]
    next_cursor: str | None
