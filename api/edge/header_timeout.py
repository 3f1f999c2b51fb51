"""HTTP/1.1 protocol with timeouts for headers and reads, small reads, and a lingering close.

Owns the timers that uvicorn's protocol lacks, per connection. Must not know routes. Invariants:
- A connection without a whole request is closed HEADERS_S after it began to send one (uvicorn kept
  it for ever), and one whose client reads nothing of its response for SEND_S.
- Input is parsed READ_BYTES at a time, so that other connections are served in between.
- A refusal reaches the client: closing a socket with unread bytes resets it, and the client of a
  body that was too large saw a reset instead of its 413 (10 of 10 times at 30 MB). So the rest is
  read for a while before the close (RFC 9112 9.6).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from api.edge.connections import Connections
from api.edge.problem import problem_response
from api.errors import TooManyConnections

HEADERS_S = 10.0
SEND_S = 20.0  # a client on a slow line reads something in that time
LINGER_S = 10.0
LINGER_BYTES = 64 * 1024 * 1024  # the most that is read of a discarded body


class _Wire(asyncio.Transport):
    """A transport that leaves `close` to the protocol."""

    def __init__(self, wire: asyncio.Transport, leave: Callable[[], None]) -> None:
        super().__init__()
        self._wire = wire
        self._leave = leave
        self._left = False

    def close(self) -> None:
        """Make the protocol close the connection, once."""
        if not self._left:
            self._left = True
            self._leave()

    def is_closing(self) -> bool:
        """Return True if the connection is closed, or about to be."""
        return self._left or self._wire.is_closing()

    def write(self, data: Any) -> None:
        """Send the data."""
        self._wire.write(data)

    def pause_reading(self) -> None:
        """Stop reading."""
        self._wire.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading."""
        self._wire.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the socket or its addresses."""
        return self._wire.get_extra_info(name, default)


class TimedH11Protocol(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's h11 protocol with timers; the server state is a `Connections`."""

    headers_s = HEADERS_S
    send_s = SEND_S
    linger_s = LINGER_S
    _wire: asyncio.Transport
    _timer: asyncio.TimerHandle | None = None  # for the client's next bytes
    _send_timer: asyncio.TimerHandle | None = None  # for the client's reading
    _unsent = 0  # bytes in the buffer at the last check
    _unwanted: int | None = None  # bytes still to be read and discarded; None: nothing is discarded
    _surplus = 0  # bytes of a body that arrived after its response

    @property
    def _state(self) -> Connections:
        return cast(Connections, self.server_state)

    @property
    def _answered(self) -> bool:
        """True if no request is under way."""
        cycle = cast(RequestResponseCycle | None, self.cycle)  # uvicorn's None has another's type
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the header timer, or refuse a connection above the limit."""
        self._wire = transport
        # then every byte not sent at once starts the timer
        transport.set_write_buffer_limits(high=0)
        super().connection_made(cast(asyncio.Transport, _Wire(transport, self._leave)))
        if self._state.make_room(self):
            self._look()
        else:
            self._refuse()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio names it
        """Return the buffer for the next bytes."""
        return self._state.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse the `nbytes` that arrived, or discard them."""
        if self._unwanted is not None:
            self._unwanted -= nbytes
            if self._unwanted <= 0:
                self._wire.close()
            return
        self._surplus = self._surplus + nbytes if self._answered_early() else 0
        if self._surplus > LINGER_BYTES:
            self._wire.close()
            return
        self.data_received(bytes(memoryview(self._state.buffer)[:nbytes]))
        self._look()

    def on_response_complete(self) -> None:
        """Restart the timers: the response is sent, the rest of the request is read for a while."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Start the send timer: the client reads more slowly than the server sends."""
        super().pause_writing()
        self._unsent = self._wire.get_write_buffer_size()
        self._state.stalled(self)
        self._send_timer = self.loop.call_later(self.send_s, self._check_sent)

    def resume_writing(self) -> None:
        """Stop the send timer: the client has read everything."""
        self._state.reads(self)
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers and drop the connection."""
        self._disarm()
        self._state.forget(self)
        super().connection_lost(exc)  # calls resume_writing

    def shutdown(self) -> None:
        """Close at once, or as soon as the current response is sent: the server ends."""
        if self._unwanted is None and not self._answered:
            super().shutdown()
        else:
            self._wire.close()

    def evict(self) -> None:
        """Close now, to make room for another connection."""
        if self._wire.get_write_buffer_size():
            self._wire.abort()  # a close would wait for the client to read
        else:
            self._wire.close()

    def _look(self) -> None:
        """Update the idle state and the timer after each change."""
        if self._wire.is_closing() or self._unwanted is not None:
            return
        if self._answered:
            self._state.idle(self)
        else:
            self._state.busy(self)
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            self._arm(self.headers_s, self._wire.close)
        elif self._answered_early():
            self._arm(self.linger_s, self._wire.close)
        else:
            self._disarm()

    def _answered_early(self) -> bool:
        """Return True if the input is the rest of a refused request; another may follow."""
        return self.conn.their_state is h11.SEND_BODY and self._answered

    def _check_sent(self) -> None:
        left, before = self._wire.get_write_buffer_size(), self._unsent
        if left >= before:
            self._wire.abort()  # a close would wait for its buffer
            return
        self._unsent = left
        self._state.reads(self)
        self._state.stalled(self)
        self._send_timer = self.loop.call_later(self.send_s, self._check_sent)

    def _refuse(self) -> None:
        """Send 503 for too many connections, without reading the request."""
        error = TooManyConnections("too many connections are open: try again shortly")
        answer = problem_response(error, path="", request_id=(own := secrets.token_hex(16)))
        answer.headers["connection"] = "close"
        answer.headers["x-request-id"] = own
        status = f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}"
        head = b"".join(b"%s: %s\r\n" % pair for pair in answer.raw_headers)
        self._wire.write(status.encode() + b"\r\n" + head + b"\r\n" + bytes(answer.body))
        self._linger()

    def _leave(self) -> None:
        """Close as soon as the client has its response."""
        self._disarm()
        more = self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or self.conn.trailing_data[0]
        if more and not self._wire.is_closing():
            self._linger()
        else:
            self._wire.close()

    def _linger(self) -> None:
        """Send no more and discard input for a while, so that the client can read its response."""
        self._unwanted = LINGER_BYTES
        self._state.idle(self)
        self._arm(self.linger_s, self._wire.close)
        try:
            self._wire.write_eof()
            self._wire.resume_reading()
        except OSError:  # the client has disconnected
            self._wire.abort()

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
