"""Commands of `printworks` beyond one job: batches, grids, groups, webhooks; and their options."""

from __future__ import annotations

import io
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from tests.api.hand_worker import HandWorker
from tests.api.hostile_pictures import a_picture, encoded
from tests.api.serving import Served
from tests.client.test_cli import PROMPT, Shell, ended, operating, queued, shell
from tests.helpers import wait_until

__all__ = ["operating", "shell"]
# Fields of a request without an option of the same name, and what there is instead.
OTHERWISE = {
    "prompt": "PROMPT",
    "preview": "the terminal shows no images; --set preview=true",
    "output": "--format",
    "loras": "--lora",
}


def work(served: Served, worker: HandWorker, count: int) -> None:
    """Make the next `count` jobs, as they come."""
    file = encoded(a_picture(64, 64))
    for _ in range(count):
        wait_until(lambda: served.client.get("/v1/queue").json()["queued"], "a job waits", 30)
        worker.finish(worker.take(), file)


def test_every_field_of_a_request_is_an_option_by_its_name(shell: Shell, root: Path) -> None:
    document = json.loads((root / "docs" / "openapi.json").read_text())
    fields = document["components"]["schemas"]["JobRequest"]["properties"]
    _, text, _ = shell.run("generate", "--help")
    options = set(re.findall(r"--[a-z-]+", text))

    for field in fields:
        if field not in OTHERWISE:
            assert f"--{field.replace('_', '-')}" in options, field
    assert {o for o in OTHERWISE.values() if o.startswith("--")} - {"--lora", "--format"} <= options


def test_each_option_reaches_its_field(shell: Shell) -> None:
    picture = [
        "--seed",
        "5,6",
        "-n",
        "2",
        "--width",
        "96",
        "--height",
        "64",
        "--guidance-scale",
        "2",
    ]
    file = ["--format", "webp", "--quality", "80", "--no-settings-in-file"]
    job = [
        "--priority",
        "low",
        "--deadline-s",
        "90",
        "--retention-s",
        "120",
        "--set",
        "preview=true",
    ]
    own = ["--metadata", "shot=3", "--metadata", "by=me", "--negative-prompt", "blurred"]
    given = [*picture, *file, *job, *own]

    code, out, err = shell.run("generate", PROMPT, *given, "--dry-run")

    assert code == 0, err
    resolved = json.loads(out)["resolved"]
    wanted = {
        "seed": [5, 6],
        "n": 2,
        "width": 96,
        "height": 64,
        "negative_prompt": "blurred",
        "guidance_scale": 2.0,
        "output": {"format": "webp", "quality": 80, "metadata": False},
        "priority": "low",
        "deadline_s": 90.0,
        "retention_s": 120,
        "metadata": {"shot": 3, "by": "me"},
        "preview": True,
    }
    assert {name: resolved[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--seed", "x"], "a number"),
        (["--lora", "ink:x"], "NAME:WEIGHT"),
        (["--metadata", "x"], "NAME=VALUE"),
        (["--set", "stpes=3"], "did you mean"),  # the service's own words
        (["-o", "gone/a.png"], "there is no folder"),
        (["-o", "a.gif"], "must end in"),
    ],
)
def test_what_cannot_be_is_refused_before_a_job_is_made(
    shell: Shell, served: Served, given: list[str], words: str
) -> None:
    code, _, err = shell.run("generate", PROMPT, *given)

    assert code == 2
    assert words in " ".join(err.split())
    assert served.client.get("/v1/jobs").json()["jobs"] == []


def test_a_list_in_a_pipe_is_whole(shell: Shell) -> None:
    prompt = "a very long prompt " * 20
    job_id = shell.run("generate", prompt, "--no-wait")[1].strip()

    _, out, _ = shell.run("jobs")

    (line,) = [line for line in out.splitlines() if job_id in line]
    assert prompt.strip() in line


def test_the_version_is_that_of_the_client(shell: Shell) -> None:
    assert re.fullmatch(r"printworks \d+\.\d+\.\d+\n", shell.run("--version")[1])


