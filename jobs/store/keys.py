"""The map of Redis: every key and channel of ours, its type and its TTL, and the hash fields.

RQ's own keys (`rq:*`) are RQ's; ours start with `pw:`. Nothing else in the project writes a
key name. Our fields inside RQ's job hash start with `x_`: plain text, because RQ's own `data`
is compressed and Lua cannot read it.

| key | type | TTL | what |
|---|---|---|---|
| pw:gone:{job} | string: tenant | record's + GONE_TTL_S | it was there: 410, not 404 |
| pw:tenant:{tenant}:jobs | zset by ID, scores 0 | LISTING_TTL_S, renewed | listing, newest first |
| pw:tenant:{tenant}:open | zset by s made | OPEN_TTL_S, renewed | not yet final: the quota |
| pw:tenant:{tenant}:kept | hash: job, JSON | OPEN_TTL_S, renewed | what their ends need |
| pw:tenants | set | OPEN_TTL_S, renewed | who has such jobs |
| pw:idempotency:{digest} | string: what it made, fingerprint | record's + 1 day | replays |
| pw:line:{queue}:{tenant} | set of jobs | empties itself | its jobs that stand in RQ's list |
| pw:aside:{queue}:{tenant} | zset of jobs by turn | empties itself | those beyond its share |
| pw:asides:{queue} | hash: tenant, jobs aside | empties itself | who waits aside |
| pw:backlog:{model} | hash: jobs, cost | OPEN_TTL_S, renewed | what waits: limits and ETA |
| pw:worker:{name} | string: JSON WorkerReport | WORKER_TTL_S | what a worker runs |
| pw:fleet:{model} | hash: worker; time, cost/s, work held | WORKER_TTL_S | a model's pace: ETA |
| pw:probe | string | PROBE_TTL_S | written to see that Redis takes writes |
| pw:deadlines | zset: job by Redis time, s | trimmed at each end | what may have to expire |
| pw:erase | zset: tenant/job/n.ext by Redis time, s | by the janitor | what to erase, when |
| pw:inputs | zset: tenant/input/name by Redis time, s | by the janitor | inputs to look at, when |
| pw:unerased:{kind} | zset: as above by Redis time, s | 3 min, renewed | what S3 would not erase |
| pw:unerased:{kind}:why | string | 3 min, renewed | the last reason |
| pw:input:{tenant}/{input} | hash: blob, changes | KEEP_S, renewed | a picture to begin with |
| pw:input:{tenant}/{input}:holds | zset: who by time, s | KEEP_S, renewed | how long it is held |
| pw:preview:{job} | hash: image, JSON | PREVIEW_TTL_S; the job's end | what it looks like by now |
| pw:group:{group} | string: JSON | GROUP_TTL_S | which jobs were sent together |
| pw:group:{group}:ends | hash: job, how it ended; left; webhook | GROUP_TTL_S | its end |
| pw:counts | hash: counters | none | what was done since ever (jobs/store/counters.py) |
| pw:usage:{day} | set of tenants | USAGE_TTL_S | who used anything that day |
| pw:usage:{day}:{tenant} | hash: key, what; how much | USAGE_TTL_S | a tenant's use of a day |
| pw:rate:{key}:{window} | counter | two windows | requests of an API key in this minute |
| pw:api-keys | hash: key ID to JSON | none: until revoked | who may come in; only digests |
| pw:outbox | list of JSON | OUTBOX_TTL_S, renewed | events for webhooks (jobs/webhooks/keys.py) |
| pw:events:{job} | channel | - | progress and status; lossy: the record is the truth |
"""

from __future__ import annotations

from enum import StrEnum

from rq.defaults import RQ_KEY_PREFIX

API_KEYS = "pw:api-keys"

DAY_S = 86_400
GONE_TTL_S = 30 * DAY_S
LISTING_TTL_S = 31 * DAY_S
OPEN_TTL_S = 8 * DAY_S  # > the longest deadline
GROUP_TTL_S = OPEN_TTL_S + LISTING_TTL_S  # as long as its last job's record can live, and a day
OUTBOX_TTL_S = 30 * DAY_S  # a courier may be away that long
WORKER_TTL_S = 60
PROBE_TTL_S = 60
PREVIEW_TTL_S = 60
PROBE = "pw:probe"
DEADLINES = "pw:deadlines"
TENANTS = "pw:tenants"
ERASE = "pw:erase"
INPUTS = "pw:inputs"
RQ_WORKERS = f"{RQ_KEY_PREFIX}:workers"
RQ_SUSPENDED = f"{RQ_KEY_PREFIX}:suspended"

