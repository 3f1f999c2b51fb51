"""Settings of the worker's roles: device, memory, leases, timeouts, spool, content check.

Owns the variables that start with PRINTWORKS_WORKER_. Read once, in `worker/main.py`, and passed
down. Invariant: a lease lasts at least three heartbeats, or a slow disk would cost live jobs.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from jobs.settings import RoleSettings


class WorkerSettings(RoleSettings):
    """Settings of the processes that `python -m worker` starts: gpu, courier and janitor."""

    role_prefix: ClassVar[str] = "PRINTWORKS_WORKER_"

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,80}$",
        description="the worker's name in RQ; unset: host, process ID and a random suffix",
    )
    device: str = Field("auto", description="torch device: auto, cpu, cuda, cuda:1 ...")
    threads: int = Field(2, ge=1, description="torch's CPU threads; part of every fingerprint")
    memory_mb: int | None = Field(
        None, ge=64, description="memory for models and batches; unset: 90 % of the device's memory"
    )
    state_dir: Path | None = Field(
        None,
        description="folder for measured batch sizes and self-test results; unset: not saved",
    )
    self_test: bool = Field(
        True,
        description="test at start which models are bit-exact; false: no model is promised exact",
    )
    slots: int = Field(
        12,
        ge=1,
        le=256,
        description="most images a worker holds at once: a full batch and a few to follow",
    )
    lease_s: int = Field(
        15,
        ge=2,
        le=300,
        description="seconds without a heartbeat after which another worker runs the jobs",
    )
    beat_s: float = Field(3, gt=0, description="seconds between heartbeats, which renew the leases")
    reap_s: float = Field(1, gt=0, description="seconds between checks for expired leases")
    hang_s: float = Field(
        30,
        ge=1,
        description="seconds without a message from the engine process, and at least ten model"
        " calls, after which the engine counts as hung and is restarted",
    )
    engine_variables: str = Field(
        "",
        description="further environment variables for the engine process, comma-separated; by"
        " default only those of its libraries and no secrets (worker/engine_environ.py)",
    )
    grace_s: float = Field(
        25,
        ge=0,
        description="seconds after SIGTERM to finish jobs; unfinished jobs return to the queue",
    )
    finish_threads: int = Field(2, ge=1, le=32, description="threads that encode and upload images")
    spool_dir: Path | None = Field(
        None,
        description="folder for images while object storage is unavailable; unset: in memory",
    )
    spool_mb: int = Field(
        256,
        ge=1,
        description="most MB of images waiting for object storage; when full, no jobs are taken",
    )
    image_checker: str | None = Field(
        None,
        description="content check of each image before it is stored: package.module:function, "
        "or the URL of a service; unset: no check",
    )
    image_checker_timeout_s: float = Field(
        10,
        gt=0,
        le=120,
        description="seconds for the content check service to answer; then the job fails",
    )
    c2pa_certificate: Path | None = Field(
        None,
        description="PEM file of the certificate, and its issuers after it, that signs a C2PA"
        " manifest into each image; needs the extra `c2pa`; unset: the mark in XMP alone",
    )
    c2pa_key: Path | None = Field(
        None, description="PEM file of that certificate's private key, without a password"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged: debug, info, warning or error"
    )

    @property
    def engine_passes(self) -> frozenset[str]:
        """`engine_variables` as a set of names."""
        return frozenset(name.strip() for name in self.engine_variables.split(","))

    @model_validator(mode="after")
    def _lease_outlives_beats(self) -> Self:
        if self.lease_s < 3 * self.beat_s:
            raise ValueError(
                f"lease_s ({self.lease_s}) must be at least three times beat_s ({self.beat_s:g});"
                " raise PRINTWORKS_WORKER_LEASE_S or lower PRINTWORKS_WORKER_BEAT_S"
            )
        return self
