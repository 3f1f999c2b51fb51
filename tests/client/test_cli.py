"""`printworks` as a shell meets it: files, stdout, stderr, exit codes; the API is the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from printworks import Client
from printworks.cli.main import shared_first

from jobs.contract.record import Status
from tests.api.hand_worker import HandWorker
from tests.api.hostile_pictures import a_picture, encoded
from tests.api.serving import Served, as_operator
from tests.helpers import wait_until

PROMPT = "a red bicycle"


@dataclass
class Shell:
    """Runs the command in a folder of its own."""

    folder: Path
    url: str | None
    key: str | None = None

    @property
    def told(self) -> dict[str, str | None]:
        """Its settings."""
        return {"PRINTWORKS_URL": self.url, "PRINTWORKS_KEY": self.key}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environ = {n: v for n, v in os.environ.items() if not n.startswith("PRINTWORKS_")}
        return subprocess.Popen(
            [sys.executable, "-c", "from printworks.cli import main; main()", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environ | {n: v for n, v in self.told.items() if v},
            # a shell that runs the tests in its background has SIGINT ignored, and children inherit
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return ended(self.start(*arguments))


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture
def shell(served: Served, tmp_path: Path) -> Shell:
    """A shell whose PRINTWORKS_URL is the API."""
    return Shell(tmp_path, served.url)


@pytest.fixture
def operating(shell: Shell, redis_url: str) -> Shell:
    """The same with an operator's key."""
    _, _, key = as_operator(redis_url)["authorization"].partition(" ")
    return replace(shell, key=key)


def queued(served: Served, count: int = 1) -> list[str]:
    """The IDs of the waiting jobs, once there are as many."""

    def ids() -> list[str]:
        found = served.client.get("/v1/jobs", params={"status": "queued"}).json()["jobs"]
        return [job["id"] for job in found] if len(found) == count else []

    return wait_until(ids, f"{count} jobs are waiting", 30)


def test_generate_writes_the_pictures_and_prints_their_names(
    shell: Shell, served: Served, worker: HandWorker
) -> None:
    asked = ["--seed", "7", "-n", "2", "--steps", "20", "--size", "64x96", "--guidance", "3"]
    process = shell.start("generate", PROMPT, *asked, "-o", "out.webp")
    queued(served)

    claimed = worker.take()
    worker.tell(claimed, 10, 40)
    made = worker.finish(claimed)

    code, out, err = ended(process)
    assert (code, out) == (0, "out-0.webp\nout-1.webp\n")
    assert [(shell.folder / name).read_bytes() for name in out.split()] == made
    assert "seed 7, 64x96" in err


def test_json_is_one_record_on_stdout(shell: Shell, served: Served, worker: HandWorker) -> None:
    process = shell.start("generate", PROMPT, "--json")
    (job_id,) = queued(served)

    worker.finish(worker.take())

    code, out, _ = ended(process)
    record = json.loads(out)
    assert code == 0
    assert record["id"] == job_id
    assert record["files"] == [f"{job_id}.png"]


def test_a_failed_job_ends_with_1_and_its_reason(
    shell: Shell, served: Served, worker: HandWorker
) -> None:
    process = shell.start("generate", PROMPT)
    queued(served)

    worker.fail(worker.take())

    code, out, err = ended(process)
    assert (code, out) == (1, "")
    assert "failed: all black" in err


def test_a_wrong_request_ends_with_2_and_names_the_field(shell: Shell) -> None:
    code, _, err = shell.run("generate", PROMPT, "--steps", "9999", "--json")

    said = json.loads(err)
    assert code == said["exit_code"] == 2
    assert [problem["pointer"] for problem in said["error"]["problems"]] == ["/steps"]


def test_a_job_that_takes_too_long_ends_with_4_and_goes_on(shell: Shell, served: Served) -> None:
    code, _, err = shell.run("generate", PROMPT, "--timeout", "0.3")

    (job_id,) = queued(served)
    assert code == 4
    assert f"printworks jobs {job_id} --wait" in err


def test_an_interrupt_cancels_the_job(shell: Shell, served: Served) -> None:
    process = shell.start("generate", PROMPT)
    (job_id,) = queued(served)
    assert process.stderr is not None
    assert job_id in process.stderr.readline()
    assert "next" in process.stderr.readline()  # it waits now

    process.send_signal(signal.SIGINT)

    assert ended(process)[0] == 130
    assert served.client.get(f"/v1/jobs/{job_id}").json()["status"] == Status.CANCELED


def test_no_wait_prints_an_id_that_the_other_commands_take(shell: Shell) -> None:
    job_id = shell.run("generate", PROMPT, "--no-wait")[1].strip()

    assert job_id in shell.run("jobs")[1]
    assert json.loads(shell.run("jobs", job_id)[1])["status"] == "queued"
    assert shell.run("cancel", job_id)[1] == f"{job_id} canceled\n"


def test_a_missing_job_ends_with_6(shell: Shell) -> None:
    code, _, err = shell.run("jobs", "0191")

    assert (code, err) == (6, "printworks: there is no such job\n")


def test_models_and_samplers_are_listed(shell: Shell) -> None:
    assert "demo" in shell.run("models")[1]
    assert {"id", "good_for"} <= set(json.loads(shell.run("--json", "samplers")[1])[0])


