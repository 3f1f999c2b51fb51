"""A11: roles that start while Redis reads its file back, or is not itself yet, wait for it."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from redis import Redis, RedisError

from deploy import servers
from deploy.service import free_port
from jobs.errors import StoreUnavailable
from jobs.settings import ROOT
from jobs.store.connection import translated
from jobs.store.job_store import AsyncJobStore, JobStore
from tests.helpers import wait_until
from worker.gpu import wait_for_redis
from worker.main import Stop
from worker.settings import WorkerSettings

KEYS = 400
SLOWLY = "key-load-delay 50000\nloading-process-events-interval-bytes 1024\n"  # 20 s, if left alone
WAITS_S = 30.0


class Loading:
    """A server that reads its file back until `finish`."""

    def __init__(self, server: servers.Valkey) -> None:
        self.server = server
        self.redis = Redis.from_url(server.url, socket_timeout=WAITS_S)

    def loads(self) -> bool:
        """Return True if the server says that it is loading."""
        try:
            return bool(int(self.redis.info("persistence")["loading"]))
        except RedisError:
            return False

    def finish(self) -> None:
        """Let it read the rest at once."""
        with suppress(RedisError):
            self.redis.config_set("key-load-delay", 0)
        wait_until(self.server.ready, "it has read its file back", WAITS_S)


@pytest.fixture
def server(memory_folder: Path, redis_binary: Path) -> Iterator[servers.Valkey]:
    """A server of the test's own."""
    with TemporaryDirectory(dir=memory_folder) as folder:
        made = servers.valkey(Path(folder), password="p", binary=redis_binary)
        made.start()
        try:
            made.wait_ready()
            yield made
        finally:
            made.kill()


@pytest.fixture
def loading(server: servers.Valkey) -> Iterator[Loading]:
    """That server, killed, started again and in the midst of its file."""
    with Redis.from_url(server.url) as redis:
        for number in range(KEYS):
            redis.set(f"padding:{number}", secrets.token_bytes(300), ex=3600)
        redis.bgrewriteaof()  # read back key by key, with a look at its clients in between
        wait_until(lambda: not rewriting(redis), "its file is written anew")
    server.kill()
    with (server.log.parent / "valkey.conf").open("a") as config:
        config.write(SLOWLY)
    server.start()
    under_test = Loading(server)
    wait_until(under_test.loads, "it loads")
    yield under_test
    under_test.redis.close()


def rewriting(redis: Redis) -> bool:
    said = redis.info("persistence")
    return bool(said["aof_rewrite_in_progress"] or said["aof_rewrite_scheduled"])


def test_a_server_that_loads_is_not_taken_for_one_without_its_file(loading: Loading) -> None:
    async def ask() -> None:
        store = AsyncJobStore(loading.server.url)
        with pytest.raises(StoreUnavailable):
            await store.check_server()
        await store.aclose()

    assert int(loading.redis.info()["aof_enabled"]) == 0  # what it says of itself meanwhile
    asyncio.run(ask())
    with JobStore(loading.server.url) as store:
        with pytest.raises(StoreUnavailable):
            store.check_server()
        loading.finish()
        store.check_server()


def test_a_worker_waits_until_it_is_loaded_and_says_why(
    loading: Loading, caplog: pytest.LogCaptureFixture
) -> None:
    settings = WorkerSettings.model_validate({"redis_url": loading.server.url})
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(wait_for_redis(settings, Stop())))

    with caplog.at_level(logging.WARNING):
        waiting.start()
        wait_until(lambda: "redis.awaited" in caplog.messages, "it says that it waits")
        loading.finish()
        waiting.join(WAITS_S)

    reasons = [getattr(record, "reason", "") for record in caplog.records]
    assert found == [True]
    assert all(a != b for a, b in pairwise(reasons)), reasons


@contextmanager
def role(server: servers.Valkey, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environ = {n: v for n, v in os.environ.items() if not n.startswith("PRINTWORKS_")}
    environ |= {
        "PRINTWORKS_REDIS_URL": server.url,
        "PRINTWORKS_WEBHOOK_KEY": base64.b64encode(bytes(32)).decode(),
        "PRINTWORKS_S3_ENDPOINT": "http://127.0.0.1:9",
    }
    argv = [sys.executable, "-m", *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["api", "--port", "0"], "api.store_away"),
        (["worker", "janitor"], "janitor.waits"),
        (["worker", "courier"], "courier.store_away"),
    ],
)
def test_a_role_that_starts_meanwhile_goes_on_once_it_is_loaded(
    loading: Loading, tmp_path: Path, arguments: list[str], says: str
) -> None:
    log = tmp_path / "log"

    with role(loading.server, log, *arguments) as process:
        wait_until(
            lambda: says in log.read_text() or process.poll() is not None, "it waits", WAITS_S
        )
        assert process.poll() is None, log.read_text()
        loading.finish()
        loading.redis.config_resetstat()
        wait_until(lambda: asked_for(loading), "it asks Redis for what it does")
        assert process.poll() is None

    said = log.read_text()
    assert "append-only" not in said
    assert "Traceback" not in said


def test_a_courier_that_starts_before_redis_goes_on_once_it_is_there(
    server: servers.Valkey, tmp_path: Path
) -> None:
    server.kill()
    log = tmp_path / "log"

    with role(server, log, "worker", "courier") as process:
        wait_until(
            lambda: "courier.store_away" in log.read_text() or process.poll() is not None,
            "it waits",
            WAITS_S,
        )
        server.start()
        wait_until(lambda: "courier.ready" in log.read_text(), "it goes on", WAITS_S)

    assert log.read_text().count("courier.store_away") == 1


def asked_for(loading: Loading) -> bool:
    """Return True if another client has read or run something there since it is loaded."""
    done = set(loading.redis.info("commandstats"))
    return bool(done & {f"cmdstat_{name}" for name in ("evalsha", "eval", "lrange", "psubscribe")})


def test_a_busy_script_is_waited_for(server: servers.Valkey) -> None:
    with Redis.from_url(server.url) as redis, JobStore(server.url) as store:
        redis.config_set("busy-reply-threshold", 1)
        endless = threading.Thread(target=run_for_ever, args=(server.url,))
        endless.start()
        wait_until(lambda: refused(redis).startswith("BUSY"), "it is busy")
        with pytest.raises(StoreUnavailable, match="busy with a script"):
            store.check_server()
        redis.script_kill()
        endless.join(WAITS_S)

        store.check_server()


def run_for_ever(url: str) -> None:
    with Redis.from_url(url) as redis, suppress(RedisError):
        redis.eval("while true do end", 0)


def refused(redis: Redis) -> str:
    """Return the error that a plain command is refused with."""
    try:
        redis.get("x")
    except RedisError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("stale", ["yes", "no"])
def test_a_replica_is_waited_for_until_it_is_the_primary(
    server: servers.Valkey, stale: str
) -> None:
    with Redis.from_url(server.url) as redis, JobStore(server.url) as store:
        redis.config_set("replica-serve-stale-data", stale)
        redis.execute_command("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(StoreUnavailable, match="replica"):
            store.check_server()
        with pytest.raises(StoreUnavailable), translated():
            redis.set("x", 1, ex=60)  # READONLY, or MASTERDOWN
        redis.execute_command("REPLICAOF", "NO", "ONE")

        store.check_server()
