"""Traces by OpenTelemetry, sent over OTLP/HTTP: the only importer of its SDK.

Owns provider, exporter and the form of a span. Invariant: nothing here ever waits for the
collector but `close`; spans that the collector cannot take are dropped, in a separate thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import requests
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from jobs.tracing import spans
from jobs.tracing.spans import NOTHING, Kind, Value

KINDS = {
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "producer": trace.SpanKind.PRODUCER,
    "consumer": trace.SpanKind.CONSUMER,
    "internal": trace.SpanKind.INTERNAL,
}
EXPORT_S = 5.0  # patience with the collector
SEND_EVERY_MS = 1000


class OtelSpan(spans.Span):
    """A span that is exported, if its trace is sampled."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = (
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        )

    def rename(self, name: str) -> None:
        """Rename the span, once its kind of work is known."""
        self._span.update_name(name)

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes to the span."""
        self._span.set_attributes(dict(attributes))

    def link(self, traceparent: str | None) -> None:
        """Add a link to another span; a batch serves many jobs."""
        context = _context(traceparent)
        if context:
            self._span.add_link(context)

    def end(self, *, error: str | None = None) -> None:
        """End the span; `error`: the code of a failure."""
        if error is not None:
            self._span.set_status(trace.StatusCode.ERROR, error)
            self._span.set_attribute("error.type", error)
        self._span.end()


class OtelTracing(spans.Tracing):
    """Tracing by OpenTelemetry. One a process."""

    on = True

    def __init__(self, endpoint: str, *, role: str, share: float) -> None:
        exporter = OTLPSpanExporter(
            f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_S, session=_session(endpoint)
        )
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(share),
            resource=Resource.create({"service.name": f"printworks-{role}"}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=SEND_EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("printworks")

    def start(
        self,
        name: str,
        kind: Kind = "internal",
        *,
        parent: str | None = None,
        attributes: Mapping[str, Value] = NOTHING,
        ago_s: float = 0.0,
    ) -> OtelSpan:
        """Start a span that begins now, or began `ago_s` seconds ago."""
        began: Any = _nanoseconds(ago_s)
        span = self._tracer.start_span(
            name, _under(parent), KINDS[kind], dict(attributes), start_time=began
        )
        return OtelSpan(span)

    def past(
        self, name: str, *, parent: str | None, began_ago_s: float, ended_ago_s: float
    ) -> None:
        """Record a span that has ended already."""
        span = self._tracer.start_span(name, _under(parent), start_time=_nanoseconds(began_ago_s))
        span.end(_nanoseconds(ended_ago_s))

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.force_flush(int(EXPORT_S * 1000))
        self._provider.shutdown()


def _session(endpoint: str) -> requests.Session:
    """Return a session; one for a collector on this machine ignores the environment's proxies."""
    session = requests.Session()
    session.trust_env = not _is_here(urlsplit(endpoint).hostname or "")
    return session


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _nanoseconds(ago_s: float) -> int:
    return time.time_ns() - int(ago_s * 1e9)


def _context(traceparent: str | None) -> trace.SpanContext | None:
    if spans.traceparent_in(traceparent) is None or traceparent is None:
        return None
    _, trace_id, span_id, flags = traceparent.split("-")
    return trace.SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(flags, 16)),
    )


def _under(traceparent: str | None) -> Any:
    """Return the context of a child of `traceparent`; without one, of a new trace."""
    context = _context(traceparent)
    empty = Context()
    if context is None:
        return empty
    return trace.set_span_in_context(trace.NonRecordingSpan(context), empty)
