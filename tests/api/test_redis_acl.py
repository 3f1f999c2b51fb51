"""T61: each role does its work as a Redis user that can do nothing else (deploy/redis.acl)."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from api.settings import ApiSettings
from deploy import servers
from jobs.blobs.s3 import S3Blobs
from tests.api.serving import as_operator, serving
from tests.helpers import wait_until
from tests.queue.making import QUICK
from tests.queue.worker_process import worker_process
from worker.janitor import Janitor
from worker.settings import WorkerSettings

PASSWORD = "a-password-of-the-test"
FORBIDDEN: tuple[tuple[str, ...], ...] = (
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "dir", "/tmp"),
    ("KEYS", "*"),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("MODULE", "LIST"),
    ("ACL", "LIST"),
    ("SHUTDOWN",),
    ("SAVE",),
    ("MONITOR",),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SCRIPT", "FLUSH"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ("EVAL", "return redis.call('GET', 'other:key')", "1", "pw:probe"),
    ("GET", "other:key"),
    ("SET", "other:key", "1"),
    ("PUBLISH", "other:channel", "1"),
)


@pytest.fixture
def urls(
    redis_url: str, redis: Redis, valkey_server: servers.Valkey, root: Path
) -> Iterator[dict[str, str]]:
    """The URL of each user of the file; the users are gone afterwards."""
    users = {}
    for line in (root / "deploy/redis.acl").read_text().splitlines():
        if line.startswith("user "):
            _, name, *rules = line.replace("CHANGE-ME", PASSWORD).split()
            redis.execute_command("ACL", "SETUSER", name, "reset", *rules)
            users[name] = f"redis://{name}:{PASSWORD}@{redis_url.split('@')[1]}"
    redis.execute_command("ACL", "LOG", "RESET")
    yield users
    redis.execute_command("ACL", "DELUSER", *users)


def test_t61_every_role_does_its_work_and_nothing_was_refused(
    urls: dict[str, str], redis: Redis, redis_url: str, s3_settings: dict[str, str]
):
    shared = {f"PRINTWORKS_{name.upper()}": value for name, value in s3_settings.items()}
    environ = {"PRINTWORKS_REDIS_URL": urls["printworks-worker"], **shared, **QUICK}
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    asked = {"redis_url": urls["printworks-api"], **s3_settings, "webhook_key": key}
    with (
        serving(ApiSettings.model_validate(asked)) as served,
        worker_process(environ) as worker,
    ):
        api = served.client
        api.headers.update(as_operator(redis_url))
        body = {"prompt": "a cat", "steps": 3, "size": "64x64"}
        headers = {"idempotency-key": "k"}
        sent = [api.post("/v1/jobs", json=body, headers=headers) for _ in range(2)]
        group = api.post("/v1/job-groups", json={"jobs": [body, body]})
        done = api.get(f"/v1/jobs/{sent[0].json()['id']}?wait=30").json()
        picture = api.get(done["images"][0]["url"])
        api.post(f"/v1/job-groups/{group.json()['id']}/cancel")
        api.delete(f"/v1/jobs/{done['id']}")
        looked = [
            api.get(path).status_code
            for path in ("/v1/jobs", "/v1/queue", "/v1/usage", "/v1/stats", "/v1/workers")
        ]
        keys = api.post("/v1/keys", json={"tenant": "acme", "per_minute": 5}).json()
        rated = api.get("/v1/jobs", headers={"authorization": f"Bearer {keys['secret']}"})
        # a machine that does ten other things may take more than the 2 s that one look has
        wait_until(lambda: "printworks_redis_up 1" in api.get("/metrics").text, "all is read", 30)
        api.post("/v1/queue/drain")
        api.post("/v1/queue/purge?model=demo")
        worker.terminate()
        assert worker.wait(20) == 0
    janitor = WorkerSettings.load(environ)
    with Redis.from_url(urls["printworks-worker"]) as as_worker:
        Janitor(janitor, redis=as_worker, blobs=S3Blobs(janitor)).tick(time.monotonic())

    assert sent[0].json()["id"] == sent[1].json()["id"]
    assert (done["status"], picture.status_code, rated.status_code) == ("succeeded", 200, 200)
    assert looked == [200] * 5
    refused = redis.execute_command("ACL", "LOG")
    assert refused == [], refused


@pytest.mark.parametrize("user", ["printworks-api", "printworks-worker"])
def test_t61_nothing_else_is_allowed(urls: dict[str, str], redis: Redis, user: str):
    redis.set("other:key", "secret", ex=60)
    with Redis.from_url(urls[user]) as client:
        wait_until(client.ping, "it may come in")
        allowed = []
        for command in FORBIDDEN:
            try:
                client.execute_command(*command)
            except (NoPermissionError, ResponseError) as error:
                if "NOPERM" in str(error) or "permission" in str(error).lower():
                    continue
                raise
            allowed.append(command)

    assert allowed == []
    assert redis.get("other:key") == b"secret"
    print(f"T61 {user}: {len(FORBIDDEN)} commands tried, allowed 0")
