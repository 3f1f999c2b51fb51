"""Rules for requests without an API key, and for web pages of other origins.

Owns every rule about them, in one place, for every route: no proxy in front, a host name of this
machine, no page of another origin (nor with a key, if the browser says so). Must not know
routes, keys or Redis. Invariant: nothing that a keyless caller does outlives its access: it
creates no key, registers no webhook, operates no queue.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Collection, Mapping

from starlette.requests import Request

from api.edge.request_edge import SAFE_METHODS
from api.errors import HostNotAllowed, OriginNotAllowed, Unauthorized
from api.settings import Anonymous, ApiSettings
from jobs.store.api_keys import Scope

TENANT = "default"  # of those who need no key
# Most proxies add headers that show them, but nginx with nothing besides `proxy_pass` adds no
# header and rewrites Host to ours: then a remote caller looks local. So no more than these scopes.
SCOPES: Mapping[Anonymous, frozenset[Scope]] = {
    "on-loopback": frozenset({Scope.JOBS_READ, Scope.JOBS_WRITE, Scope.METRICS}),
    "from-anywhere": frozenset({Scope.JOBS_READ, Scope.JOBS_WRITE}),
    "never": frozenset(),
}
# Headers that proxies, load balancers, tunnels and CDNs add, and no client by itself.
PROXY_PREFIXES = (
    b"x-forwarded",  # -For, -Host, -Proto, -Prefix, -Server ...: nearly all
    b"x-original-",  # IIS, Envoy, nginx's ingress for Kubernetes
    b"x-envoy-",
    b"x-arr-",  # IIS
    b"cf-",  # Cloudflare and its tunnels
    b"fastly-",
    b"fly-",
    b"x-azure-",
    b"x-appengine-",
    b"tailscale-",
)
PROXY_HEADERS = frozenset(
    {
        b"forwarded",  # RFC 7239
        b"via",  # RFC 9110 7.6.3
        b"x-real-ip",
        b"x-real-port",
        b"true-client-ip",
        b"client-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-remote-ip",
        b"x-remote-addr",
        b"proxy-client-ip",
        b"wl-proxy-client-ip",
        b"proxy-connection",
        b"x-proxyuser-ip",
        b"x-host",
        b"x-rewrite-url",
        b"x-varnish",
        b"cdn-loop",  # RFC 8586
        b"surrogate-capability",
    }
)
MAX_HOST = 255  # RFC 1035 2.3.4
FOREIGN_PAGE = (
    "a web page of another origin may only read: to allow it, list its origin in"
    " PRINTWORKS_API_CORS_ORIGINS"
)
LOOPBACK = "localhost or a loopback address, such as 127.0.0.1"
SEND_A_KEY = (
    "send a key, Authorization: Bearer pw_...; `python -m api keys create` on the server makes one,"
    " `deploy up` prints one (docs/proxy.md)"
)


def check(request: Request, settings: ApiSettings) -> None:
    """Refuse a request without a key that may not come from this machine's own user.

    Raises Unauthorized (came through a proxy), HostNotAllowed, OriginNotAllowed.
    """
    _check_direct(request)
    host = request.headers.get("host", "").lower()
    check_host(host, settings)
    _check_origin(request, host, settings.origins)


def refused_scope(scope: Scope) -> Unauthorized:
    """Return the error for a keyless caller at a route that always needs a key."""
    return Unauthorized(
        f"this needs a key with the scope {scope.value}: Authorization: Bearer pw_...; `python -m"
        f" api keys create --scope {scope.value}` on the server makes one, `deploy up` prints one"
    )


def _check_direct(request: Request) -> None:
    """Refuse a request that came through a proxy: its caller may be anybody, not this machine."""
    for name, _ in request.scope["headers"]:
        if name in PROXY_HEADERS or name.startswith(PROXY_PREFIXES):
            raise Unauthorized(
                f"the request came through a proxy, as its headers show: {SEND_A_KEY}"
            )
    if request.scope["http_version"] == "1.0":
        # the default of nginx before 1.29.7 for its upstream; clients do not use it
        raise Unauthorized(f"the request is HTTP/1.0, as from an nginx proxy: {SEND_A_KEY}")


def check_host(host: str, settings: ApiSettings) -> None:
    """Refuse host names that are not this machine's. `host`: the Host header, in lower case.

    A page in a browser here can have its own name point to 127.0.0.1 (DNS rebinding); the Host
    header still says that name. With keys an attacker gains nothing; without, this check is needed.
    With anonymous=from-anywhere any IP address passes: a page cannot choose it.
    """
    anywhere = settings.anonymous == "from-anywhere"
    names = settings.names if anywhere else ()
    if len(host) > MAX_HOST or not _answered_to(host, addresses=anywhere, names=names):
        these = "an address, localhost or a name in PRINTWORKS_API_HOSTS" if anywhere else LOOPBACK
        raise HostNotAllowed(f"without a key use {these}; under another name {SEND_A_KEY}")


@functools.lru_cache(maxsize=256)
def _answered_to(host: str, *, addresses: bool, names: tuple[str, ...]) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name == "localhost" or name.endswith(".localhost") or name in names:
        return True
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return addresses or address.is_loopback


def check_page(request: Request, listed: Collection[str]) -> None:
    """Refuse unsafe requests of a page of another origin, with a key or without.

    A key in the hands of a page of today's browsers is its own only if CORS let it send one; one
    that a proxy adds for all its visitors goes with what any page of theirs sends unasked.
    `listed`: origins whose pages may. Sec-Fetch-Site comes with requests to https and localhost.
    """
    if request.method in SAFE_METHODS or request.headers.get("origin") in listed:
        return
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise OriginNotAllowed(FOREIGN_PAGE)


def _check_origin(request: Request, host: str, listed: Collection[str]) -> None:
    """Refuse the same requests by Origin, which every browser sends with an unsafe method.

    Only without a key: then `host` is as the browser said it, and no proxy has rewritten it. What
    is no browser sends neither header.
    """
    check_page(request, listed)
    origin = request.headers.get("origin")
    own = origin is None or origin in listed or origin.lower().partition("://")[2] == host
    if request.method not in SAFE_METHODS and not own:
        raise OriginNotAllowed(FOREIGN_PAGE)
