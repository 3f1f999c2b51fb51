"""The client as a distribution: installs alone, and says what it lacks."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import printworks
import pytest
from packaging.requirements import Requirement

from jobs.settings import ROOT
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served
from tests.client.test_cli import ended, queued
from tests.dialects.sdks import python_with

CLIENT = ROOT / "client"


def test_what_it_asks_for_is_in_the_lock_in_the_same_bounds() -> None:
    own = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    asked = [*own["dependencies"], *own["optional-dependencies"]["cli"]]
    known = [*service["dependencies"], *service["optional-dependencies"]["client"]]
    assert set(map(str, map(Requirement, asked))) <= set(map(str, map(Requirement, known)))
    assert service["version"] == printworks.__version__


def test_the_service_brings_no_package_of_its_own() -> None:
    """`api`, `jobs`, `worker` in a user's site-packages would be in everybody's way."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]

    assert build["targets"]["wheel"] == {"bypass-selection": True}


@pytest.fixture(scope="module")
def alone() -> Path:
    """The Python of an environment with the client alone."""
    return python_with(f"{CLIENT}")


@pytest.fixture(scope="module")
def with_cli() -> Path:
    """The same with the command line."""
    return python_with(f"{CLIENT}[cli]")


def packages(python: Path) -> set[str]:
    code = "import importlib.metadata as m; print(*m.packages_distributions())"
    return set(subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.split())  # noqa: PLW1510


def test_it_installs_alone_and_makes_a_picture(
    alone: Path, served: Served, worker: HandWorker, tmp_path: Path
) -> None:
    code = (
        "import sys, printworks\n"
        "with printworks.Client(sys.argv[1]) as client:\n"
        "    job = client.generate('a red house', size='64x64')\n"
        "    client.save(job.images[0], 'a.png')\n"
    )
    process = subprocess.Popen([alone, "-c", code, served.url], cwd=tmp_path)
    queued(served)
    (made,) = worker.finish(worker.take())

    assert process.wait(60) == 0
    assert (tmp_path / "a.png").read_bytes() == made
    here = packages(alone)
    assert "printworks" in here
    assert not here & {"api", "jobs", "worker", "models", "redis", "boto3", "fastapi", "typer"}


def test_the_command_without_its_extra_says_how_to_get_it(alone: Path) -> None:
    done = subprocess.run(
        [alone.with_name("printworks"), "--version"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "pip install 'printworks[cli]'" in done.stderr


def test_the_command_line_installs_alone(
    with_cli: Path, served: Served, worker: HandWorker, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [with_cli.with_name("printworks"), "--url", served.url, "generate", "a cat", "-o", "a.png"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    queued(served)
    worker.finish(worker.take())

    assert ended(process)[:2] == (0, "a.png\n")
