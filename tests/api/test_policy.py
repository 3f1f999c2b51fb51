"""Blocked prompts: refused before anything is kept, without a word of which one it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from api.services.prompt_policy import Policy, normal_form
from api.settings import ApiSettings
from jobs.errors import SettingsError
from jobs.store.api_keys import Scope, make_key
from tests.api.serving import Served, serving
from tests.api.test_metrics import scraped

LIST = """# what this studio does not draw
zqxplant          # a word
green zqxowl      # a phrase
"""


@pytest.fixture
def blocked_file(tmp_path: Path) -> Path:
    path = tmp_path / "blocked.txt"
    path.write_text(LIST)
    return path


@pytest.fixture
def strict(api_settings: ApiSettings, redis_url: str, blocked_file: Path) -> Iterator[Served]:
    with serving(api_settings.model_copy(update={"blocked_prompts": blocked_file})) as served:
        yield served


@pytest.mark.parametrize(
    "prompt",
    [
        "a zqxplant",
        "A ZQXPLANT!",
        "a zqx\u200bplant",  # a zero-width space hides it from nobody but us
        "a ｚｑｘｐｌａｎｔ",  # full width
        "a green_ZQXowl.",
        "green\n zqxowl",
    ],
)
def test_a_blocked_prompt_is_refused_however_it_is_written(blocked_file: Path, prompt: str):
    from api.errors import PromptBlocked

    with pytest.raises(PromptBlocked):
        Policy.of(blocked_file).check(prompt)


@pytest.mark.parametrize("prompt", ["a zqxplantation", "a zqxowl", "green", "a green, zqx owl"])
def test_whole_words_only(blocked_file: Path, prompt: str):
    Policy.of(blocked_file).check(prompt)


def test_accents_in_either_form_are_one():
    assert normal_form("Cafe\u0301") == normal_form("CAFÉ")


def test_nothing_is_kept_counted_as_a_job_or_told(
    strict: Served, redis: Redis, caplog: pytest.LogCaptureFixture
):
    new = make_key(tenant="acme")
    redis.hset("pw:api-keys", new.key.id, new.key.model_dump_json())
    mine = {"authorization": f"Bearer {new.secret}"}
    caplog.set_level("DEBUG")
    api = strict.client
    job = {"prompt": "a secret zqxplant"}
    fine = {"prompt": "a cat"}

    refused = {
        "job": api.post("/v1/jobs", json=job, headers=mine),
        "dry run": api.post("/v1/jobs?dry_run=true", json=job, headers=mine),
        "group": api.post("/v1/job-groups", json={"jobs": [fine, job]}, headers=mine),
    }

    for answer in refused.values():
        body = answer.json()
        assert (answer.status_code, body["code"]) == (422, "prompt_blocked")
        assert "zqx" not in answer.text
        assert "line" not in body["errors"][0]["detail"]
    assert refused["job"].json()["errors"][0]["pointer"] == "/prompt"
    assert refused["group"].json()["errors"][0]["pointer"] == "/jobs/1/prompt"
    assert "zqx" not in caplog.text
    assert api.get("/v1/jobs", headers=mine).json()["jobs"] == []
    assert not list(redis.scan_iter("rq:job:*"))
    assert scraped(api)["printworks_admissions_total", 'result="prompt_blocked"'] == 3


def test_an_administrator_is_told_the_line(strict: Served, redis: Redis):
    new = make_key(tenant="ops", scopes=list(Scope))
    redis.hset("pw:api-keys", new.key.id, new.key.model_dump_json())
    headers = {"authorization": f"Bearer {new.secret}"}

    answer = strict.client.post("/v1/jobs", json={"prompt": "green zqxowl"}, headers=headers)

    assert "(line 3 of the list)" in answer.json()["errors"][0]["detail"]
    assert "zqx" not in answer.text


def test_what_was_sent_before_the_list_is_not_repeated(
    api: httpx2.Client, api_settings: ApiSettings, blocked_file: Path
):
    sent = api.post("/v1/jobs", json={"prompt": "a zqxplant"})
    with serving(api_settings.model_copy(update={"blocked_prompts": blocked_file})) as served:
        again = served.client.post(f"/v1/jobs/{sent.json()['id']}/rerun")

    assert sent.status_code == 202
    assert again.json()["code"] == "prompt_blocked"


@pytest.mark.parametrize("content", [None, b"# nothing\n\n", b"\xff\xfe"])
def test_a_list_that_cannot_be_read_or_blocks_nothing_stops_the_start(
    tmp_path: Path, content: bytes | None
):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SettingsError, match="PRINTWORKS_API_BLOCKED_PROMPTS"):
        Policy.of(path)


def test_without_a_list_nothing_is_blocked():
    Policy.of(None).check("a zqxplant")