# The only keys that may live without a TTL, and why. Everything else without one is a leak.
ALLOWED_WITHOUT_TTL: dict[str, str] = {
    f"{RQ_KEY_PREFIX}:job:*": "only while the job is open: an expiry would lose an accepted job",
    f"{RQ_KEY_PREFIX}:queue:*": "RQ's lists of waiting jobs; an empty list is no key",
    f"{RQ_KEY_PREFIX}:queues": "RQ's set of queue names: one a model and priority",
    f"{RQ_KEY_PREFIX}:wip:*": "RQ's registry of running jobs: reaped when a lease is over",
    f"{RQ_KEY_PREFIX}:finished:*": "RQ's registry, trimmed by the janitor as records expire",
    f"{RQ_KEY_PREFIX}:failed:*": "RQ's registry, trimmed by the janitor as records expire",
    f"{RQ_KEY_PREFIX}:canceled:*": "RQ's registry, trimmed by the janitor as records expire",
    f"{RQ_KEY_PREFIX}:workers*": "RQ's sets of live workers: left at death, cleaned by maintenance",
    f"{RQ_KEY_PREFIX}:suspended": "an operator's `rq suspend` lasts until `rq resume`",
    API_KEYS: "until revoked and removed",
    "pw:line:*": "members leave with their jobs; an empty set is no key",
    "pw:aside:*": "waiting jobs: an expiry would lose them; an empty set is no key",
    "pw:asides:*": "fields leave with their jobs; an empty hash is no key",
    DEADLINES: "members leave when their job ends",
    ERASE: "members leave when the pictures are erased",
    INPUTS: "members leave when the bytes are erased",
    "pw:endpoints:*": "a tenant's webhook endpoints, until they are deleted",
    "pw:endpoint:*": "a webhook endpoint, until it is deleted",
    "pw:courier:counts": "a dozen counters, for metrics",
    "pw:counts": "counters of closed names, for metrics: a few hundred at most",
}


class HashField(StrEnum):
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
    IDEMPOTENCY = "x_idem"  # digest of the key that made it
    N = "x_n"  # images asked for
    EXTENSION = "x_ext"  # of its picture files
    WAITING = "x_waiting"  # the cost it is counted with in the backlog; absent: not counted
    STARTED = "x_started"  # Redis time, s
    ENDED = "x_ended"  # Redis time, s
    ENDED_BY = "x_ended_by"  # the execution that wrote the end
    WEBHOOK = "x_webhook"  # JSON JobWebhook, if the job has its own
    SEQ = "x_seq"  # events told to webhooks so far
    KEY_ID = "x_key"  # the API key that sent it; absent: none
    GROUP = "x_group"  # the group it was sent in; absent: none
    WORK = "x_work"  # megapixel-steps: images x steps x megapixels, for usage
    TRACE = "x_trace"  # W3C traceparent of its sending; absent: not traced
    INPUTS = "x_inputs"  # tenant/id/name of each picture that it begins with
    QUEUE_MS = "x_queue_ms"  # from acceptance to the first claim
    END = "x_end"  # "expired" where RQ's status can only say canceled


READ_FIELDS: tuple[HashField, ...] = (
    HashField.STATUS,
    HashField.CREATED_AT,
    HashField.STARTED_AT,
    HashField.ENDED_AT,
    HashField.ORIGIN,
    HashField.SPEC,
    HashField.TENANT,
    HashField.STAGE,
    HashField.STEP,
    HashField.STEPS,
    HashField.IMAGES,
    HashField.ERROR,
    HashField.METRICS,
    HashField.FINGERPRINT,
    HashField.CLASS_KEPT,
    HashField.END,
)


PRIORITIES = ("high", "normal", "low")  # in the order in which their lines are served


def queue_name(model: str, priority: str) -> str:
    """The RQ queue of a model's jobs of one priority."""
    return f"{model}.{priority}"


def queue_names(model: str) -> tuple[str, ...]:
    """All RQ queues of a model, first served first."""
    return tuple(queue_name(model, priority) for priority in PRIORITIES)


def rq_key(kind: str, name: str) -> str:
    """One of RQ's own keys: job, queue, wip, finished, failed, canceled, results, worker ..."""
    return f"{RQ_KEY_PREFIX}:{kind}:{name}"


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


def group(group_id: str) -> str:
    """A group of jobs."""
    return f"pw:group:{group_id}"


def group_ends(group_id: str) -> str:
    """How the jobs of a group ended, and how many have not."""
    return f"{group(group_id)}:ends"


def preview(job_id: str) -> str:
    """The latest preview of each image of a running job."""
    return f"pw:preview:{job_id}"


def rate(key_id: str) -> str:
    """How often an API key was used; the script adds the window."""
    return f"pw:rate:{key_id}"


def events(job_id: str) -> str:
    """The channel of one job's events."""
    return f"pw:events:{job_id}"


def an_input(tenant: str, input_id: str) -> tuple[str, str]:
    """A picture that jobs begin with: what is known of it, and who holds it."""
    key = f"pw:input:{tenant}/{input_id}"
    return key, f"{key}:holds"


def unerased(kind: str) -> tuple[str, str]:
    """What the picture store would not erase of this kind (pictures, inputs), and why."""
    key = f"pw:unerased:{kind}"
    return key, f"{key}:why"


def image_key(tenant: str, job_id: str, index: int, extension: str) -> str:
    """The blob of one image: made from IDs only, the same on every attempt."""
    return f"images/{tenant}/{job_id}/{index}.{extension}"
