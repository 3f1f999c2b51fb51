"""The choice between real traces and none, by the settings.

Invariant: where traces are off, OpenTelemetry is not imported.
"""

from __future__ import annotations

from jobs.errors import SettingsError
from jobs.settings import RoleSettings
from jobs.tracing.spans import OFF, Tracing


def open_tracing(settings: RoleSettings, role: str) -> Tracing:
    """Open tracing as the settings say. Raises SettingsError if OpenTelemetry is missing."""
    if settings.otel_endpoint is None:
        return OFF
    try:
        from jobs.tracing.otel import OtelTracing  # noqa: PLC0415 - an extra, imported where it is asked for
    except ImportError:
        raise SettingsError(
            "PRINTWORKS_OTEL_ENDPOINT is set, but OpenTelemetry is not installed: "
            "install the extra `otel` (pip install '.[otel]'), or unset it"
        ) from None
    return OtelTracing(settings.otel_endpoint, role=role, share=settings.otel_share)
