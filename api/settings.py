"""Settings of the API process: address, limits, access.

Owns the variables that start with PRINTWORKS_API_. Read once, in `api/__main__.py`, and passed
down; nothing else in `api/` looks at the environment.
"""

from __future__ import annotations

import functools
import ipaddress
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from jobs.settings import RoleSettings

Anonymous = Literal["on-loopback", "never", "from-anywhere"]


class ApiSettings(RoleSettings):
    """Settings of one API process, from PRINTWORKS_API_* variables."""

    role_prefix: ClassVar[str] = "PRINTWORKS_API_"

    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="the port to listen on; 0: any free one")
    public_url: str | None = Field(
        None, description="base URL for the URLs in responses; unset: the request's own"
    )
    anonymous: Anonymous = Field(
        "on-loopback",
        description="callers that need no key for jobs. on-loopback: this machine, if the service"
        " listens on loopback only; never: nobody, required behind a proxy; from-anywhere: everyone"
        " who uses an address, localhost or a name in hosts. API keys, webhooks and queue control"
        " always need a key",
    )
    hosts: str = Field(
        "",
        description="host names that callers without a key may use, separated by commas; for"
        " anonymous=from-anywhere",
    )
    max_body_bytes: int = Field(65_536, ge=1024, description="largest request body, in bytes")
    body_timeout_s: float = Field(10, gt=0, description="seconds a client has to send its body")
    max_input_bytes: int = Field(
        10_485_760, ge=1024, description="largest input image file, in bytes"
    )
    max_input_pixels: int = Field(16_777_216, ge=64, description="largest input image, in pixels")
    input_ttl_s: int = Field(
        3_600, ge=60, description="seconds an uploaded image is kept if no job uses it"
    )
    max_queued: int = Field(10_000, ge=1, description="largest number of jobs in the queue")
    max_open_jobs: int = Field(
        1_000, ge=1, description="unfinished jobs per tenant, unless its key has a limit of its own"
    )
    max_wait_s: int = Field(
        55,
        ge=0,
        le=55,  # proxies and load balancers close what is silent for 60 s: answer before that
        description="longest wait of Prefer: wait=N, in seconds",
    )
    max_connections: int | None = Field(
        None,
        ge=8,
        description="open connections at once; unset: as the limit of open files allows",
    )
    max_downloads: int = Field(
        256, ge=1, description="image downloads at once; one tenant gets half of them at most"
    )
    max_streams: int = Field(2_000, ge=1, description="open event streams and waits at once")
    max_tenant_streams: int = Field(
        200, ge=1, description="open event streams and waits per tenant"
    )
    blocked_prompts: Path | None = Field(
        None, description="file of blocked words and phrases, refused in prompts; unset: none"
    )
    dialects: str = Field(
        "all",
        description="APIs of other image services that are served beside our own, separated by"
        " commas; `all`: every one; empty: none",
    )
    cors_origins: str = Field(
        "", description="origins whose web pages may call the API, separated by commas"
    )
    grace_s: int = Field(20, ge=1, description="seconds that open requests may take after SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged"
    )

    @property
    def larger_bodies(self) -> dict[str, int]:
        """Body limits, in bytes, of the paths that take images."""
        file, rest = self.max_input_bytes, self.max_body_bytes
        return {"/v1/inputs": file + rest, "/v1/jobs": self.image_json_bytes}

    @property
    def image_json_bytes(self) -> int:
        """Largest JSON body that holds images, in bytes."""
        # base64 makes four bytes of three; a mask, which is small, fits beside the image
        return self.max_input_bytes * 3 // 2 + self.max_body_bytes

    @property
    def on_loopback(self) -> bool:
        """True if only this machine can reach the service."""
        return _is_loopback(self.host)

    @property
    def key_needed(self) -> bool:
        """True if a request without a key is refused."""
        if self.anonymous == "on-loopback":
            return not self.on_loopback
        return self.anonymous == "never"

    @property
    def names(self) -> tuple[str, ...]:
        """Host names of `hosts` and `public_url`, in lower case."""
        own = urlsplit(self.public_url or "").hostname
        listed = (name.strip().lower() for name in self.hosts.split(","))
        return tuple(name for name in (own, *listed) if name)

    @property
    def origins(self) -> tuple[str, ...]:
        """Origins listed in `cors_origins`."""
        return tuple(o.strip() for o in self.cors_origins.split(",") if o.strip())


@functools.cache  # called at every request without a key
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
