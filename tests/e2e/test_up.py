"""The whole path for real: `python3 deploy up`, jobs over HTTP, pictures out of S3, and deaths."""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image as Picture
from printworks import Job
from printworks.types import JobOptions

from tests.e2e.running import DEAD_PROXY, MODELS, Up
from tests.helpers import gone, wait_until

PROMPT = "a red bicycle on a cobblestone street"
# All different; alike in length, so that all eight are under way together to the end.
STEPS = {  # heun asks the model twice a step
    "ddim": 16,
    "euler": 17,
    "dpmpp_2m": 18,
    "heun": 10,
    "pndm": 20,
    "unipc": 21,
    "euler_a": 22,
    "lms": 24,
}
UNLIKE: list[JobOptions] = [
    {
        "steps": steps,
        "guidance_scale": 1.5 + k,
        "negative_prompt": f"blurry {k}",
        "sampler": sampler,
        "seed": 100 + k,
    }
    for k, (sampler, steps) in enumerate(STEPS.items())
]
WAIT_S = 110.0

pytestmark = pytest.mark.timeout(240)


def send(up: Up) -> list[Job]:
    return [up.client.submit(PROMPT, **options) for options in UNLIKE]


def ended(up: Up, jobs: list[Job]) -> list[Job]:
    return [up.client.wait(job.id, timeout_s=WAIT_S) for job in jobs]


def hashes(jobs: list[Job]) -> list[str]:
    assert [job.status for job in jobs] == ["succeeded"] * len(jobs), [job.error for job in jobs]
    return [image.pixel_sha256 for job in jobs for image in job.images]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The pixels of each of UNLIKE made alone, once they are known."""
    return {}


@pytest.fixture
def expected(up: Up, alone: dict[str, Any]) -> list[str]:
    """The pixels that each of UNLIKE has to have."""
    if "hashes" not in alone:
        one_by_one = [ended(up, [up.client.submit(PROMPT, **options)])[0] for options in UNLIKE]
        alone["hashes"] = hashes(one_by_one)
    return alone["hashes"]


def test_up_json_says_where_everything_is_to_this_user_alone(up: Up) -> None:
    said = up.said

    assert stat.S_IMODE((up.data / "up.json").stat().st_mode) == 0o600
    assert set(said) == {"api_url", "api_key", "redis_url", "s3", "pids"}
    assert set(said["s3"]) == {"endpoint", "bucket", "access_key", "secret_key"}
    assert all(psutil.pid_exists(pid) for pid in said["pids"].values())


def test_eight_unlike_jobs_run_together_and_have_the_pixels_they_have_alone(
    up: Up, expected: list[str]
) -> None:
    jobs = ended(up, send(up))

    assert hashes(jobs) == expected
    assert len(set(expected)) == 8
    means = [job.metrics["batch_size_mean"] for job in jobs]
    assert min(means) >= 4, means


def kill_engine(up: Up) -> None:
    up.engine().kill()


def kill_worker(up: Up) -> None:
    os.kill(up.pid("worker-1"), signal.SIGKILL)


def kill_api(up: Up) -> None:
    os.kill(up.pid("api"), signal.SIGKILL)


def kill_valkey(up: Up) -> None:
    os.kill(up.pid("valkey"), signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_engine, kill_worker, kill_api, kill_valkey])
def test_eight_running_jobs_survive_the_death_of(
    up: Up, expected: list[str], kill: Callable[[Up], None]
) -> None:
    jobs = send(up)
    wait_until(
        lambda: all(up.client.get(job.id).status != "queued" for job in jobs),
        "all eight are under way",
        60,
    )

    kill(up)

    assert hashes(ended(up, jobs)) == expected


def test_the_api_is_small(up: Up) -> None:
    process = psutil.Process(up.pid("api"))

    assert process.memory_info().rss < 120e6
    maps = Path(f"/proc/{process.pid}/maps")  # Linux only
    assert not maps.exists() or "libtorch" not in maps.read_text()


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_nothing_survives_a_sigkill_of_the_supervisor(up: Up) -> None:
    family = up.family()
    engine = up.engine()

    up.process.kill()
    up.process.wait()

    assert engine in family
    wait_until(lambda: all(map(gone, family)), "every process has ended", 20)


def test_once_makes_one_picture_behind_a_proxy_that_reaches_nothing_and_leaves_nothing(
    tmp_path: Path, tiny_models: Path
) -> None:
    out = tmp_path / "out.png"

    once = Up(tmp_path / "data", tiny_models, "--once", PROMPT, "-o", str(out), more=DEAD_PROXY)

    assert once.process.wait(120) == 0, once.log.read_text()
    with Picture.open(out) as picture:
        assert (picture.format, picture.size) == ("PNG", (32, 32))
    assert not (tmp_path / "data" / "up.json").exists()
    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
    assert not left


def test_a_model_file_without_a_usable_model_ends_up_at_once_in_words(tmp_path: Path) -> None:
    models = tmp_path / "models.toml"
    (only,) = re.findall(r"\[\[model\]\]\nid = \"tiny\".*?(?=\n\[\[model)", MODELS, re.DOTALL)
    models.write_text(only.replace('source = "tiny"', 'source = "not-there"'))

    broken = Up(tmp_path / "data", models, "--no-first-picture")

    assert broken.process.wait(200) == 1
    said = broken.log.read_text()
    assert f"no model of {models} can be loaded" in said
    assert "'not-there' is no folder below" in said
    assert "python -m worker models check tiny" in said
    assert "starting it again" not in said
