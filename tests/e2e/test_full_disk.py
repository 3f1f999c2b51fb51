"""A17: the disk of an `up` is full, and has room again: everything is up again by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.readiness import reasons
from tests.e2e.running import Up
from tests.fault.test_full_disk import fill, small_disk
from tests.helpers import wait_until

DISK_MB = 96
PROMPT = "a red bicycle on a cobblestone street"
BACK_S = 120.0

pytestmark = pytest.mark.timeout(300)


def test_up_survives_a_full_disk_and_makes_pictures_again_when_there_is_room(
    tmp_path: Path, tiny_models: Path
) -> None:
    with small_disk(tmp_path / "data", DISK_MB) as disk:
        up = Up(disk, tiny_models, "--no-first-picture")
        try:
            up.wait_ready()
            before = up.client.wait(up.client.submit(PROMPT, seed=1).id, timeout_s=60)
            ballast = fill(disk)
            wait_until(lambda: "No space left on device" in up.log.read_text(), "it is said", 60)
            wait_until(lambda: up.log.read_text().count("valkey ended") >= 3, "it stays full", 60)
            assert up.process.poll() is None
            ballast.unlink()

            wait_until(lambda: not reasons(up.said["api_url"]), "it is ready again", BACK_S)
            after = up.client.wait(up.client.submit(PROMPT, seed=1).id, timeout_s=60)

            assert up.process.poll() is None
            wait_until(lambda: set(up.said["pids"].values()) <= alive(up), "up.json is true again")
        finally:
            up.end()

    assert (before.status, after.status) == ("succeeded", "succeeded")
    assert before.images[0].pixel_sha256 == after.images[0].pixel_sha256


def alive(up: Up) -> set[int]:
    return {up.process.pid, *(process.pid for process in up.family())}