def test_a_job_is_watched_repeated_and_deleted(
    shell: Shell, served: Served, worker: HandWorker
) -> None:
    job_id = shell.run("generate", PROMPT, "--no-wait", "--seed", "9")[1].strip()
    watching = shell.start("watch", job_id, "-o", "a.png")
    work(served, worker, 1)
    assert ended(watching)[:2] == (0, "a.png\n")

    repeating = shell.start("rerun", job_id, "-o", "b.png")
    work(served, worker, 1)
    code, out, err = ended(repeating)
    assert (code, out) == (0, "b.png\n")
    assert "seed 9" in err

    assert shell.run("delete", job_id)[1] == f"{job_id} deleted\n"
    assert shell.run("jobs", job_id)[0] == 6


def test_an_interrupted_watch_leaves_the_job_alone(shell: Shell, served: Served) -> None:
    job_id = shell.run("generate", PROMPT, "--no-wait")[1].strip()
    watching = shell.start("watch", job_id)
    assert watching.stderr is not None
    assert job_id in watching.stderr.readline()
    assert "next" in watching.stderr.readline()

    watching.send_signal(signal.SIGINT)

    assert ended(watching)[0] == 130
    assert served.client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"


def written(shell: Shell, lines: list[dict[str, Any]]) -> None:
    text = "\n\n".join(json.dumps(line) for line in lines)
    (shell.folder / "requests.jsonl").write_text(text)


def test_a_batch_makes_each_line_once_and_says_what_failed(
    shell: Shell, served: Served, worker: HandWorker
) -> None:
    written(
        shell,
        [{"prompt": "one"}, {"prompt": "two", "steps": 9999}, {"prompt": "three", "n": 2}],
    )
    running = shell.start("batch", "requests.jsonl", "-o", "made", "--set", "size=64x64")
    work(served, worker, 2)

    code, out, err = ended(running)

    assert (code, out) == (1, "2 of 3: made\n")
    assert "line 3: refused steps" in err
    names = sorted(p.name for p in (shell.folder / "made").glob("*.png"))
    assert names == ["00001.png", "00005-0.png", "00005-1.png"]
    again = shell.run("batch", "requests.jsonl", "-o", "made", "--set", "size=64x64")
    assert again[0] == 1  # the line that is wrong stays wrong, and the others are not made again
    assert len(served.client.get("/v1/jobs").json()["jobs"]) == 2


def test_a_batch_that_was_killed_goes_on_with_the_jobs_that_it_sent(
    shell: Shell, served: Served, worker: HandWorker
) -> None:
    written(shell, [{"prompt": f"picture {n}"} for n in range(4)])
    killed = shell.start("batch", "requests.jsonl", "-o", "made", "--parallel", "2")
    sent = set(queued(served, 2))
    killed.kill()
    ended(killed)

    running = shell.start("batch", "requests.jsonl", "-o", "made", "--parallel", "4")
    work(served, worker, 4)

    assert ended(running)[:2] == (0, "4 of 4: made\n")
    jobs = {job["id"] for job in served.client.get("/v1/jobs").json()["jobs"]}
    assert len(jobs) == 4  # none was sent twice
    assert sent < jobs


def test_a_batch_whose_image_could_not_be_written_fetches_it_the_next_time(
    shell: Shell, served: Served, worker: HandWorker
) -> None:
    written(shell, [{"prompt": "a picture"}])
    (shell.folder / "made" / "00001.png").mkdir(parents=True)
    running = shell.start("batch", "requests.jsonl", "-o", "made")
    work(served, worker, 1)
    code, _, err = ended(running)
    assert code == 1
    assert "run it again" in err
    assert "Traceback" not in err

    (shell.folder / "made" / "00001.png").rmdir()

    assert shell.run("batch", "requests.jsonl", "-o", "made")[:2] == (0, "1 of 1: made\n")
    assert len(served.client.get("/v1/jobs").json()["jobs"]) == 1


