"""Redis keys and channels of Printworks, each with its type and TTL, and the hash fields.

RQ's own keys (`rq:*`) are RQ's; ours start with `pw:`. Nothing else in the project writes a
key name. Our fields inside RQ's job hash start with `x_`: plain text, because RQ's own `data`
is compressed and Lua cannot read it.

| key | type | TTL | what |
|---|---|---|---|
| pw:gone:{job} | string: tenant | record's + GONE_TTL_S | tombstone: 410, not 404 |
| pw:tenant:{tenant}:jobs | zset by ID, scores 0 | LISTING_TTL_S, renewed | listing, newest first |
| pw:tenant:{tenant}:open | zset by s made | OPEN_TTL_S, renewed | unfinished jobs: the quota |
| pw:tenant:{tenant}:kept | hash: job, JSON | OPEN_TTL_S, renewed | data for ending these jobs |
| pw:tenants | set | OPEN_TTL_S, renewed | tenants with unfinished jobs |
| pw:idempotency:{digest} | string: its result, fingerprint | record's + 1 day | replays |
| pw:line:{queue}:{tenant} | set of jobs | empties itself | the tenant's jobs in RQ's list |
| pw:aside:{queue}:{tenant} | zset of jobs by turn | empties itself | jobs beyond its share |
| pw:asides:{queue} | hash: tenant, jobs aside | empties itself | tenants with jobs aside |
| pw:backlog:{model} | hash: jobs, cost | OPEN_TTL_S, renewed | waiting work: limits and ETA |
| pw:worker:{name} | string: JSON WorkerReport | WORKER_TTL_S | a worker's report |
| pw:fleet:{model} | hash: worker; time, cost/s, work held | WORKER_TTL_S | throughput: ETA |
| pw:probe | string | PROBE_TTL_S | written to see that Redis takes writes |
| pw:deadlines | zset: job by Redis time, s | trimmed at each end | jobs with a deadline |
| pw:erase | zset: tenant/job/n.ext by Redis time, s | by the janitor | images to erase, when |
| pw:inputs | zset: tenant/input/name by Redis time, s | by the janitor | inputs to look at, when |
| pw:unerased:{kind} | zset: as above by Redis time, s | 3 min, renewed | objects not erased |
| pw:unerased:{kind}:why | string | 3 min, renewed | the last reason |
| pw:input:{tenant}/{input} | hash: blob, changes | KEEP_S, renewed | an input image |
| pw:input:{tenant}/{input}:holds | zset: holder by time, s | KEEP_S, renewed | holds, their ends |
| pw:preview:{job} | hash: image, JSON | PREVIEW_TTL_S; the job's end | latest previews |
| pw:group:{group} | string: JSON | GROUP_TTL_S | jobs sent together |
| pw:group:{group}:ends | hash: job, final status; left; webhook | GROUP_TTL_S | its end |
| pw:counts | hash: counters | none | total counts (jobs/store/counters.py) |
| pw:usage:{day} | set of tenants | USAGE_TTL_S | tenants with usage that day |
| pw:usage:{day}:{tenant} | hash: key, item; amount | USAGE_TTL_S | a tenant's usage of a day |
| pw:rate:{key}:{window} | counter | two windows | requests of an API key in this minute |
| pw:api-keys | hash: key ID to JSON | none: until revoked | API keys; only digests |
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
OUTBOX_TTL_S = 30 * DAY_S  # a courier may be down that long
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
    """Fields of a job's hash: RQ's fields that we read, then ours."""

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
    N = "x_n"  # number of images
    EXTENSION = "x_ext"  # of the image files
    WAITING = "x_waiting"  # the cost it is counted with in the backlog; absent: not counted
    STARTED = "x_started"  # Redis time, s
    ENDED = "x_ended"  # Redis time, s
    ENDED_BY = "x_ended_by"  # the execution that wrote the end
    WEBHOOK = "x_webhook"  # JSON JobWebhook, if the job has its own
    SEQ = "x_seq"  # events sent to webhooks so far
    KEY_ID = "x_key"  # the API key that sent it; absent: none
    GROUP = "x_group"  # the group it was sent in; absent: none
    WORK = "x_work"  # megapixel-steps: images x steps x megapixels, for usage
    TRACE = "x_trace"  # W3C traceparent of its sending; absent: not traced
    INPUTS = "x_inputs"  # tenant/id/name of each input image
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
    """Return the name of the RQ queue of a model's jobs of one priority."""
    return f"{model}.{priority}"


def queue_names(model: str) -> tuple[str, ...]:
    """Return the names of all RQ queues of a model, first served first."""
    return tuple(queue_name(model, priority) for priority in PRIORITIES)


def rq_key(kind: str, name: str) -> str:
    """Return one of RQ's own keys: job, queue, wip, finished, failed, canceled, results ..."""
    return f"{RQ_KEY_PREFIX}:{kind}:{name}"


def gone(job_id: str) -> str:
    """Return the key of a job's tombstone."""
    return f"pw:gone:{job_id}"


def tenant_jobs(tenant: str) -> str:
    """Return the key of a tenant's jobs that still have a record."""
    return f"pw:tenant:{tenant}:jobs"


def tenant_open(tenant: str) -> str:
    """Return the key of a tenant's unfinished jobs."""
    return f"pw:tenant:{tenant}:open"


def idempotency(digest: str) -> str:
    """Return the key of an Idempotency-Key's result. `digest`: SHA-256 of scope and key, hex."""
    return f"pw:idempotency:{digest}"


def worker(name: str) -> str:
    """Return the key of a worker's report."""
    return f"pw:worker:{name}"


def backlog(model: str) -> str:
    """Return the key of a model's waiting work."""
    return f"pw:backlog:{model}"


def group(group_id: str) -> str:
    """Return the key of a group of jobs."""
    return f"pw:group:{group_id}"


def group_ends(group_id: str) -> str:
    """Return the key of the final statuses of a group's jobs, and of the number left."""
    return f"{group(group_id)}:ends"


def preview(job_id: str) -> str:
    """Return the key of the latest preview of each image of a running job."""
    return f"pw:preview:{job_id}"


def rate(key_id: str) -> str:
    """Return the key of an API key's request count; the script adds the window."""
    return f"pw:rate:{key_id}"


def events(job_id: str) -> str:
    """Return the channel of one job's events."""
    return f"pw:events:{job_id}"


def an_input(tenant: str, input_id: str) -> tuple[str, str]:
    """Return the keys of an input image: its data, and its holds."""
    key = f"pw:input:{tenant}/{input_id}"
    return key, f"{key}:holds"


def unerased(kind: str) -> tuple[str, str]:
    """Return the keys of objects of a kind (pictures, inputs) not erased, and of the reason."""
    key = f"pw:unerased:{kind}"
    return key, f"{key}:why"


def image_key(tenant: str, job_id: str, index: int, extension: str) -> str:
    """Return the storage key of an image: made from IDs only, the same on every attempt."""
    return f"images/{tenant}/{job_id}/{index}.{extension}"
