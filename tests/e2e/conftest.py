"""One `up` for all tests here; a test may kill any part of it, and the next one finds it well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running import Up, write_models


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that names one tiny model."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def running_ups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Up]]:
    """Those that were started; the last one may be running."""
    ups: list[Up] = []
    yield ups
    for up in ups:
        up.end()


@pytest.fixture
def up(running_ups: list[Up], tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Up:
    """A running `up`: that of the test before, unless it is gone."""
    if not running_ups or running_ups[-1].process.poll() is not None:
        data = tmp_path_factory.mktemp("up") / "data"
        running_ups.append(Up(data, tiny_models, "--no-first-picture"))
    running_ups[-1].wait_ready()
    return running_ups[-1]
