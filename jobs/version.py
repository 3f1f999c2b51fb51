"""The version that runs, for the OpenAPI document and the metrics."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The installed version; a bare checkout has none."""
    try:
        return version("printworks-service")
    except PackageNotFoundError:
        return "0"
