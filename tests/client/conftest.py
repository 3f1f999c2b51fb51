"""The client's tests meet the real API, and a worker moved by hand."""

from tests.api.conftest import api_server, api_settings, served, worker

__all__ = ["api_server", "api_settings", "served", "worker"]
