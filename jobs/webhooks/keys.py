"""Redis keys of webhooks, each with its type and TTL (all others: jobs/store/keys.py).

| key | type | TTL | what |
|---|---|---|---|
| pw:outbox | list of JSON | OUTBOX_TTL_S, renewed | events not yet made into deliveries |
| pw:endpoints:{tenant} | set of endpoint IDs | none: until deleted | the tenant's endpoints |
| pw:endpoints:{tenant}:events | set of event types | none: until deleted | all subscribed types |
| pw:endpoint:{endpoint} | hash | none: until deleted | URL, events, sealed secrets, state |
| pw:due:{endpoint} | zset by due time, s | PENDING_TTL_S, renewed | deliveries to attempt |
| pw:flight:{endpoint} | zset by lease end, s | an hour, renewed | attempts under way |
| pw:deliveries:{endpoint} | zset by ID, scores 0 | PENDING_TTL_S, renewed | for listing |
| pw:kept:{endpoint} | zset by s of its end | PENDING_TTL_S, renewed | when the listing drops them |
| pw:delivery:{endpoint}:{id} | hash | PENDING_TTL_S, at its end DELIVERED_TTL_S | a delivery |
| pw:delivery:{endpoint}:{id}:attempts | list of JSON | as its delivery's | its log |
| pw:progress:{job} | string | 500 ms | one progress event of a job in that time |
| pw:courier:proven, :probes | zset by due time, s | PENDING_TTL_S, renewed | endpoints to serve |
| pw:courier:leases | zset by lease end, s | an hour, renewed | all attempts under way |
| pw:courier:counts | hash | none: counters | attempts by class, for metrics |

Scripts name these by the same words (scripts/endpoint_queue.lua). Invariant: `due` and `flight`
of an endpoint never hold the same delivery.
"""

from __future__ import annotations

from jobs.store.keys import DAY_S

KEPT_S = 30 * DAY_S  # an undelivered delivery stays that long after its last attempt
PENDING_TTL_S = KEPT_S + 4 * DAY_S  # > the 91 h that ten attempts take with all jitter upwards
DELIVERED_TTL_S = 3 * DAY_S  # long enough to look and to redeliver; most are never looked at

OUTBOX = "pw:outbox"
COUNTS = "pw:courier:counts"
PROVEN = "pw:courier:proven"


def tenant_endpoints(tenant: str) -> str:
    """Return the key of a tenant's endpoint IDs."""
    return f"pw:endpoints:{tenant}"


def endpoint(endpoint_id: str) -> str:
    """Return the key of an endpoint."""
    return f"pw:endpoint:{endpoint_id}"


def due(endpoint_id: str) -> str:
    """Return the key of an endpoint's due deliveries."""
    return f"pw:due:{endpoint_id}"


def delivery(endpoint_id: str, delivery_id: str) -> str:
    """Return the key of an event's delivery to an endpoint."""
    return f"pw:delivery:{endpoint_id}:{delivery_id}"


def attempts(endpoint_id: str, delivery_id: str) -> str:
    """Return the key of a delivery's log."""
    return f"{delivery(endpoint_id, delivery_id)}:attempts"
