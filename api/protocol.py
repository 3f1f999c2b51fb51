"""HTTP/1.1 with a limit on the time that a request's headers may take.

Owns one timer a connection. uvicorn has none: a client that never ends its headers (slowloris)
kept its connection for ever (measured: still open after 20 s). Invariant: a connection without a
whole request is closed HEADERS_S after it began to send one.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0


class TimedH11Protocol(H11Protocol):
    """uvicorn's own, with that timer."""

    headers_s = HEADERS_S
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first headers are due."""
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Headers have ended, or are still due."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._arm()
        else:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.headers_s, self.transport.close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
