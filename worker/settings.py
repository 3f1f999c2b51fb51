"""Settings of the worker's roles: how much to hold, how long to wait, which device to use.

Owns the variables that start with PRINTWORKS_WORKER_. Read once, in `worker/main.py`, and passed
down. Invariant: a lease is at least three beats long, or a slow disk would cost live jobs.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from jobs.settings import RoleSettings


class WorkerSettings(RoleSettings):
    """What a worker or janitor process needs to know."""

    role_prefix: ClassVar[str] = "PRINTWORKS_WORKER_"

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,80}$",
        description="the worker's name in RQ; unset: host, process and a random part",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 ...")
    threads: int = Field(2, ge=1, description="torch's threads; part of every fingerprint")
    memory_mb: int | None = Field(
        None, ge=64, description="memory for models and batches; unset: the device's, less a tenth"
    )
    state_dir: Path | None = Field(
        None, description="where measured capacities and self-tests are kept; unset: nowhere"
    )
    self_test: bool = Field(
        True, description="prove at start which models are bit-exact; false: none is promised"
    )
    slots: int = Field(
        12, ge=1, le=256, description="images held at once: a full batch and a few to follow"
    )
    lease_s: int = Field(
        15, ge=2, le=300, description="seconds of silence after which a worker's jobs run elsewhere"
    )
    beat_s: float = Field(3, gt=0, description="seconds between two renewals of the leases")
    reap_s: float = Field(1, gt=0, description="seconds between two looks for leases that ran out")
    hang_s: float = Field(
        30,
        ge=1,
        description="seconds without a sign of life, and ten model calls, after which an engine"
        " process is taken for hung and replaced",
    )
    engine_variables: str = Field(
        "",
        description="variables, by comma, that the engine process gets beside those of its"
        " libraries (worker/engine_environ.py): it is told no secret by itself",
    )
    grace_s: float = Field(
        25, ge=0, description="seconds after SIGTERM to finish; the rest is handed back"
    )
    finish_threads: int = Field(2, ge=1, le=32, description="threads that encode and upload")
    spool_dir: Path | None = Field(
        None, description="where pictures wait while the picture store is away; unset: in memory"
    )
    spool_mb: int = Field(
        256, ge=1, description="pictures that may wait so; when full no more jobs are taken"
    )
    image_checker: str | None = Field(
        None,
        description="what each picture must pass before it is stored: package.module:function, "
        "or the URL of a service; unset: nothing",
    )
    image_checker_timeout_s: float = Field(
        10, gt=0, le=120, description="seconds that such a service has; then the job fails"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least that is logged"
    )

    @property
    def engine_passes(self) -> frozenset[str]:
        """`engine_variables`, taken apart."""
        return frozenset(name.strip() for name in self.engine_variables.split(","))

    @model_validator(mode="after")
    def _lease_outlives_beats(self) -> Self:
        if self.lease_s < 3 * self.beat_s:
            raise ValueError("lease_s must be at least three times beat_s")
        return self
