"""The installer: pip or uv, from the lock; what it shows, and what it says of a failure."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from deploy import bootstrap
from deploy.installed import PROJECTS, missing
from deploy.installer import LOCK, Installer, InstallFailed, nvidia_driver
from deploy.narrator import Narrator
from deploy.progress import Progress
from deploy.requirements import ONE_MACHINE
from jobs.settings import ROOT
from tests.docs.blocks import blocks_of
from tests.helpers import tool_missing

PIP_SAYS = """\
Collecting import-linter==2.16
  Downloading import_linter-2.16-py3-none-any.whl.metadata (5.7 kB)
Collecting huggingface-hub<3.0,>=1.5 (from diffusers==0.42.1)
  Downloading huggingface_hub-2.4.0-py3-none-any.whl (612 kB)
  Using cached numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (16.5 MB)
Requirement already satisfied: six in ./lib
  Downloading old-thing-1.2.tar.gz (1.0 MB)
Installing collected packages: six, numpy, huggingface-hub
"""
SHOWN = [
    "collecting import-linter",
    "collecting huggingface-hub",
    "downloading huggingface-hub (612 kB)",
    "downloading numpy (16.5 MB)",
    "downloading old-thing (1.0 MB)",
    "unpacking 3 packages",
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The parts of a clone that an installation reads."""
    (tmp_path / "deploy").mkdir()
    for file in ("pyproject.toml", LOCK):
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def bare(clone: Path) -> Path:
    """A `.venv` as uv makes them: without pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    return clone / ".venv" / "bin" / "python"


def installer(clone: Path, python: Path | str = sys.executable, *, newest: bool = False):
    return Installer(clone, Path(python), clone / "log", Progress(io.StringIO()), newest=newest)


def test_whole_names_sizes_and_the_total_are_shown():
    narrator = Narrator()

    shown = [told for line in PIP_SAYS.splitlines() if (told := narrator.hear(line))]

    assert shown == SHOWN
    assert narrator.so_far == "4 packages, 18 MB"
    assert narrator.installed == 3


def test_uv_is_understood_as_well():
    narrator = Narrator()

    assert narrator.hear("Downloading numpy (16.1MiB)\n") == "downloading numpy (16.1 MB)"
    assert narrator.hear("Installed 81 packages in 1.20s\n") is None
    assert narrator.installed == 81


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0", "check the network"),
        ("ERROR: ResolutionImpossible: for help visit", "python3 deploy lock"),
        ("ensurepip is not available", "apt install python3-venv"),
    ],
)
def test_a_step_that_fails_shows_its_last_words_and_advice(clone: Path, said: str, advice: str):
    with pytest.raises(InstallFailed, match=f"{said}(.|\n)*{advice}"):
        installer(clone).run([sys.executable, "-c", f"raise SystemExit({said!r})"])


def test_everything_comes_from_the_lock_except_to_try_the_newest(clone: Path):
    locked, newest = installer(clone), installer(clone, newest=True)

    assert ["-c", clone / LOCK] == locked._versions(["--upgrade"])
    assert newest._versions(["--upgrade"]) == ["--upgrade"]


def test_an_environment_without_pip_is_filled_by_uv(clone: Path, monkeypatch: pytest.MonkeyPatch):
    python = bare(clone)
    folder = clone / "bin"
    folder.mkdir()
    (folder / "uv").write_text("#!/bin/sh\nexit 0\n")
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    made = installer(clone, python)

    assert made._pip() is None
    assert made._uv()[:5] == [str(folder / "uv"), "pip", "install", "--python", python]


def test_an_environment_without_pip_and_no_uv_is_told_in_words(
    clone: Path, monkeypatch: pytest.MonkeyPatch
):
    bare(clone)
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(InstallFailed, match=r"no pip, and no uv(.|\n)*-m ensurepip"):
        bootstrap.ensure(dev=False, root=clone)

    assert not (clone / ".venv" / bootstrap.LOG).exists()  # what uv puts there later is taken


def test_what_somebody_else_installed_is_used_as_it_is(
    clone: Path, monkeypatch: pytest.MonkeyPatch
):
    """An environment with everything in it, which no `deploy` has filled: nothing is installed."""
    python = bare(clone)
    monkeypatch.setenv("PATH", "/nowhere")
    (here,) = {sysconfig.get_paths()["purelib"]}
    there = next((clone / ".venv" / "lib").glob("python*")) / "site-packages"
    (there / "others.pth").write_text(f"{here}\n")
    for name, folder in PROJECTS.items():
        origin = there / f"{name.replace('-', '_')}-0.1.0.dist-info"
        origin.mkdir()
        (origin / "METADATA").write_text(f"Name: {name}\nVersion: 0.1.0\n")
        here = json.dumps({"url": (clone / folder).as_uri(), "dir_info": {"editable": True}})
        (origin / "direct_url.json").write_text(here)

    assert bootstrap.ensure(dev=False, root=clone) == python
    (clone / ".venv" / bootstrap.LOG).write_text("")  # an installation of ours was begun here
    assert not bootstrap._by_others(clone, python, dev=False)


def test_what_is_missing_is_named_down_to_what_others_ask_for(clone: Path):
    text = (clone / "pyproject.toml").read_text()
    (clone / "pyproject.toml").write_text(text.replace('"rq>=3.0,<3.1"', '"rq>=9"'))

    lacking = missing(clone, ONE_MACHINE, [])

    assert lacking == [
        f"printworks (editable, from {clone / 'client'})",
        f"printworks-service (editable, from {clone})",
        "rq>=9",
    ]


@pytest.fixture
def uv(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv on PATH. Where this machine's pip has wheels of its own, uv is told of them, too.

    There PyTorch's index may be out of reach: pyproject.toml's `torch-backend` is left aside.
    """
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("uv", path=programs) is None:
        tool_missing("no uv: `.venv/bin/python -m pip install -c deploy/lock.txt uv`")
    monkeypatch.setenv("PATH", programs)
    if wheels := os.environ.get("PIP_FIND_LINKS"):
        monkeypatch.setenv("UV_FIND_LINKS", wheels)
        monkeypatch.setenv("UV_NO_CONFIG", "1")


@pytest.mark.usefixtures("uv")
@pytest.mark.timeout(400)  # 160 MB, where uv's cache has nothing
@pytest.mark.parametrize("by_hand", [True, False], ids=["as README says", "by up"])
def test_a_clone_has_all_it_needs_in_an_environment_of_uv(tmp_path: Path, by_hand: bool):
    """README's lines with uv, in a clone; no pip, and no CUDA where there is no GPU."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    blocks = [b.text for b in blocks_of(clone, clone / "README.md") if b.text.startswith("uv venv")]
    (making, installing, starting) = blocks[0].splitlines()
    assert starting == ".venv/bin/python deploy up"  # what it does first is `ensure`
    lines = [making, installing] if by_hand else [making]
    subprocess.run(["sh", "-ec", "\n".join(lines)], cwd=clone, check=True, capture_output=True)

    python = bootstrap.ensure(dev=False, root=clone)

    ours = (clone / ".venv" / bootstrap.LOG).exists()
    assert ours is not by_hand  # what a person has installed is found, and used as it is
    assert subprocess.run([python, "-c", "import api.app"], cwd=clone, check=False).returncode == 0
    packages = {path.name for path in (clone / ".venv").glob("lib/python*/site-packages/*")}
    assert "pip" not in packages
    assert nvidia_driver() or not {name for name in packages if name.startswith("nvidia")}
