"""The lock and pyproject.toml agree, for every Python and platform that the project names."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import metadata
from itertools import product
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import lock, newest
from deploy.installer import LOCK, InstallFailed
from deploy.requirements import ONE_MACHINE, everything, group, requirements
from jobs.settings import ROOT
from tests.helpers import tool_missing

PYTHONS = ("3.11.0", "3.11.7", "3.12.1", "3.13.0", "3.14.0")
MACHINES = (  # Macs with Intel's processors have had no torch since 2.3
    ("linux", "Linux", "x86_64"),
    ("linux", "Linux", "aarch64"),
    ("darwin", "Darwin", "arm64"),
)


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / LOCK).read_text()


def environments() -> list[dict[str, str]]:
    """As markers see them: every Python on every kind of machine that is promised."""
    return [
        dict(default_environment())
        | {"python_full_version": python, "python_version": python.rsplit(".", 1)[0]}
        | {"sys_platform": platform, "platform_system": system, "platform_machine": machine}
        for python, (platform, system, machine) in product(PYTHONS, MACHINES)
    ]


def pinned(text: str, environment: dict[str, str]) -> dict[str, str]:
    """Return the versions that the lock gives one machine; fail if one package has two."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        pin = Requirement(line.split("  #")[0])
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in found, f"{pin.name} twice for {environment}"
            (version,) = pin.specifier
            found[pin.name] = version.version
    return found


def disagreements(wanted: list[str], text: str) -> set[str]:
    """Every requirement that the lock does not answer on some machine."""
    found: set[str] = set()
    for environment in environments():
        pins = pinned(text, environment)
        for line in wanted:
            one = Requirement(line)
            version = pins.get(canonicalize_name(one.name))
            if version is None or not one.specifier.contains(version, prereleases=True):
                found.add(f"{line}: the lock has {version}")
    return found


def test_the_lock_answers_all_that_pyproject_asks_for_on_every_machine(text: str):
    wanted = everything(ROOT / "pyproject.toml")

    assert not disagreements(wanted, text), "python3 deploy lock"


@pytest.mark.parametrize("line", ["brand-new>=1", "transformers>=6", "numpy<2"])
def test_a_pyproject_that_asks_for_something_else_is_noticed(text: str, line: str):
    assert disagreements([line], text)


def test_the_lock_holds_nothing_that_pyproject_no_longer_asks_for(text: str):
    asked = {canonicalize_name(Requirement(r).name) for r in everything(ROOT / "pyproject.toml")}
    said = re.findall(r"^([a-z0-9-]+)==.*# via (.*)$", text, re.MULTILINE)

    assert {name for name, via in said if "pyproject.toml" in via.split(", ")} == asked


def test_what_the_build_needs_is_what_the_lock_has_for_it():
    """The group `build` and [build-system] name the same builder: pip takes it from the former."""
    (builder,) = re.findall(
        r'^requires = \["(.+?)"\]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    names = {Requirement(line).name for line in group(ROOT / "pyproject.toml", "build")}

    assert Requirement(builder).name in names


def test_every_package_here_is_the_locks(text: str):
    """Installed packages, indirect ones included, have the versions of the lock."""
    pins = pinned(text, dict(default_environment()))
    pyproject = ROOT / "pyproject.toml"
    waiting = requirements(pyproject, ONE_MACHINE) + group(pyproject, "dev")
    met: dict[str, str] = {}
    while waiting:
        one = Requirement(waiting.pop())
        name = canonicalize_name(one.name)
        extras = [{"extra": extra} for extra in (*one.extras, "")]
        if name in met or (one.marker and not any(map(one.marker.evaluate, extras))):
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            met[name] = "not there"
            continue
        met[name] = found.version.split("+")[0]  # torch's builds are one version
        waiting += [inner for inner in found.requires or () if applies(inner, one.extras)]

    others = {name: here for name, here in met.items() if pins.get(name) != here}
    if others:  # an environment of somebody's own, within pyproject.toml's ranges
        tool_missing(f"not the lock's versions ({others}): `python3 deploy test` installs them")
    assert len(met) > 80


def applies(line: str, extras: set[str]) -> bool:
    """Return True if an inner requirement is asked for: its extra is ours."""
    marker = Requirement(line).marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def test_the_cuda_worker_is_locked_as_well(text: str):
    linux = next(e for e in environments() if e["sys_platform"] == "linux")
    mac = next(e for e in environments() if e["sys_platform"] == "darwin")

    assert {"triton", "nvidia-cublas", "nvidia-cudnn-cu13"} <= set(pinned(text, linux))
    assert not [name for name in pinned(text, mac) if name.startswith("nvidia-")]


def test_the_lock_names_versions_and_no_place(text: str):
    assert not re.search(r"https?:|file:|--index|--find-links|@ |--hash", text)


def test_a_lock_that_cannot_be_made_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if not shutil.which("uv", path=programs):
        tool_missing("no uv: `python3 deploy test` installs it")
    monkeypatch.setenv("PATH", programs)
    (tmp_path / "deploy").mkdir()
    (tmp_path / LOCK).write_text("kept==1\n")
    project = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(project.replace('"rq>=3.0,<3.1"', '"rq>=three"'))

    with pytest.raises(InstallFailed, match="rq"):
        lock.refresh(tmp_path, None)

    assert (tmp_path / LOCK).read_text() == "kept==1\n"


def test_what_a_refresh_changed_is_told():
    before = lock.pins(
        "a==1\nb==1 ; python_version < '3.12'\nb==2 ; python_version >= '3.12'\nc==1\n"
    )
    after = lock.pins("a==2  # via x\nb==1 ; python_version < '3.12'\nb==2\nd==3\n")

    assert lock.changes(before, after) == ["a: 1 -> 2", "c: 1 -> gone", "d: new -> 3"]


def test_what_is_newer_than_the_lock_is_named(tmp_path: Path):
    (tmp_path / "deploy").mkdir()
    here = metadata.version("pytest")
    (tmp_path / LOCK).write_text(f"pytest==0.1\nuvicorn=={metadata.version('uvicorn')}\nnone==1\n")

    assert newest.differences(tmp_path, Path(sys.executable)) == [f"pytest: 0.1 -> {here}"]


def test_the_tests_that_try_the_newest_are_there():
    assert all((ROOT / path).exists() for path in newest.TELLING)


@pytest.mark.parametrize("file", ["Dockerfile", ".ci/run", "README.md", "models/demo/README.md"])
def test_whatever_installs_installs_by_the_lock(file: str):
    text = (ROOT / file).read_text().replace("\\\n", " ")
    installs = re.findall(r"^.*\bpip install\b.*$", text, re.MULTILINE)

    assert installs
    assert not [line for line in installs if "lock.txt" not in line]


def test_the_lock_gets_into_the_images():
    assert "!deploy/lock.txt" in (ROOT / ".dockerignore").read_text().splitlines()
