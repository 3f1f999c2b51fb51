"""A23: each process of `up` holds the secrets that it needs, and no other."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

import psutil
import pytest

from tests.e2e.running import STRANGE, Up

pytestmark = pytest.mark.skipif(not psutil.LINUX, reason="/proc/PID/environ is Linux's")

FORBIDDEN_NAMES = ("PRINTWORKS_*", "REDIS_URL", "AWS_*", "*PASSWORD*", "*SECRET*", "DATABASE_URL")


def held(process: psutil.Process, secrets: dict[str, str]) -> set[str]:
    """The names of the secrets that stand in its environment or on its command line."""
    shown = [*process.environ().values(), *process.cmdline()]
    return {name for name, secret in secrets.items() if any(secret in text for text in shown)}


def test_the_engine_process_holds_no_secret(up: Up) -> None:
    environ = up.engine().environ()
    secrets = json.loads((up.data / "secrets.json").read_text())

    assert held(up.engine(), secrets | STRANGE) == set()
    assert not [n for n in environ if any(fnmatchcase(n.upper(), p) for p in FORBIDDEN_NAMES)]
    assert environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "PATH" in environ


def test_every_other_process_holds_what_it_needs_alone(up: Up) -> None:
    secrets = json.loads((up.data / "secrets.json").read_text())
    pids = {pid: name for name, pid in up.said["pids"].items()}

    found = {}
    for process in up.family():
        name = pids.get(process.pid, f"a child of {pids.get(process.ppid())}")
        found[name] = found.get(name, set()) | held(process, secrets)

    assert {n: s for n, s in found.items() if s} == {
        "worker-1": {"redis_password", "s3_access_key", "s3_secret_key"},
        "api": {"redis_password", "s3_access_key", "s3_secret_key", "webhook_key"},
        "janitor": {"redis_password", "s3_access_key", "s3_secret_key"},
        "courier": {"redis_password", "webhook_key"},
        "seaweedfs": {"s3_access_key", "s3_secret_key"},
    }


def test_the_servers_hold_nothing_of_the_terminals(up: Up) -> None:
    for name in ("valkey", "seaweedfs"):
        environ = psutil.Process(up.pid(name)).environ()

        assert not set(environ) & set(STRANGE)
