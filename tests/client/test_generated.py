"""A client that others make of the OpenAPI document: it submits, polls and reads a refusal."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.api.hand_worker import HandWorker
from tests.api.serving import Served

NAME = "made_of_the_document"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, root: Path) -> ModuleType:
    """The package, written by openapi-python-client and importable for the time of these tests."""
    folder = tmp_path_factory.mktemp("generated")
    told = ["generate", "--path", str(root / "docs/openapi.json"), "--meta", "none"]
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # its ruff
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", *told, "--output-path", str(folder / NAME)],
        env=os.environ | {"PATH": beside},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield importlib.import_module(NAME)
    sys.path.remove(str(folder))


def of(name: str) -> ModuleType:
    return importlib.import_module(f"{NAME}.{name}")


def test_a_generated_client_submits_and_polls_a_job(
    made: ModuleType, served: Served, worker: HandWorker
):
    models, jobs = of("models"), "api.jobs"
    request = models.JobRequest.from_dict(
        {"prompt": "a red bicycle", "seed": 7, "n": 2, "output": {"format": "webp"}}
    )

    with made.Client(base_url=served.url) as client:
        sent = of(f"{jobs}.send_job").sync(client=client, body=request, idempotency_key="k1")
        again = of(f"{jobs}.send_job").sync(client=client, body=request, idempotency_key="k1")
        before = of(f"{jobs}.get_job").sync(sent.id, client=client)
        worker.finish(worker.take())
        after = of(f"{jobs}.get_job").sync(sent.id, client=client, wait=10)
        listed = of(f"{jobs}.list_jobs").sync(client=client)

    assert sent.id == again.id
    assert (sent.status, before.status, after.status) == ("queued", "queued", "succeeded")
    assert [image.seed for image in after.images] == [7, 8]
    assert after.images[0].content_type == "image/webp"
    assert after.resolved.prompt == "a red bicycle"
    assert [job.id for job in listed.jobs] == [sent.id]


def test_it_reads_a_refusal_as_a_problem(made: ModuleType, served: Served):
    models = of("models")
    with made.Client(base_url=served.url) as client:
        refused = of("api.jobs.send_job").sync(
            client=client, body=models.JobRequest(prompt="a cat", steps=0)
        )
        missing = of("api.jobs.get_job").sync_detailed(
            "019a0000-0000-7000-8000-000000000000", client=client
        )

    assert isinstance(refused, models.Problem)
    assert refused.errors[0].pointer == "/steps"
    assert (missing.status_code, missing.parsed.code) == (404, "not_found")