def test_a_running_up_is_found_from_a_folder_below_it(served: Served, tmp_path: Path) -> None:
    below = tmp_path / "pictures"
    below.mkdir()
    (tmp_path / "data").mkdir()
    said = {"api_url": served.url, "api_key": None}
    (tmp_path / "data" / "up.json").write_text(json.dumps(said))

    code, out, _ = Shell(below, url=None).run("generate", PROMPT, "--dry-run")

    assert code == 0
    assert json.loads(out)["resolved"]["prompt"] == PROMPT


def test_no_service_ends_with_3_and_says_how_to_start_one(tmp_path: Path) -> None:
    code, _, err = Shell(tmp_path, "http://127.0.0.1:9").run("models")

    assert code == 3
    assert "python3 deploy up" in err


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["generate", "x", "--json"], ["--json", "generate", "x"]),
        (["models", "--url", "http://a"], ["--url", "http://a", "models"]),
        (["generate", "--", "--json"], ["generate", "--", "--json"]),
    ],
)
def test_shared_options_may_stand_anywhere(written: list[str], read: list[str]) -> None:
    assert shared_first(written) == read


def test_usage_is_told_by_day_and_key(operating: Shell, served: Served, worker: HandWorker):
    served.client.post("/v1/jobs", json={"prompt": PROMPT, "seed": [1, 2]})
    worker.finish(worker.take())

    shell = operating
    code, out, _ = shell.run("usage")
    as_json = shell.run("usage", "--json", "--all-tenants")
    wrong = shell.run("usage", "--since", "yesterday")

    assert code == 0
    assert out.splitlines()[-1].split() == ["total", "1", "0", "2", out.split()[-1]]
    assert json.loads(as_json[1])["total"]["images"] == 2
    assert wrong[0] == 2


def test_keys_are_made_listed_rotated_and_revoked(operating: Shell):
    shell = operating
    made = shell.run("keys", "create", "--tenant", "acme", "--name", "app", "--scope", "jobs:read")
    secret = made[1].strip()
    first, *listed = json.loads(shell.run("keys", "list", "--json")[1])
    key_id = listed[0]["id"]
    rotated = json.loads(shell.run("keys", "rotate", key_id, "--json")[1])
    good = shell.run("jobs", "--key", secret)
    may_not = shell.run("keys", "list", "--key", secret)
    revoked = shell.run("keys", "revoke", key_id)

    assert made[0] == good[0] == revoked[0] == 0, made[2]
    assert (listed[0]["tenant"], listed[0]["name"], listed[0]["scopes"]) == (
        "acme",
        "app",
        ["jobs:read"],
    )
    assert "admin" in first["scopes"]  # the operator's own
    assert secret not in json.dumps(listed)
    assert rotated["id"] != key_id
    assert shell.run("jobs", "--key", rotated["secret"])[0] == 0
    assert may_not[0] == 5
    assert revoked[1].split() == [key_id, "revoked"]
    wait_until(lambda: shell.run("jobs", "--key", secret)[0] == 5, "it is refused", 20)
    assert "revoked" in shell.run("keys", "list")[1]
    assert shell.run("keys", "revoke", "../jobs")[0] == 6
    assert shell.run("keys", "create", "--scope", "everything")[0] == 2


def test_who_operates_without_a_key_is_told_where_one_comes_from(shell: Shell):
    code, _, err = shell.run("keys", "create", "--tenant", "evil")

    assert code == 5
    assert "python -m api keys create --scope admin" in err


def test_a_picture_of_this_machine_is_begun_with(shell: Shell, served: Served, tmp_path: Path):
    (tmp_path / "cat.png").write_bytes(encoded(a_picture(128, 64)))
    known = ("generate", PROMPT, "--no-wait", "--image", "cat.png")

    code, job_id, err = shell.run(*known, "--mask", "cat.png", "--strength", "0.6")
    missing = shell.run("generate", PROMPT, "--image", "no.png")

    resolved = served.client.get(f"/v1/jobs/{job_id.strip()}").json()["resolved"]
    assert code == 0, err
    assert resolved["image"] == resolved["mask"]
    assert (resolved["width"], resolved["height"], resolved["strength"]) == (128, 64, 0.6)
    assert missing[0] == 2
    assert "no.png" in missing[2]


def test_a_picture_to_follow_goes_with_the_controlnet_that_follows_it(shell: Shell, tmp_path: Path):
    (tmp_path / "edges.png").write_bytes(encoded(a_picture(128, 128)))
    picture = ("--control-image", "edges.png")

    half = [shell.run("generate", PROMPT, *part) for part in (("--control", "edges"), picture)]
    whole = shell.run("generate", PROMPT, "--control", "edges", *picture, "--control-scale", "0.5")

    assert [code for code, _, _ in half] == [2, 2]
    assert all("go together" in err for _, _, err in half)
    assert whole[0] == 2, whole
    assert "demo takes no control" in whole[2]


def test_an_upload_is_the_input_that_the_service_has(served: Served):
    with Client(served.url) as client:
        sent = client.upload(encoded(a_picture(64, 64)))
        job = client.submit(PROMPT, image={"input": sent.id})

    assert (sent.width, sent.height, sent.changes) == (64, 64, [])
    assert job.resolved.image is not None
    assert job.resolved.image.input == sent.id
