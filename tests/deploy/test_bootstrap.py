"""The bootstrap: what an old Python reads, when it installs again, what it says of a failure."""

from __future__ import annotations

import ast
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import bootstrap
from deploy.data import DataFolder, FolderInUse
from deploy.installer import LOCK


@pytest.fixture
def clone(tmp_path: Path, root: Path) -> Path:
    """A clone with a .venv that has been made and marked, without the minute that this takes."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "deploy").mkdir()
    shutil.copy(root / LOCK, tmp_path / LOCK)
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "pyvenv.cfg").write_text("version = 3.11.7")
    wanted = bootstrap._fingerprint(tmp_path, venv / "bin" / "python", dev=True)
    bootstrap._mark(venv, wanted, dev=True)
    return tmp_path


def needs_install(clone: Path, *, dev: bool = True) -> bool:
    venv = clone / ".venv"
    wanted = bootstrap._fingerprint(clone, venv / "bin" / "python", dev=dev)
    return not bootstrap._installed(venv, wanted)


def test_an_old_python_can_read_the_file_that_refuses_it(root: Path) -> None:
    ast.parse((root / "deploy" / "__main__.py").read_text(), feature_version=(3, 6))


COMMANDS = ("up", "test", "check", "chaos", "lock", "newest")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_of_every_command_installs_nothing(tmp_path: Path, root: Path, command: str):
    shutil.copytree(root / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("__py*"))
    argv = [
        sys.executable,
        "-I",
        "-S",
        "-B",
        tmp_path / "deploy",
        *filter(None, [command]),
        "--help",
    ]

    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    assert f"deploy {command}".strip() in shown
    assert command or all(name in shown for name in (*COMMANDS, "--once"))
    assert [path.name for path in tmp_path.iterdir()] == ["deploy"]


def test_what_is_installed_is_not_installed_again(clone: Path) -> None:
    assert not needs_install(clone)
    assert not needs_install(clone, dev=False)  # the tools came with everything else
    assert bootstrap.ensure(dev=True, root=clone) == clone / ".venv" / "bin" / "python"


@pytest.mark.parametrize("file", ["pyproject.toml", "deploy/lock.txt", ".venv/pyvenv.cfg"])
def test_another_pyproject_lock_or_python_is_installed_again(clone: Path, file: str) -> None:
    (clone / file).write_text((clone / file).read_text() + "\n# changed")

    assert needs_install(clone)


def test_a_moved_clone_is_installed_again(clone: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(clone, tmp_path / "moved", symlinks=True)

    assert needs_install(moved)


def test_an_interrupted_installation_is_not_taken_for_a_finished_one(clone: Path) -> None:
    (clone / ".venv" / bootstrap.MARKER).write_text('{"base": "')

    assert needs_install(clone)


def test_secrets_are_drawn_once_and_for_this_user_alone(tmp_path: Path) -> None:
    first = DataFolder(tmp_path)
    drawn = first.secrets()
    first.keep_secret("api_key", "pw_x")
    first.close()

    again = DataFolder(tmp_path)

    assert again.secrets() == {**drawn, "api_key": "pw_x"}
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    again.close()


def test_a_folder_has_one_up_and_the_second_is_told_where_the_first_is(tmp_path: Path) -> None:
    first = DataFolder(tmp_path)
    first.write_up({"api_url": "http://127.0.0.1:1234"})

    with pytest.raises(FolderInUse, match=r"at http://127\.0\.0\.1:1234"):
        DataFolder(tmp_path)

    first.close()
    assert not first.up_file.exists()


def test_ports_are_those_of_last_time(tmp_path: Path) -> None:
    data = DataFolder(tmp_path)

    assert data.ports() == data.ports() == json.loads((tmp_path / "ports.json").read_text())
    data.close()
