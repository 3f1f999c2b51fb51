"""T53: a prompt, a key, a signed URL: each is where it is declared to be, and nowhere else."""

from __future__ import annotations

import httpx2
import pytest
from redis import Redis

from jobs.store.api_keys import make_key
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served

PROMPT, METADATA = "zqxcanaryprompt", "zqxcanarymetadata"


def holding(redis: Redis, canary: str) -> set[tuple[str, str]]:
    """Every key, and field of a hash, that holds the canary."""
    found: set[tuple[str, str]] = set()
    for key in redis.scan_iter(count=1000):
        name, kind = key.decode(), redis.type(key).decode()
        read = {
            "hash": lambda k=key: redis.hgetall(k).items(),
            "string": lambda k=key: [(b"", redis.get(k))],
            "list": lambda k=key: [(b"", item) for item in redis.lrange(k, 0, -1)],
            "set": lambda k=key: [(b"", item) for item in redis.smembers(k)],
            "zset": lambda k=key: [(b"", item) for item in redis.zrange(k, 0, -1)],
            "stream": lambda k=key: [(b"", str(item).encode()) for item in redis.xrange(k)],
        }[kind]
        for field, value in read():
            if canary.encode() in field + value:
                found.add((name.split(":0")[0], field.decode()))
    return found


def test_t53_what_is_private_is_where_it_is_declared(
    served: Served, redis: Redis, worker: HandWorker, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    api, new = served.client, make_key(tenant="acme")
    redis.hset("pw:api-keys", new.key.id, new.key.model_dump_json())
    mine = {"authorization": f"Bearer {new.secret}", "idempotency-key": "zqxcanarykey"}
    job = {"prompt": PROMPT, "metadata": {"order": METADATA}}

    sent = api.post("/v1/jobs", json=job, headers=mine)
    made = worker.take()
    worker.tell(made, 1, 25)
    worker.finish(made)
    failed = api.post("/v1/jobs", json=job, headers={**mine, "idempotency-key": "other"})
    worker.fail(worker.take())
    picture = api.get(f"/v1/jobs/{sent.json()['id']}/images/0?redirect=1", headers=mine)
    refused: list[httpx2.Response] = [
        api.post("/v1/jobs", json={**job, "steps": 0}, headers=mine),
        api.post("/v1/jobs", json={**job, "promt": PROMPT}, headers=mine),
        api.post("/v1/jobs", content=f'{{"prompt": "{PROMPT}", }}', headers=mine),
        api.get(f"/v1/jobs?status={PROMPT}", headers=mine),
        api.get("/v1/jobs", headers={"authorization": f"Bearer {new.secret}x"}),
    ]
    signature = picture.headers["location"].split("X-Amz-Signature=")[1][:40]
    # the test's own client logs what it asks; what we log is ours
    ours = [str(vars(r)) for r in caplog.records if r.name.split(".")[0] in ("api", "jobs")]
    headers = "".join(str(r.headers) for r in refused)
    told = api.get("/metrics").text + "".join(ours) + headers
    bodies = "".join(answer.text for answer in refused)

    assert ours
    assert (sent.status_code, failed.status_code, picture.status_code) == (202, 202, 302)
    assert all(400 <= answer.status_code < 500 for answer in refused)
    for canary in (PROMPT, METADATA, new.secret, signature, "zqxcanarykey"):
        assert canary not in told, canary
        assert canary not in bodies, canary
        where = holding(redis, canary)
        declared = {("rq:job", "x_spec")} if canary in (PROMPT, METADATA) else set()
        assert where <= declared, (canary, where)
    assert holding(redis, PROMPT)  # the look would have seen it
    print(f"T53: 5 canaries, {len(told) + len(bodies)} characters read, hits 0")
