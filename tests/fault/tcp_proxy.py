"""A TCP proxy that loses what it is told to lose.

"ok" passes everything; "hole" lets nothing through; "deaf" passes requests and swallows the
answers; "reset" ends every connection, and each new one, with RST.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress


class TcpProxy:
    """One listening port before one server; `mode` may be changed at any time."""

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        self.mode = "ok"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.pairs: set[tuple[socket.socket, socket.socket]] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: str) -> None:
        self.mode = mode
        if mode == "reset":
            for pair in list(self.pairs):
                self._reset(pair)

    def close(self) -> None:
        self.set("reset")
        self.listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                try:
                    server = socket.create_connection(self.upstream)
                except OSError:  # it was killed; it may come back
                    client.close()
                    continue
                pair = (client, server)
                self.pairs.add(pair)
                if self.mode == "reset":
                    self._reset(pair)
                else:
                    threading.Thread(target=self._pump, args=(pair,), daemon=True).start()

    def _pump(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        with suppress(OSError, ValueError):
            while True:
                ready, _, _ = select.select(pair, [], [], 1)
                for end in ready:
                    data = end.recv(65536)
                    if not data:
                        return self._reset(pair)
                    answer = end is server
                    if self.mode == "ok" or (self.mode == "deaf" and not answer):
                        (client if answer else server).sendall(data)
        return self._reset(pair)

    def _reset(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self.pairs.discard(pair)
        for end in pair:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
