"""SSRF guard of outgoing connections: TCP to permitted addresses only.

Owns the network backend that every attempt uses. Invariant: a connection goes to one of the numeric
addresses checked just before, without a second DNS look-up (which DNS rebinding exploits), and TLS
and the Host header still name the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn, cast

import httpcore2

from jobs.errors import TargetRefused
from jobs.webhooks.ssrf_guard import EgressRules, Resolve, permitted_addresses

MOST_ADDRESSES = (
    4  # tried in turn; a name with a hundred addresses must not cause a hundred connects
)


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Network backend that resolves a host, checks every address, connects by IP address."""

    def __init__(self, egress: EgressRules, resolve: Resolve) -> None:
        self._egress = egress
        self._resolve = resolve
        self._tcp = cast(httpcore2.AsyncNetworkBackend, httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's own signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to `host`. Raises TargetRefused, or httpcore2's own errors."""
        addresses = await permitted_addresses(host, port, self._egress, self._resolve)
        failure: Exception = TargetRefused("no address")
        for address in addresses[:MOST_ADDRESSES]:
            try:
                return await self._tcp.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a webhook goes over the network. Raises TargetRefused."""
        raise TargetRefused("webhooks do not go to sockets of this machine")

    async def sleep(self, seconds: float) -> None:
        """Sleep; httpcore2 calls this only between its own retries, which are off."""
        await self._tcp.sleep(seconds)
