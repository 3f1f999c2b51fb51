"""Webhook deliveries: one event for one endpoint each, until delivered or exhausted.

Owns claims, the record of attempts, and listings. Leases use Redis's clock, so that any number of
couriers may work and die. Invariant: a delivery is due, under way, delivered or exhausted, and
nothing else; the body and the event's ID never change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis

from jobs.errors import DeliveryMissing
from jobs.store.connection import translated
from jobs.webhooks import keys
from jobs.webhooks.endpoints import KeptSecret, secrets_in
from jobs.webhooks.retry_schedule import DISABLE_AFTER_S
from jobs.webhooks.scripts import load

LEASE_S = 40.0  # > the 15 s that an attempt may take, and room for a slow courier
MAX_LAPSES = 5  # leases lost in a row, after which a delivery is suspected of killing couriers
_LOOKED_AT = 1000

Pool = Literal["proven", "probes"]
Verdict = Literal["delivered", "failed", "gone"]


class Attempt(BaseModel):
    """An attempt in the log of a delivery."""

    model_config = ConfigDict(frozen=True)
    at: float  # Unix time, s
    took_ms: int
    outcome: str  # worker/courier/http_sender.py: Outcome
    status: int | None = None
    answer: str = ""  # start of the receiver's response, 1 KiB at most
    next_in_s: float | None = None  # until the next attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A delivery that this courier has claimed, to attempt now."""

    endpoint: str
    id: str
    claim: int  # only the last claim may settle
    pool: Pool
    attempts: int  # failed ones before
    event: str
    type: str
    body: bytes
    url: str
    secrets: tuple[KeptSecret, ...]
    trace: str | None = None  # W3C traceparent


class Claims(NamedTuple):
    """Claimed deliveries, and Redis's time of the claim in Unix seconds."""

    now_s: float
    claimed: list[Claimed]


class AttemptResult(NamedTuple):
    """A delivery's new state; `lost` if another courier has the claim by now."""

    state: str
    disabled: str | None  # reason, if the attempt disabled the endpoint


class WebhookCounts(NamedTuple):
    """Webhook metrics. `counts`: total attempts by outcome, and lapsed, disabled, dropped."""

    counts: dict[str, int]
    outbox: int  # events without deliveries so far
    lag_s: float  # delay of the most overdue attempt, of endpoints that answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A delivery as its tenant sees it. Times are Unix seconds."""

    id: str
    event: str
    type: str
    job: str | None
    state: str
    attempts: int
    made_at: float
    ended_at: float | None
    next_at: float | None
    url: str | None  # the job's own; None: the endpoint's
    log: tuple[Attempt, ...] = ()
    body: str | None = None


class Deliveries:
    """Webhook deliveries in Redis. `now` of every call: '' for Redis's clock; tests set it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.register_script(load("claim").text)
        self._settle = redis.register_script(load("record_attempt").text)
        self._redeliver = redis.register_script(load("redeliver").text)
        self._listing = redis.register_script(load("listing").text)

    async def claim(self, *, proven: int, probes: int, now: str = "") -> Claims:
        """Claim due deliveries: at most `proven` to endpoints that answer, `probes` to others."""
        args = [now, proven, probes, LEASE_S, MAX_LAPSES]
        with translated():
            now_text, found = await self._claim(args=args)
        return Claims(float(now_text), [_claimed(item) for item in found])

    async def settle(
        self,
        claimed: Claimed,
        verdict: Verdict,
        attempt: Attempt,
        *,
        wait_s: float | None,
        now: str = "",
    ) -> AttemptResult:
        """Record an attempt's outcome. `wait_s`: seconds to the next attempt; None: the last."""
        wait = "" if wait_s is None else f"{wait_s:.6f}"
        log = attempt.model_copy(update={"next_in_s": wait_s if verdict != "delivered" else None})
        args = [now, claimed.endpoint, claimed.id, claimed.claim, verdict, wait]
        args += [log.model_dump_json(), attempt.outcome, DISABLE_AFTER_S]
        with translated():
            state, disabled = await self._settle(keys=[keys.OUTBOX], args=args)
        return AttemptResult(state, disabled or None)

    async def redeliver(self, endpoint_id: str, delivery_id: str, *, now: str = "") -> None:
        """Restart a delivery at its first attempt, same ID, same body. Raises DeliveryMissing."""
        with translated():
            result: str = await self._redeliver(args=[now, endpoint_id, delivery_id])
        if result == "missing":
            raise DeliveryMissing("there is no such delivery, or no longer")

    async def get(self, endpoint_id: str, delivery_id: str) -> Delivery:
        """Return a delivery with its log and body. Raises DeliveryMissing."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hgetall(keys.delivery(endpoint_id, delivery_id))
        pipe.lrange(keys.attempts(endpoint_id, delivery_id), 0, -1)
        pipe.zscore(keys.due(endpoint_id), delivery_id)
        with translated():
            fields, lines, due = cast(tuple[dict[str, str], list[str], Any], await pipe.execute())
        if "state" not in fields:
            raise DeliveryMissing("there is no such delivery, or no longer")
        log = tuple(Attempt.model_validate_json(line) for line in lines)
        return _delivery(delivery_id, fields, due, log=log)

    async def list(
        self, endpoint_id: str, *, state: str = "", cursor: str | None = None, limit: int = 20
    ) -> tuple[list[Delivery], str | None]:
        """Return a page of deliveries, newest job first, and the next page's cursor, if any."""
        start = f"({cursor}" if cursor else "+"
        with translated():
            after, rows = await self._listing(args=[endpoint_id, start, limit, _LOOKED_AT, state])
        names = ("event", "type", "job", "state", "attempts", "made_at", "ended_at", "url")
        found = [
            _delivery(rows[i], dict(zip(names, rows[i + 1], strict=True)), rows[i + 2])
            for i in range(0, len(rows), 3)
        ]
        return found, after or None

    async def figures(self) -> WebhookCounts:
        """Return the webhook metrics, as of one read."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hgetall(keys.COUNTS)
        pipe.llen(keys.OUTBOX)
        pipe.zrange(keys.PROVEN, 0, 0, withscores=True)
        pipe.time()
        with translated():
            counts, waiting, first, (now_s, _) = await pipe.execute()
        lag_s = max(0.0, now_s - first[0][1]) if first else 0.0
        return WebhookCounts({name: int(n) for name, n in counts.items()}, waiting, lag_s)


def _claimed(item: list[Any]) -> Claimed:
    endpoint, delivery, claim, pool, attempts, event, kind, body, own_url, url, secrets, trace = (
        item
    )
    return Claimed(
        endpoint=endpoint,
        id=delivery,
        claim=claim,
        pool=pool,
        attempts=attempts,
        event=event,
        type=kind,
        body=body.encode(),
        url=own_url or url,
        secrets=secrets_in(secrets),
        trace=trace or None,
    )


def _delivery(
    delivery_id: str, fields: dict[str, Any], due: Any, *, log: tuple[Attempt, ...] = ()
) -> Delivery:
    return Delivery(
        id=delivery_id,
        event=fields["event"],
        type=fields["type"],
        job=fields.get("job") or None,
        state=fields["state"],
        attempts=int(fields["attempts"]),
        made_at=float(fields["made_at"]),
        ended_at=float(fields["ended_at"]) if fields.get("ended_at") else None,
        next_at=float(due) if due not in (None, "") else None,
        url=fields.get("url") or None,
        log=log,
        body=fields.get("body"),
    )
