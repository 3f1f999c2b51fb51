"""IP addresses that a webhook may reach: the public internet, and networks an operator lists.

Owns the table of special-purpose ranges (IANA's registries after RFC 6890, and clouds' internal
addresses). Numeric addresses only; names are resolved elsewhere and every answer is checked here.
Invariant: an address not known to be public is refused; an address within another is checked as
the inner one.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# An IPv4 address is public unless listed.
NOT_PUBLIC_V4 = tuple(
    IPv4Network(cidr)
    for cidr in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' NAT; clouds put metadata here too (100.100.100.200)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host agent: a public number that is answered inside
        "169.254.0.0/16",  # link local, and the metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocols; Oracle's metadata is 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# An IPv6 address is public if global unicast, less the special ranges within.
PUBLIC_V6 = IPv6Network("2000::/3")
NOT_PUBLIC_V6 = tuple(
    IPv6Network(cidr)
    for cidr in (
        "2001::/23",  # IETF protocols: Teredo, benchmarks, ORCHID, AMT ...
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries an IPv4 address, and no receiver of today lives there
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)


def public(address: Address) -> bool:
    """Return True if `address` is on the public internet."""
    inner = _inner(address)
    if isinstance(inner, IPv4Address):
        return not any(inner in network for network in NOT_PUBLIC_V4)
    return inner in PUBLIC_V6 and not any(inner in network for network in NOT_PUBLIC_V6)


def permitted(address: Address, also: Sequence[Network] = ()) -> bool:
    """Return True if a webhook may go to `address`: public, or in a network of `also`."""
    inner = _inner(address)
    listed = any(inner.version == n.version and inner in n for n in also)
    return listed or public(inner)


def _inner(address: Address) -> Address:
    """Unwrap ::ffff:10.0.0.1 to 10.0.0.1: the kernel connects there by IPv4."""
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address


def address_of(text: str) -> Address | None:
    """Parse an address; None: not in the usual form (a name, octal, hex, short)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # fe80::1%eth0 would name an interface of ours
    return None if isinstance(address, IPv6Address) and address.scope_id else address


def network_of(text: str) -> Network:
    """Parse a network in CIDR form. Raises ValueError."""
    return ip_network(text, strict=True)
