"""The picture store fails in every way it can; pixels once made are never made again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as Pillow
from redis import Redis

from jobs.blobs.s3 import S3Blobs
from jobs.contract.input_images import input_id
from jobs.contract.record import Image, Stage
from jobs.errors import BlobsUnavailable
from jobs.settings import RoleSettings
from jobs.store import keys
from jobs.store.job_store import JobStore
from tests.fault.s3_proxy import ERRORS, MODES, S3Proxy
from tests.fault.test_deaths import all_succeed, ready
from tests.helpers import wait_until
from tests.queue.making import admit, read, statuses
from tests.queue.worker_process import worker_process
from worker.pictures.input_fetcher import Fetching


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
    store: JobStore,
    redis: Redis,
    through: dict[str, str],
    proxy: S3Proxy,
    blobs: S3Blobs,
    tmp_path: Path,
):
    ids: list[str] = []
    with worker_process(through, log=tmp_path / "log"):
        for mode in MODES:
            proxy.set(mode)
            seen, refused = proxy.seen, tries(tmp_path)
            new = [admit(store, seed=k) for k in range(2)]
            wait_until(
                lambda n=new: all(parked(store, i) for i in n), f"{mode}: both are parked", 60
            )
            wait_until(lambda s=seen: proxy.seen > s, f"the store said {mode}", 60)
            if mode != "hang":  # which takes 30 s to be believed
                wait_until(lambda r=refused: tries(tmp_path) > r, f"{mode} was understood", 60)
            asked, tried = proxy.seen - seen, tries(tmp_path) - refused + 2  # two under way
            assert asked <= 3 * tried
            proxy.set("ok")
            all_succeed(store, redis, new, 60)
            ids += new

    again = sum(read(store, i).metrics["attempts"] - 1 for i in ids)
    wrong = [i.key for i in (read(store, j).images[0] for j in ids) if not whole(blobs, i)]
    print(
        f"T23, T24: {len(MODES)} faults of S3: made again {again:.0f}, lost 0, wrong {len(wrong)}"
    )
    assert (again, wrong) == (0, [])


def tries(folder: Path) -> int:
    """How many uploads were given up for now, as the worker tells it."""
    log = folder / "log"
    return log.read_text().count("blobs.away") if log.exists() else 0


def whole(blobs: S3Blobs, image: Image) -> bool:
    """Whether what is stored shows the pixels that were made."""
    data = b"".join(blobs.open(image.key).chunks())
    with Pillow.open(io.BytesIO(data)) as picture:
        return hashlib.sha256(picture.tobytes()).hexdigest() == image.pixel_sha256


def test_t23_every_second_request_told_to_slow_down_costs_no_picture(
    store: JobStore, redis: Redis, through: dict[str, str], proxy: S3Proxy
):
    proxy.set("half")
    with worker_process(through):
        ids = [admit(store, seed=k) for k in range(8)]
        all_succeed(store, redis, ids, 60)

    longest_ms = max(read(store, i).metrics["upload_ms"] for i in ids)
    print(f"T23: SlowDown 50 %: 8 pictures, {proxy.seen} requests, longest {longest_ms:.0f} ms")
    assert {read(store, i).metrics["attempts"] for i in ids} == {1.0}


def test_t23_a_store_that_is_away_is_asked_less_and_less(
    store: JobStore, through: dict[str, str], proxy: S3Proxy, tmp_path: Path
):
    proxy.set("slow_down")
    through |= {"PRINTWORKS_WORKER_SLOTS": "32"}
    with worker_process(through, log=tmp_path / "log"):
        ids = [admit(store, seed=k) for k in range(24)]
        wait_until(lambda: all(parked(store, i) for i in ids), "all are parked", 60)
        log = tmp_path / "log"
        wait_until(lambda: '"again_in_s": 4.0' in log.read_text(), "it waits longer", 60)

    # 0.5, 1, 2 and 4 s apart, and by both threads at first: not once for each of 24 pictures
    assert tries(tmp_path) <= 8
    assert proxy.seen <= 3 * 8


def test_t25_a_worker_started_again_clears_what_the_dead_one_left(
    store: JobStore, redis: Redis, through: dict[str, str], proxy: S3Proxy, tmp_path: Path
):
    proxy.set("slow_down")
    through |= {
        "PRINTWORKS_WORKER_SPOOL_MB": "1",
        "PRINTWORKS_WORKER_SPOOL_DIR": str(tmp_path),
        "PRINTWORKS_WORKER_SLOTS": "4",
        "PRINTWORKS_WORKER_GRACE_S": "1",
    }
    ids = [admit(store, seed=k, size="256x256") for k in range(8)]
    with worker_process(through) as killed:
        wait_until(lambda: held(tmp_path) > 1_000_000, "its spool is full", 60)
        killed.kill()
        killed.wait(10)
    left = held(tmp_path)

    with worker_process(through) as ended:
        wait_until(lambda: held(tmp_path) < left, "the dead one's pictures are gone", 60)
        wait_until(lambda: held(tmp_path) > 1_000_000, "its own spool is full", 60)
        ended.terminate()
        assert ended.wait(60) == 0
    assert held(tmp_path) == 0

    proxy.set("ok")
    with worker_process(through):
        all_succeed(store, redis, ids, 60)
    print(f"T25: {left / 1e6:.1f} MB left by a killed worker, 0 after; {len(ids)} jobs, 0 lost")


def test_t15_an_upload_that_hangs_does_not_hold_the_end_of_a_worker(
    store: JobStore, redis: Redis, through: dict[str, str], proxy: S3Proxy
):
    proxy.set("hang")
    through |= {"PRINTWORKS_WORKER_GRACE_S": "1"}
    with worker_process(through) as worker:
        ids = [admit(store, seed=k) for k in range(3)]
        wait_until(lambda: proxy.seen >= 2, "two uploads hang", 60)
        worker.terminate()
        code = worker.wait(25)  # boto3 alone would wait for 36 s

    assert code == 0
    assert [i.decode() for i in redis.lrange("rq:queue:demo.normal", 0, -1)] == ids
    assert redis.hmget(f"rq:job:{ids[0]}", "retries_left", "x_crashes") == [b"3", None]


def test_t25_a_picture_whose_file_was_taken_away_is_made_again(
    store: JobStore, redis: Redis, through: dict[str, str], proxy: S3Proxy, tmp_path: Path
):
    proxy.set("slow_down")
    spool = tmp_path / "spool"
    through |= {"PRINTWORKS_WORKER_SPOOL_DIR": str(spool)}
    with worker_process(through, log=tmp_path / "log"):
        job_id = admit(store)
        wait_until(lambda: tries(tmp_path) > 0, "it is parked", 60)
        for path in spool.rglob("*-0"):
            path.unlink()
        proxy.set("ok")
        all_succeed(store, redis, [job_id], 60)

    assert read(store, job_id).metrics["attempts"] == 2


def test_t23_an_input_whose_reading_is_cut_short_is_read_again(
    proxy: S3Proxy, s3_settings: dict[str, str]
):
    pixels = bytes(range(256)) * 192 * 6  # no half of it is a picture
    picture, into = Pillow.frombytes("RGB", (256, 384), pixels), io.BytesIO()
    picture.save(into, "PNG")
    settings = RoleSettings.model_validate(s3_settings | {"s3_endpoint": proxy.endpoint})
    blobs, an_id = S3Blobs(settings), input_id(256, 384, pixels)
    blobs.put("inputs/t/x.png", into.getvalue(), "image/png")
    fetching = Fetching(blobs)
    proxy.set("cut")

    fetching.fetch("e", {an_id: "inputs/t/x.png"})
    wait_until(lambda: proxy.cuts, "an answer was cut", 30)
    proxy.set("ok")
    (fetched,) = wait_until(fetching.done, "it is read again", 30)
    fetching.close()

    assert fetched.pictures is not None
    assert fetched.pictures[an_id].data == pixels


@pytest.mark.parametrize("mode", ["denied", "expired", "skewed", "no_bucket", "slow_down"])
def test_t24_the_reason_why_the_store_refuses_is_told(
    proxy: S3Proxy, s3_settings: dict[str, str], mode: str
):
    proxy.set(mode)
    settings = RoleSettings.model_validate(s3_settings | {"s3_endpoint": proxy.endpoint})

    with pytest.raises(BlobsUnavailable) as told:
        S3Blobs(settings).put("a", b"b", "image/png")

    assert ERRORS[mode][1] in str(told.value)


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
        wait_until(lambda: ready(redis)[0].held_up, "it says why it takes no more", 20)
        assert "spool" in str(ready(redis)[0].held_up)
        wait_until(
            lambda: "SlowDown" in str(ready(redis)[0].uploads_fail), "and that S3 refuses", 30
        )
        assert statuses(store, ids).count("queued") >= 8  # back-pressure: they wait for others
        proxy.set("ok")
        all_succeed(store, redis, ids)
        wait_until(lambda: held(tmp_path) == 0, "the spool is empty")
        wait_until(lambda: not ready(redis)[0].held_up, "nothing holds it up", 20)
        assert ready(redis)[0].uploads_fail is None

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
