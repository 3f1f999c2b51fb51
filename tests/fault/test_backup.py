"""Backup and restore as docs/operations.md says: copied while it runs, lost, restored."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx2
from redis import Redis

from api.settings import ApiSettings
from deploy import servers
from jobs.blobs.s3 import S3Blobs
from tests.api.hand_worker import HandWorker
from tests.api.serving import serving


def test_nothing_accepted_before_the_copy_is_lost(
    tmp_path: Path, s3_settings: dict[str, str], blobs: S3Blobs
) -> None:
    lost = servers.valkey(tmp_path / "lost", password="secret")
    lost.start()
    lost.wait_ready()
    settings = ApiSettings.model_validate({"redis_url": lost.url, **s3_settings})
    with serving(settings) as served:
        before = [_sent(served.client, n) for n in range(5)]
        taken = HandWorker(lost.url, blobs)
        running = taken.take().lease.job_id
        with Redis.from_url(lost.url) as redis:
            redis.config_set("auto-aof-rewrite-percentage", 0)
            shutil.copytree(tmp_path / "lost/appendonlydir", tmp_path / "restored/appendonlydir")
            redis.config_set("auto-aof-rewrite-percentage", 100)
        after = _sent(served.client, 6)
        lost.kill()
        taken.store.close()

    restored = servers.valkey(tmp_path / "restored", password="secret")
    restored.start()
    try:
        restored.wait_ready()
        settings = ApiSettings.model_validate({"redis_url": restored.url, **s3_settings})
        with serving(settings) as served:
            answers = {i: served.client.get(f"/v1/jobs/{i}") for i in (*before, after)}
            states = {i: a.json().get("status") for i, a in answers.items()}
            assert states[running] == "running"  # its worker is gone: reaped after one lease
            assert [states[i] for i in before if i != running] == ["queued"] * 4
            assert answers[after].status_code == 404
            worker = HandWorker(restored.url, blobs)
            assert worker.take().lease.job_id in before
            worker.store.close()
    finally:
        restored.kill()


def _sent(client: httpx2.Client, seed: int) -> str:
    answer = client.post("/v1/jobs", json={"prompt": "a cat", "seed": seed})
    assert answer.status_code == 202
    return answer.json()["id"]
