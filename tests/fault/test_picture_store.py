"""The picture store fails in every way it can; pixels once made are never made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from jobs import keys
from jobs.blobs import Blobs
from jobs.record import Stage
from jobs.store import JobStore
from tests.fault.s3_proxy import MODES, S3Proxy
from tests.fault.test_deaths import all_succeed, ready
from tests.helpers import wait_until
from tests.queue.making import admit, read, statuses
from tests.queue.worker_process import worker_process


@pytest.fixture
def proxy(s3_settings: dict[str, str]) -> Iterator[S3Proxy]:
    with S3Proxy(s3_settings["s3_endpoint"]) as proxy:
        yield proxy
        proxy.set("ok")
        proxy.shutdown()


@pytest.fixture
def through(environ: dict[str, str], proxy: S3Proxy) -> dict[str, str]:
    return environ | {"PRINTWORKS_S3_ENDPOINT": proxy.endpoint}


def test_t23_t24_jobs_park_in_uploading_and_end_when_the_store_is_back(
    store: JobStore, redis: Redis, through: dict[str, str], proxy: S3Proxy, blobs: Blobs
):
    ids: list[str] = []
    with worker_process(through):
        for mode in MODES:
            proxy.set(mode)
            seen, new = proxy.seen, [admit(store, seed=k) for k in range(2)]
            wait_until(lambda n=new: all(parked(store, i) for i in n), "both are parked", 20)
            wait_until(lambda s=seen: proxy.seen > s, f"the store said {mode}", 20)
            proxy.set("ok")
            all_succeed(store, redis, new)
            ids += new

    assert [read(store, i).metrics["attempts"] for i in ids] == [1.0] * len(ids)  # none made again
    for image in (read(store, i).images[0] for i in ids):
        assert len(b"".join(blobs.open(image.key).chunks())) == image.bytes


def test_t25_a_full_spool_holds_claims_and_no_picture_is_lost(
    store: JobStore, redis: Redis, through: dict[str, str], proxy: S3Proxy, tmp_path: Path
):
    proxy.set("slow_down")
    through |= {
        "PRINTWORKS_WORKER_SPOOL_MB": "1",
        "PRINTWORKS_WORKER_SPOOL_DIR": str(tmp_path),
        "PRINTWORKS_WORKER_SLOTS": "4",
    }

    with worker_process(through):
        ids = [admit(store, seed=k, size="256x256") for k in range(24)]  # 196 KB each as PNG
        wait_until(lambda: held(tmp_path) > 1_000_000, "the spool is full", 20)
        (report,) = ready(redis)
        assert statuses(store, ids).count("queued") >= 8  # back-pressure: they wait for others
        assert report.name
        proxy.set("ok")
        all_succeed(store, redis, ids)
        wait_until(lambda: held(tmp_path) == 0, "the spool is empty")

    assert {read(store, i).metrics["attempts"] for i in ids} == {1.0}


def parked(store: JobStore, job_id: str) -> bool:
    return read(store, job_id).stage is Stage.UPLOADING


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_canceled_job_is_no_longer_uploaded(
    store: JobStore, redis: Redis, through: dict[str, str], proxy: S3Proxy
):
    proxy.set("slow_down")

    with worker_process(through):
        job_id = admit(store)
        wait_until(lambda: read(store, job_id).stage is Stage.UPLOADING, "it is parked", 20)
        store.cancel(job_id, tenant="acme")
        other = admit(store)
        wait_until(lambda: read(store, other).stage is Stage.UPLOADING, "the next is parked", 20)
        proxy.set("ok")
        all_succeed(store, redis, [other])

    assert read(store, job_id).images == ()
    assert redis.zscore(keys.ERASE, f"acme/{job_id}/1.png") is not None
