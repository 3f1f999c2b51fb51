"""Version of this installation, for the OpenAPI document and the metrics."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """Return the installed version; "0" in a bare checkout."""
    try:
        return version("printworks-service")
    except PackageNotFoundError:
        return "0"
