"""Fault tests run real worker processes, and kill, freeze and starve them."""

from tests.queue.conftest import environ, store  # noqa: F401 - the same fixtures
