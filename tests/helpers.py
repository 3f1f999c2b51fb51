"""What tests share and no product module needs: waiting, and looking after processes.

Owns no server (tests/conftest.py does). Invariant: nothing here waits longer than it was told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import NoReturn, TypeVar

import psutil
import pytest
from redis import Redis

from jobs.store import keys

T = TypeVar("T")
POLL_S = 0.01
LEFT_OUT = "not on this machine: "  # what tests/conftest.py sums up at the end of a run


def wait_until(predicate: Callable[[], T], description: str, timeout_s: float = 10.0) -> T:
    """The first truthy value of `predicate`; fails the test, naming what did not happen."""
    until = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > until:
            pytest.fail(f"not within {timeout_s:g} s: {description} (last seen: {value!r})")
        time.sleep(POLL_S)  # noqa: TID251 - the one place that polls


def tool_missing(reason: str) -> NoReturn:
    """Skip on a laptop; fail where CI says that everything must be there.

    `reason` says what is missing and how to get it: "no jq: `apt install jq`".
    """
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {reason}", pytrace=False)
    pytest.skip(f"{LEFT_OUT}{reason}")


def gone(process: psutil.Process) -> bool:
    """Whether it has ended: an orphan whose new parent does not reap it stays as a zombie."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True


def keys_without_ttl(redis: Redis) -> list[str]:
    """Every key that would stay for ever and is not allowed to."""
    names = [key.decode(errors="replace") for key in redis.scan_iter(count=1000)]
    return sorted(
        name
        for name in names
        if redis.ttl(name) == -1 and not any(fnmatchcase(name, p) for p in keys.ALLOWED_WITHOUT_TTL)
    )
