"""What runs on one machine: our own servers, unless the environment names others."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from deploy.data import DataFolder
from deploy.service import Service, ServiceError
from deploy.stack import Stack, _engine_ready, one_machine
from jobs.store import keys
from tests.fault.test_full_disk import fill, small_disk

S3 = {
    "PRINTWORKS_S3_ENDPOINT": "http://127.0.0.1:9",
    "PRINTWORKS_S3_BUCKET": "b",
    "PRINTWORKS_S3_ACCESS_KEY": "k",
    "PRINTWORKS_S3_SECRET_KEY": "s",
}


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataFolder]:
    """A data folder of the test's own."""
    folder = DataFolder(tmp_path / "data")
    yield folder
    folder.close()


def names(stack: Stack) -> list[str]:
    return [service.name for service in stack.services]


def test_everything_is_started_and_the_workers_first(data: DataFolder) -> None:
    stack = one_machine(data, port=0, workers=2, environ={})

    assert names(stack) == [
        "valkey",
        "seaweedfs",
        "worker-1",
        "worker-2",
        "api",
        "janitor",
        "courier",
    ]
    assert stack.env["PRINTWORKS_REDIS_URL"] == stack.redis_url
    assert stack.env["PRINTWORKS_S3_SECRET_KEY"] == stack.s3["secret_key"]


def test_what_uses_a_server_is_stopped_before_it(data: DataFolder) -> None:
    services = {s.name: s for s in one_machine(data, port=0, workers=1, environ={}).services}

    for user in ("worker-1", "api"):
        assert {"valkey", "seaweedfs"} <= {*services[user].after, *services[user].uses}


@pytest.mark.parametrize(
    ("listed", "passed"),
    [("", ""), ("https://a.example, https://b.example", "https://a.example,https://b.example")],
)
def test_the_pages_that_may_call_the_api_may_read_pictures_and_no_others(
    data: DataFolder, listed: str, passed: str
) -> None:
    environ = {"PRINTWORKS_API_CORS_ORIGINS": listed}

    services = {s.name: s for s in one_machine(data, port=0, workers=1, environ=environ).services}

    assert f"-s3.allowedOrigins={passed}" in services["seaweedfs"].argv


def test_servers_that_the_environment_names_are_used(data: DataFolder) -> None:
    environ = {"REDIS_URL": "redis://127.0.0.1:9/0", **S3}

    stack = one_machine(data, port=0, workers=1, environ=environ)

    assert names(stack) == ["worker-1", "api", "janitor", "courier"]
    assert stack.redis_url == "redis://127.0.0.1:9/0"
    assert stack.s3 == {
        "endpoint": "http://127.0.0.1:9",
        "bucket": "b",
        "access_key": "k",
        "secret_key": "s",
    }


def test_a_setting_of_the_person_at_the_terminal_is_kept(data: DataFolder) -> None:
    environ = {"PRINTWORKS_WORKER_STATE_DIR": "/elsewhere", "PRINTWORKS_WEBHOOK_KEY": "theirs"}

    stack = one_machine(data, port=0, workers=1, environ=environ)

    assert stack.env["PRINTWORKS_WORKER_STATE_DIR"] == "/elsewhere"
    assert stack.env["PRINTWORKS_WEBHOOK_KEY"] == "theirs"


def test_a_port_in_use_is_refused_with_what_to_do(data: DataFolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ServiceError, match=f"port {port} is in use; --port 0"):
            one_machine(data, port=port, workers=1, environ={})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up", "--port", "70000"], "give a port from 0 to 65535"),
        (["up", "--workers", "0"], "give a number of workers from 1 to 64"),
        (["up", "--prot", "1"], "unknown argument: --prot"),
        (["down"], "invalid choice: 'down'"),
    ],
)
def test_a_wrong_command_line_ends_with_2(root: Path, arguments: list[str], said: str) -> None:
    argv = [sys.executable, str(root / "deploy"), *arguments]

    ended = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert said in ended.stderr


def test_what_another_version_says_of_itself_ends_nothing(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", "import signal; signal.pause()"]
    worker = Service(name="w", argv=argv, log=tmp_path / "log", ready=lambda: False)
    worker.start()
    ready = _engine_ready(worker, redis_url)
    said = [b"\xff", b"[]", b"7", b'{"engine_ready": true}', b'{"pid": "x"}']
    for number, report in enumerate(said):
        say(redis, f"odd-{number}", report)

    assert not ready()
    say(redis, "ours", json.dumps({"pid": worker.pid, "engine_ready": True}).encode())
    assert ready()
    worker.kill()


def say(redis: Redis, name: str, report: bytes) -> None:
    redis.sadd(keys.RQ_WORKERS, keys.rq_key("worker", name))
    redis.expire(keys.RQ_WORKERS, 60)
    redis.set(keys.worker(name), report, ex=60)


@pytest.mark.parametrize("given", [{}, {"no_proxy": "localhost,127.0.0.0/8"}, {"NO_PROXY": "a.b"}])
def test_no_proxy_stands_between_the_roles_and_this_machine(
    data: DataFolder, given: dict[str, str]
) -> None:
    stack = one_machine(data, port=0, workers=1, environ={"HTTP_PROXY": "http://p:9", **given})

    for name in ("no_proxy", "NO_PROXY"):
        direct = stack.env[name].split(",")
        assert {"localhost", "127.0.0.1", "::1"} <= set(direct)
        assert {part for value in given.values() for part in value.split(",")} <= set(direct)


def test_no_proxy_at_all_stays_none(data: DataFolder) -> None:
    environ = {"HTTP_PROXY": "http://p:9", "no_proxy": "*"}

    assert one_machine(data, port=0, workers=1, environ=environ).env["no_proxy"] == "*"


def test_a_full_disk_at_the_start_is_said_in_words(tmp_path: Path, root: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        argv = [sys.executable, root / "deploy", "up", "--no-install", "--port", "0"]

        ended = subprocess.run([*argv, "--data", disk], capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    assert "free some space there" in ended.stderr
    assert "Traceback" not in ended.stderr
