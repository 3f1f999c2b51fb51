"""One `up` for all dialects: two models, `tiny` (the default, quick) and `demo` (the shipped)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.running import Up, write_models


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A running service; `up.said` has its `api_url` and `api_key`, `up.client` is our own."""
    models = write_models(tmp_path_factory.mktemp("models"))
    one = Up(tmp_path_factory.mktemp("up") / "data", models, "--no-first-picture")
    try:
        one.wait_ready()
        yield one
    finally:
        one.end()
