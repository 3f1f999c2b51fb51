"""SSRF guard of webhooks: rules for URLs and for the addresses behind their hosts.

Owns `EgressRules` (the operator's rules), the parser of URLs and the check of DNS answers. The API
checks at registration, the courier at every attempt. Invariant: one parser decides, and the socket
gets a checked address, never a name; no message names the address behind a host.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from jobs.errors import SettingsError, TargetRefused
from jobs.settings import RoleSettings
from jobs.webhooks.addresses import Address, Network, address_of, network_of, permitted

MAX_URL = 2048
DNS_TIMEOUT_S = 2.0
DEFAULT_PORTS = {"https": 443, "http": 80}
# Only what every URL parser reads alike: \ and control characters are where they differ.
_PLAIN = re.compile(r"[!-\[\]-~]+")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRules:
    """The operator's rules for webhooks: schemes, ports, inner networks that are allowed."""

    schemes: frozenset[str] = frozenset({"https"})
    ports: tuple[range, ...] = (range(443, 444), range(8443, 8444))
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, settings: RoleSettings) -> Self:
        """Read the rules from the settings. Raises SettingsError."""
        schemes = frozenset(_words(settings.webhook_schemes))
        if not schemes or not schemes <= set(DEFAULT_PORTS):
            raise SettingsError("PRINTWORKS_WEBHOOK_SCHEMES must be https, or https,http")
        try:
            return cls(
                schemes=schemes,
                ports=tuple(_ports(p) for p in _words(settings.webhook_ports)),
                networks=tuple(network_of(n) for n in _words(settings.webhook_networks)),
            )
        except ValueError as error:
            raise SettingsError(f"PRINTWORKS_WEBHOOK_PORTS or _NETWORKS: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parsed webhook URL. `host` is lower case; an IPv6 literal is without brackets."""

    scheme: str
    host: str
    port: int
    path: str  # with the query; never empty

    @property
    def origin(self) -> str:
        """Scheme, host and port; a per-job URL shares its origin with a registered endpoint."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """The Host header, with the port only if the port is not the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def target_of(url: str, egress: EgressRules) -> Target:
    """Parse a webhook URL and check its form. Raises TargetRefused; asks no DNS."""
    if len(url) > MAX_URL or not _PLAIN.fullmatch(url):
        raise TargetRefused(f"a webhook URL is at most {MAX_URL} plain ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise TargetRefused("this is not a URL") from None
    if parts.scheme not in egress.schemes:
        raise TargetRefused(f"a webhook URL starts with {' or '.join(sorted(egress.schemes))}://")
    if "@" in parts.netloc or "#" in url:
        raise TargetRefused("a webhook URL has no user, password or fragment")
    host = (parts.hostname or "").removesuffix(".")
    port = DEFAULT_PORTS[parts.scheme] if port is None else port
    if not any(port in some for some in egress.ports):
        listed = ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in egress.ports)
        raise TargetRefused(f"a webhook URL's port is one of {listed}")
    _check_host(host, egress)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme=parts.scheme, host=host, port=port, path=path)


def _check_host(host: str, egress: EgressRules) -> None:
    address = address_of(host)
    if address is not None:
        _judge([address], egress)
        return
    labels = host.split(".")
    # A last label of digits is a number in disguise (127.1, 0x7f.1, 2130706433) to getaddrinfo.
    numeric = labels[-1][:1].isdigit()
    if len(host) > 253 or numeric or not all(_LABEL.fullmatch(label) for label in labels):
        raise TargetRefused("a webhook URL's host is a name, or an address in its usual form")


async def permitted_addresses(
    target_host: str, port: int, egress: EgressRules, resolve: Resolve
) -> list[str]:
    """Return the checked addresses of a host, to connect to directly. Raises TargetRefused.

    One forbidden answer refuses the host: a name with a public and an inner address is an attack,
    or a mistake that would sometimes be one.
    """
    literal = address_of(target_host)
    if literal is not None:
        return [str(a) for a in _judge([literal], egress)]
    try:
        async with asyncio.timeout(DNS_TIMEOUT_S):
            answers = await resolve(target_host, port)
    except (OSError, TimeoutError):
        answers = []
    return [str(a) for a in _judge([address_of(text) for text in answers], egress)]


def _judge(addresses: Sequence[Address | None], egress: EgressRules) -> list[Address]:
    """Return all `addresses`, or raise TargetRefused, alike for no, odd and inner answers."""
    good = [a for a in addresses if a and permitted(a, egress.networks) and not _own(a, egress)]
    if not good or len(good) != len(addresses):
        raise TargetRefused("the host of this webhook URL is not one that may be called")
    return good


def _own(address: Address, egress: EgressRules) -> bool:
    """Return True if `address` is this machine's own, even a public one.

    To reach one of its own addresses the kernel chooses that same address to send from; a UDP
    socket's connect asks the kernel and sends nothing.
    """
    if any(address.version == n.version and address in n for n in egress.networks):
        return False
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return bool(probe.getsockname()[0] == str(address))
    except OSError:
        return False  # no route: the connection itself will fail


def resolver(executor: Executor | None = None) -> Resolve:
    """Return the system's resolver. `executor`: threads, since getaddrinfo blocks without limit."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, _getaddrinfo, host, port)

    return resolve


def _getaddrinfo(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def _ports(word: str) -> range:
    """Parse a port or range: `443` or `8000-8999`. Raises ValueError."""
    first, _, last = word.partition("-")
    ports = range(int(first), int(last or first) + 1)
    if not ports or ports[0] < 1 or ports[-1] > 65_535:
        raise ValueError(f"{word!r} is not a port or range of ports; write 443 or 8000-8999")
    return ports


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]
