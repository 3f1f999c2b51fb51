"""Traces of a job through API, queue, batch, picture store and webhook; off unless configured.

Owns the few calls that the rest makes, and what they do where there are no traces: nothing. What
leads from one process to the next is a W3C traceparent, kept with the job. jobs/tracing/otel.py
makes real spans, jobs/tracing/opening.py chooses. Invariant: no span holds a prompt, a key, a URL
or a picture; nothing here imports OpenTelemetry.
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
    """One piece of work; this one is not kept. `end` it once."""

    traceparent: str | None = None  # for who continues it

    def rename(self, name: str) -> None:
        """What it turned out to be."""

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Say more of it; a closed set of names."""

    def link(self, traceparent: str | None) -> None:
        """It is also the work of that one: a batch has many parents."""

    def end(self, *, error: str | None = None) -> None:
        """It is over; `error`: a code, where it failed."""


class Tracing:
    """Makes spans; this one makes none that is kept."""

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
        """Work that begins now, or began `ago_s` ago; `parent`: a traceparent."""
        del name, kind, parent, attributes, ago_s
        return NO_SPAN

    def past(
        self, name: str, *, parent: str | None, began_ago_s: float, ended_ago_s: float
    ) -> None:
        """Work that is over already."""

    def close(self) -> None:
        """Send what is left; waits a few seconds at most."""


NO_SPAN = Span()
OFF = Tracing()


def traceparent_in(header: str | None) -> str | None:
    """The header, if it is one that can be continued."""
    return header if header and TRACEPARENT.fullmatch(header) else None
