"""The map of Redis: every key and channel of ours, its type and its TTL, and the hash fields.

RQ's own keys (`rq:*`) are RQ's; ours start with `pw:`. Nothing else in the project writes a
key name. Our fields inside RQ's job hash start with `x_`: plain text, because RQ's own `data`
is compressed and Lua cannot read it.

| key | type | TTL | what |
|---|---|---|---|
| pw:gone:{job} | string: tenant | GONE_TTL_S | a job that ended and was there: 410, not 404 |
| pw:tenant:{tenant}:jobs | zset: job by ms made | LISTING_TTL_S, renewed | for listing, newest first |
| pw:tenant:{tenant}:open | zset: job by s made | OPEN_TTL_S, renewed | jobs not yet final: the quota counts them |
| pw:idempotency:{digest} | string: job, fingerprint | OPEN_TTL_S; retention + 1 day at the end | replays |
| pw:worker:{name} | string: JSON | WORKER_TTL_S | what a worker runs and how fast: readiness, ETA |
| pw:backlog:{model} | string: JSON | BACKLOG_TTL_S | the janitor's sum of queued work, for ETA |
| pw:api-keys | hash: key ID to JSON | none: until revoked and removed | who may come in; only digests |
| pw:events:{job} | channel | - | progress and status as they happen (lossy: the record is the truth) |
"""

from __future__ import annotations

from enum import StrEnum

API_KEYS = "pw:api-keys"

DAY_S = 86_400
GONE_TTL_S = 30 * DAY_S
LISTING_TTL_S = 31 * DAY_S
OPEN_TTL_S = 8 * DAY_S  # > the longest deadline
WORKER_TTL_S = 60
BACKLOG_TTL_S = 60


class Field(StrEnum):
    """Fields of a job's hash: RQ's that we read, then ours."""

    STATUS = "status"
    CREATED_AT = "created_at"
    STARTED_AT = "started_at"
    ENDED_AT = "ended_at"
    WORKER_NAME = "worker_name"
    ORIGIN = "origin"
    SPEC = "x_spec"  # JobSpec as JSON
    TENANT = "x_tenant"
    SIZE_CLASS = "x_class"  # jobs of one class can share a model call
    COST = "x_cost"  # megapixel-rows (JobSpec.cost)
    ENQUEUED = "x_enq"  # Redis time, s
    DEADLINE = "x_deadline"  # Redis time, s; absent: none
    STAGE = "x_stage"
    STEP = "x_step"  # model calls done
    STEPS = "x_steps"  # model calls expected
    ATTEMPTS = "x_attempts"  # times claimed
    CRASHES = "x_crashes"  # times its worker died or its lease ran out
    SOLO = "x_solo"  # 1: runs alone, because it is suspected of killing workers
    IMAGES = "x_images"  # JSON list of Image
    ERROR = "x_error"  # JSON JobError
    METRICS = "x_metrics"  # JSON
    FINGERPRINT = "x_fingerprint"  # JSON
    CLASS_KEPT = "x_repro"  # exact, tolerance or unpacked
    END = "x_end"  # "expired" where RQ's status can only say canceled


READ_FIELDS: tuple[Field, ...] = (
    Field.STATUS,
    Field.CREATED_AT,
    Field.STARTED_AT,
    Field.ENDED_AT,
    Field.ORIGIN,
    Field.SPEC,
    Field.TENANT,
    Field.STAGE,
    Field.STEP,
    Field.STEPS,
    Field.IMAGES,
    Field.ERROR,
    Field.METRICS,
    Field.FINGERPRINT,
    Field.CLASS_KEPT,
    Field.END,
)


def queue_name(model: str, priority: str) -> str:
    """The RQ queue of a model's jobs of one priority."""
    return f"{model}.{priority}"


def gone(job_id: str) -> str:
    """Tombstone of a job."""
    return f"pw:gone:{job_id}"


def tenant_jobs(tenant: str) -> str:
    """All jobs of a tenant that still have a record."""
    return f"pw:tenant:{tenant}:jobs"


def tenant_open(tenant: str) -> str:
    """The jobs of a tenant that are not final."""
    return f"pw:tenant:{tenant}:open"


def idempotency(digest: str) -> str:
    """What an idempotency key made. `digest`: SHA-256 of scope and key, hex."""
    return f"pw:idempotency:{digest}"


def worker(name: str) -> str:
    """A worker's own report."""
    return f"pw:worker:{name}"


def backlog(model: str) -> str:
    """Queued work of a model."""
    return f"pw:backlog:{model}"


def events(job_id: str) -> str:
    """The channel of one job's events."""
    return f"pw:events:{job_id}"


def image_key(tenant: str, job_id: str, index: int, extension: str) -> str:
    """The blob of one image: made from IDs only, the same on every attempt."""
    return f"images/{tenant}/{job_id}/{index}.{extension}"
