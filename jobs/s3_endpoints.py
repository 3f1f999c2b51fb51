"""S3 endpoints of the settings: checks, addressing style, loopback.

Owns the rules of addresses: an endpoint's form, its addressing style, and the test for this
machine's own. Knows no boto3 and no network. Invariant: an endpoint that can never work is refused
when the settings are read, in words that say what to do.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Literal
from urllib.parse import SplitResult, urlsplit

Style = Literal["path", "virtual"]
Addressing = Literal["auto", "path", "virtual"]

# Stores that refuse path style for new buckets: Alibaba OSS (SecondLevelDomainForbidden), Tencent
# COS (PathStyleDomainForbidden), Huawei OBS (VirtualHostDomainRequired).
VIRTUAL_ONLY = (".aliyuncs.com", ".myqcloud.com", ".myhuaweicloud.com")
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)
_LABELS = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_UNSEEN = re.compile(r"[\x00-\x20\x7f]")


def checked_endpoint(url: str, *, for_clients: bool = False) -> str:
    """Return the endpoint without a last slash. Raises ValueError where it can never work.

    `for_clients`: presigned URLs are made for it. A path is refused then: the store would have to
    know what a proxy cuts off, since SigV4 signs the path as the client sends it.
    """
    parts = _parts(url)
    path = parts.path.rstrip("/")
    if for_clients and path:
        raise ValueError(
            f"remove the path {path!r}: a presigned URL is signed with its path, so that a "
            "store behind a prefix refuses it (SignatureDoesNotMatch); give the store a host or a "
            "port of its own, and have proxies pass the Host header on"
        )
    return f"{parts.scheme}://{parts.netloc}{path}"


def addressing_of(setting: Addressing, endpoint: str | None, bucket: str) -> Style:
    """Return the style for a bucket of this endpoint; None: AWS's own.

    boto3's own `auto` is not used: with it URLs are signed for AWS's global host, which sends
    clients of other regions on to where the signature does not fit.
    """
    if setting != "auto":
        return setting
    if endpoint is None:
        return "virtual" if _LABEL.fullmatch(bucket) else "path"
    return "virtual" if _host(endpoint).endswith(VIRTUAL_ONLY) else "path"


def check_bucket(bucket: str, setting: Addressing, endpoint: str | None) -> None:
    """Raise ValueError where the bucket cannot be a part of the endpoint's host name, and must."""
    if addressing_of(setting, endpoint, bucket) != "virtual":
        return
    tls = endpoint is None or urlsplit(endpoint).scheme == "https"
    if tls and "." in bucket:
        raise ValueError(
            f"virtual-hosted style over TLS cannot reach the bucket {bucket!r}: a store's "
            "certificate covers one name before its own, and this has dots; take a bucket "
            "without dots, or `path`"
        )
    if not (_LABEL if tls else _LABELS).fullmatch(bucket):
        raise ValueError(
            f"virtual-hosted style makes a host name of the bucket, and {bucket!r} cannot be one: "
            "lower case, digits and hyphens, 3 to 63 of them; or take `path`"
        )
    if endpoint is not None and _address(_host(endpoint)) is not None:
        raise ValueError(
            "virtual-hosted style puts the bucket before the endpoint's host name, and this one is "
            "an IP address: name the host, or take `path`"
        )


def is_loopback(endpoint: str) -> bool:
    """Return whether the endpoint is on this machine: an inherited HTTP proxy cannot reach it."""
    host = _host(endpoint)
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 6.3
        return True
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    # 0.0.0.0 and ::, as a client's target, are this machine as well
    return address is not None and (address.is_loopback or address.is_unspecified)


def _parts(url: str) -> SplitResult:
    """Parse a server's URL. Raises ValueError if `url` is no address of a server."""
    if _UNSEEN.search(url):
        raise ValueError("a space or a control character cannot be in a URL")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no URL of a server: write http://host:port or https://host")
    if parts.username is not None:
        raise ValueError(
            "no user or password belongs in the URL: set the access key and secret key"
        )
    if parts.query or parts.fragment:
        raise ValueError("nothing may follow the path: no `?`, no `#`")
    if parts.port == 0:  # the property itself raises ValueError above 65535
        raise ValueError("port 0 is no port")
    return parts


def _host(endpoint: str) -> str:
    return (urlsplit(endpoint).hostname or "").rstrip(".")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse a host as an IP address, also in inet_aton's short forms (127.1); None: a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
