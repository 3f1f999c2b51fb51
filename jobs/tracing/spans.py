"""Traces of a job through API, queue, batch, object storage and webhook; off unless configured.

Owns the few calls that the rest makes; without traces the calls do nothing. A W3C traceparent,
stored with the job, connects one process with the next. jobs/tracing/otel.py makes real spans,
jobs/tracing/opening.py chooses. Invariant: no span holds a prompt, a key, a URL or an image;
nothing here imports OpenTelemetry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Kind = Literal["server", "client", "producer", "consumer", "internal"]
Value = str | int | float | bool
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
NOTHING: Mapping[str, Value] = {}


class Span:
    """A span of work; this class records nothing. `end` it once."""

    traceparent: str | None = None  # for the span's continuation in another process

    def rename(self, name: str) -> None:
        """Rename the span, once its kind of work is known."""

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes to the span; their names are a closed set."""

    def link(self, traceparent: str | None) -> None:
        """Add a link to another span; a batch serves many jobs."""

    def end(self, *, error: str | None = None) -> None:
        """End the span; `error`: the code of a failure."""


class Tracing:
    """A maker of spans; this class makes spans that record nothing."""

    on = False

    def start(
        self,
        name: str,
        kind: Kind = "internal",
        *,
        parent: str | None = None,
        attributes: Mapping[str, Value] = NOTHING,
        ago_s: float = 0.0,
    ) -> Span:
        """Start a span that begins now, or began `ago_s` seconds ago; `parent`: a traceparent."""
        del name, kind, parent, attributes, ago_s
        return NO_SPAN

    def past(
        self, name: str, *, parent: str | None, began_ago_s: float, ended_ago_s: float
    ) -> None:
        """Record a span that has ended already."""

    def close(self) -> None:
        """Send the remaining spans; waits a few seconds at most."""


NO_SPAN = Span()
OFF = Tracing()


def traceparent_in(header: str | None) -> str | None:
    """Return the header if valid as a W3C traceparent, else None."""
    return header if header and TRACEPARENT.fullmatch(header) else None
