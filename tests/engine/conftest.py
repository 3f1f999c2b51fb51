"""Fixtures of the engine's tests: one tiny pipeline a session, one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.engine.tiny import a_model, tiny_pipeline
from worker.engine.model import Model


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    # The thread count is part of the recipe of exactness; two on a busy machine only spin.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    made = a_model(tiny_pipeline())
    yield made
    made.close()