def test_an_interrupted_batch_cancels_what_it_sent(shell: Shell, served: Served) -> None:
    written(shell, [{"prompt": f"picture {n}"} for n in range(3)])
    running = shell.start("batch", "requests.jsonl", "-o", "made", "--parallel", "2")
    queued(served, 2)

    running.send_signal(signal.SIGINT)

    code, _, err = ended(running)
    assert code == 130
    assert "run it again" in err
    states = {job["status"] for job in served.client.get("/v1/jobs").json()["jobs"]}
    assert states == {"canceled"}


def test_a_spreadsheet_is_a_batch(shell: Shell, served: Served, worker: HandWorker) -> None:
    (shell.folder / "requests.csv").write_text(
        '\ufeffprompt,seed,size,metadata\n42,7,64x64,"{""row"": 1}"\n"a cat, asleep",,96x64,\n'
    )
    running = shell.start("batch", "requests.csv", "-o", "made", "--json")
    work(served, worker, 2)

    code, out, _ = ended(running)

    assert (code, json.loads(out)["succeeded"]) == (0, 2)
    second, first = (j["resolved"] for j in served.client.get("/v1/jobs").json()["jobs"])
    if first["prompt"] != "42":
        first, second = second, first
    assert (first["prompt"], first["seed"], first["metadata"]) == ("42", [7], {"row": 1})
    assert (second["prompt"], second["width"]) == ("a cat, asleep", 96)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"seed": 1}', "line 2: there is no prompt"),
        ("a.jsonl", '{"prompt": "x"}\n[1]', "line 2: not an object"),
        ("a.jsonl", '{"prompt"', "line 1"),
        ("a.csv", "seed\n1\n", "line 2: there is no prompt"),
        ("a.jsonl", "\n", "no request"),
        ("gone.jsonl", None, "No such file"),
    ],
)
def test_a_file_that_is_no_batch_is_refused_with_its_line(
    shell: Shell, name: str, text: str | None, words: str
) -> None:
    if text is not None:
        (shell.folder / name).write_text(text)

    code, _, err = shell.run("batch", name, "-o", "made")

    assert code == 2
    assert words in " ".join(err.replace("│", " ").split())


def test_a_grid_varies_two_settings_and_nothing_else(
    shell: Shell, served: Served, worker: HandWorker
) -> None:
    axes = ["--x", "steps=4,8,16", "--y", "guidance_scale=1,6", "--set", "size=64x64"]
    running = shell.start("grid", PROMPT, *axes, "-o", "grid.png")
    work(served, worker, 6)

    assert ended(running)[:2] == (0, "grid.png\n")
    jobs = [job["resolved"] for job in served.client.get("/v1/jobs").json()["jobs"]]
    assert len({tuple(job["seed"]) for job in jobs}) == 1
    cells = {(job["steps"], job["guidance_scale"]) for job in jobs}
    assert cells == {(s, g) for s in (4, 8, 16) for g in (1.0, 6.0)}
    picture = Pillow.open(io.BytesIO((shell.folder / "grid.png").read_bytes()))
    assert picture.width > 3 * 64
    assert picture.height > 2 * 64


def test_a_group_is_listed_and_canceled(shell: Shell, served: Served) -> None:
    body = {"jobs": [{"prompt": "one"}, {"prompt": "two"}]}
    group = served.client.post("/v1/job-groups", json=body).json()

    assert len(json.loads(shell.run("--json", "group", group["id"])[1])) == 2
    assert shell.run("group", group["id"], "--cancel")[1].count("canceled") == 2
    assert shell.run("group", "nowhere")[0] == 6
    assert "demo" in shell.run("queue")[1]


def test_webhooks_need_a_key_and_a_service_that_has_them(operating: Shell, shell: Shell) -> None:
    code, _, err = shell.run("webhooks", "list")
    assert code == 5
    assert "key" in err

    code, _, err = operating.run("webhooks", "create", "https://receiver.example/hook")
    assert code == 8  # this service has no webhook key, and says so
    assert "PRINTWORKS_WEBHOOK_KEY" in err or "not configured" in err
