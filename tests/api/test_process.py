"""`python -m api` as a process: what it refuses, what it weighs, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from api.__main__ import inherited, main

MAX_RSS = 120 * 2**20


@contextmanager
def process(
    root: Path,
    environ: dict[str, str],
    *args: str,
    fd: int | None = None,
    before: tuple[str, ...] = (),
) -> Iterator[subprocess.Popen[str]]:
    """The API as a process; `before`: what runs it, such as a shell that sets limits."""
    running = subprocess.Popen(
        [*before, sys.executable, "-m", "api", *args],
        cwd=root,
        env={"PATH": os.environ["PATH"], **environ},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[fd] if fd is not None else [],
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.fixture
def environ(redis_url: str, s3_settings: dict[str, str]) -> dict[str, str]:
    s3 = {f"PRINTWORKS_{name.upper()}": value for name, value in s3_settings.items()}
    return {"REDIS_URL": redis_url, **s3}


def test_a_process_serves_stays_small_and_ends_on_sigterm(root: Path, environ: dict[str, str]):
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with process(root, environ, "--fd", str(bound.fileno()), fd=bound.fileno()) as running:
            bound.close()
            with httpx2.Client(base_url=url, timeout=30) as client:
                for k in range(50):
                    sent = client.post("/v1/jobs", json={"prompt": "a cat", "seed": k})
                    assert sent.status_code == 202
                client.get("/openapi.json")
            used = psutil.Process(running.pid)
            mapped = {Path(m.path).name for m in used.memory_maps()}
            assert used.memory_info().rss < MAX_RSS
            assert not any("torch" in name for name in mapped)

            running.send_signal(signal.SIGTERM)
            _, logged = running.communicate(timeout=10)

    assert running.returncode == 0
    assert "a cat" not in logged
    lines = [json.loads(line) for line in logged.splitlines()]
    assert any(line["event"] == "api.request" and line["request_id"] for line in lines)
    admitted = [line for line in lines if line["event"] == "job.admitted"]
    assert all(line["job_id"] and line["request_id"] for line in admitted)
    assert len(admitted) == 50


def run(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], *args: str) -> int:
    """`python -m api` without the process: for what ends before it serves."""
    for name in [n for n in os.environ if n.startswith(("PRINTWORKS_", "REDIS_"))]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return main(list(args))


@pytest.mark.parametrize(
    ("extra", "args", "said"),
    [
        ({"PRINTWORKS_API_PROT": "1"}, (), "did you mean PRINTWORKS_API_PORT?"),
        ({"PRINTWORKS_API_PORT": "many"}, (), "PRINTWORKS_API_PORT"),
        ({}, ("--host", "0.0.0.0"), "python -m api keys create"),
        ({}, ("--uds", "/tmp/api.sock"), "python -m api keys create"),
        ({"PRINTWORKS_API_ANONYMOUS": "never"}, (), "python -m api keys create"),
    ],
)
def test_what_must_not_run_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str],
    extra: dict[str, str],
    args: tuple[str, ...],
    said: str,
):
    code = run(monkeypatch, environ | extra, *args)

    told = capsys.readouterr().err
    assert code == 2
    assert told.startswith("error: ")
    assert said in told
    assert len(told.splitlines()) == 1


def test_keys_are_made_listed_and_revoked_by_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environ: dict[str, str]
):
    def keys(*args: str) -> str:
        assert run(monkeypatch, environ, "keys", *args) == 0
        return capsys.readouterr().out

    made = json.loads(keys("create", "--tenant", "acme", "--scope", "jobs:read"))
    listed = keys("list")
    revoked = json.loads(keys("revoke", made["id"]))

    assert made["secret"].startswith(f"pw_{made['id']}_")
    assert made["tenant"] == "acme"
    assert made["secret"] not in listed
    assert json.loads(listed)[0]["scopes"] == ["jobs:read"]
    assert revoked["revoked_at"]
    assert run(monkeypatch, environ, "keys", "revoke", "nothing") == 1


def test_an_inherited_socket_is_known_for_what_it_is():
    with socket.create_server(("127.0.0.1", 0)) as bound, inherited(bound.detach()) as known:
        # asyncio switches Nagle's algorithm off for these two only: 40 ms an answer otherwise
        assert (known.family, known.proto) == (socket.AF_INET, socket.IPPROTO_TCP)
