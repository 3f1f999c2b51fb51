"""What the queue's tests share: jobs, settings of quick workers, and the store.

Leases are short here so that recovery can be waited for; the constants of the product are tested
as figures in tests/fault.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs.store.job_store import JobStore
from tests.queue.making import QUICK


@pytest.fixture
def store(redis_url: str) -> Iterator[JobStore]:
    with JobStore(redis_url) as store:
        yield store


@pytest.fixture
def environ(redis_url: str, s3_settings: dict[str, str]) -> dict[str, str]:
    """The environment of a quick worker process on this test's servers."""
    shared = {f"PRINTWORKS_{name.upper()}": value for name, value in s3_settings.items()}
    return {"PRINTWORKS_REDIS_URL": redis_url, **shared, **QUICK}
