"""HTTP/1.1 whose clients cannot hold a connection: timers, small reads, an end that is heard.

Owns what uvicorn's protocol lacks, a connection at a time. Must not know routes. Invariants:
- A connection without a whole request is closed HEADERS_S after it began to send one (uvicorn kept
  it for ever), and one whose client reads nothing of its answer for SEND_S.
- What arrives is parsed READ_BYTES at a time, so that others have their turn in between.
- A refusal is heard: a socket that is closed on unread bytes resets, and the client of a body that
  was too large saw a reset instead of its 413 (10 of 10 times at 30 MB). So the rest is read for a
  while before it is closed (RFC 9112 9.6).
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
SEND_S = 20.0  # a client on a bad line reads something in that time
LINGER_S = 10.0
LINGER_BYTES = 64 * 1024 * 1024  # the most that is read of a body which nobody wants


class _Wire(asyncio.Transport):
    """A transport whose `close` is the protocol's to do."""

    def __init__(self, wire: asyncio.Transport, leave: Callable[[], None]) -> None:
        super().__init__()
        self._wire = wire
        self._leave = leave
        self._left = False

    def close(self) -> None:
        """Have the protocol close it, once."""
        if not self._left:
            self._left = True
            self._leave()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._left or self._wire.is_closing()

    def write(self, data: Any) -> None:
        """Send."""
        self._wire.write(data)

    def pause_reading(self) -> None:
        """Stop reading."""
        self._wire.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._wire.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The socket and its addresses."""
        return self._wire.get_extra_info(name, default)


class TimedH11Protocol(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's own, with those timers; its server's state is a `Connections`."""

    headers_s = HEADERS_S
    send_s = SEND_S
    linger_s = LINGER_S
    _wire: asyncio.Transport
    _timer: asyncio.TimerHandle | None = None  # for what the client is to send
    _send_timer: asyncio.TimerHandle | None = None  # for what it is to read
    _unsent = 0  # bytes in the buffer at the last look
    _unwanted: int | None = None  # bytes that may still come and are not looked at; None: all are
    _surplus = 0  # bytes that came of a body after its answer

    @property
    def _state(self) -> Connections:
        return cast(Connections, self.server_state)

    @property
    def _answered(self) -> bool:
        """Whether no request is under way."""
        cycle = cast(RequestResponseCycle | None, self.cycle)  # uvicorn's None has another's type
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first headers are due; or it is one too many."""
        self._wire = transport
        transport.set_write_buffer_limits(high=0)  # then whatever is not sent at once is watched
        super().connection_made(cast(asyncio.Transport, _Wire(transport, self._leave)))
        if self._state.make_room(self):
            self._look()
        else:
            self._refuse()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio names it
        """Where the next bytes go."""
        return self._state.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""
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
        """The answer is sent; what is left of the request is read on for a while."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """The client does not read as fast as we send."""
        super().pause_writing()
        self._unsent = self._wire.get_write_buffer_size()
        self._state.stalled(self)
        self._send_timer = self.loop.call_later(self.send_s, self._check_sent)

    def resume_writing(self) -> None:
        """It has read it all."""
        self._state.reads(self)
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._disarm()
        self._state.forget(self)
        super().connection_lost(exc)  # calls resume_writing

    def shutdown(self) -> None:
        """The server ends: closed at once, or when the answer under way is sent."""
        if self._unwanted is None and not self._answered:
            super().shutdown()
        else:
            self._wire.close()

    def evict(self) -> None:
        """Make room for another's."""
        if self._wire.get_write_buffer_size():
            self._wire.abort()  # a close would wait for what the client does not read
        else:
            self._wire.close()

    def _look(self) -> None:
        """Whether a request is under way, and whether something of the client is due."""
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
        """Whether what comes is the rest of a request that was refused; another may follow it."""
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
        """Say that there are too many, without having read what it wants."""
        error = TooManyConnections("as many connections are open as may be: try again")
        answer = problem_response(error, path="", request_id=(own := secrets.token_hex(16)))
        answer.headers["connection"] = "close"
        answer.headers["x-request-id"] = own
        status = f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}"
        head = b"".join(b"%s: %s\r\n" % pair for pair in answer.raw_headers)
        self._wire.write(status.encode() + b"\r\n" + head + b"\r\n" + bytes(answer.body))
        self._linger()

    def _leave(self) -> None:
        """Close as soon as the client has its answer."""
        self._disarm()
        more = self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or self.conn.trailing_data[0]
        if more and not self._wire.is_closing():
            self._linger()
        else:
            self._wire.close()

    def _linger(self) -> None:
        """Send no more, and read on what nobody wants: an answer that was sent can be read then."""
        self._unwanted = LINGER_BYTES
        self._state.idle(self)
        self._arm(self.linger_s, self._wire.close)
        try:
            self._wire.write_eof()
            self._wire.resume_reading()
        except OSError:  # the client has gone
            self._wire.abort()

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
