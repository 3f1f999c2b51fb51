"""Settings of the API process: where it listens, what it bounds, who may come in.

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
    """What one API process needs to know."""

    role_prefix: ClassVar[str] = "PRINTWORKS_API_"

    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="the port to listen on; 0: any free one")
    public_url: str | None = Field(
        None, description="how clients reach the service, for the URLs in answers; unset: as asked"
    )
    anonymous: Anonymous = Field(
        "on-loopback",
        description="whose jobs need no key. on-loopback: this machine's, where only it can reach"
        " the service; never: nobody's, as it must be behind a proxy; from-anywhere: of all who"
        " reach the service by an address, localhost, or a name in hosts. Keys, webhooks and the"
        " queue's control always need a key",
    )
    hosts: str = Field(
        "", description="names that callers without a key may ask for, with commas; from-anywhere"
    )
    max_body_bytes: int = Field(65_536, ge=1024, description="the largest request body")
    body_timeout_s: float = Field(10, gt=0, description="seconds a client has to send its body")
    max_input_bytes: int = Field(
        10_485_760, ge=1024, description="the largest picture to begin with, as a file"
    )
    max_input_pixels: int = Field(16_777_216, ge=64, description="the same, in pixels once decoded")
    input_ttl_s: int = Field(
        3_600, ge=60, description="seconds that a picture is kept which no job begins with"
    )
    max_queued: int = Field(10_000, ge=1, description="jobs the whole queue may hold")
    max_open_jobs: int = Field(
        1_000, ge=1, description="unfinished jobs one tenant may have, where its key says nothing"
    )
    max_wait_s: int = Field(
        55,
        ge=0,
        le=55,  # proxies and balancers cut what is silent for 60 s: the answer must be there before
        description="the longest wait of Prefer: wait=N",
    )
    max_connections: int | None = Field(
        None,
        ge=8,
        description="connections held at once; unset: what the limit of open files allows",
    )
    max_downloads: int = Field(
        256, ge=1, description="pictures sent at once, half of them to one tenant at most"
    )
    max_streams: int = Field(2_000, ge=1, description="event streams and waits held at once")
    max_tenant_streams: int = Field(200, ge=1, description="the same, of one tenant")
    blocked_prompts: Path | None = Field(
        None, description="file of words and phrases that no prompt may hold; unset: none"
    )
    cors_origins: str = Field(
        "", description="origins, separated by commas, whose pages may call the API in a browser"
    )
    grace_s: int = Field(20, ge=1, description="seconds that open requests have after SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least that is logged"
    )

    @property
    def larger_bodies(self) -> dict[str, int]:
        """Paths whose bodies may be larger, since pictures may be in them; in bytes."""
        file, rest = self.max_input_bytes, self.max_body_bytes
        # base64 makes four bytes of three; a mask, which is small, fits beside the image
        return {"/v1/inputs": file + rest, "/v1/jobs": file * 3 // 2 + rest}

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return _is_loopback(self.host)

    @property
    def key_needed(self) -> bool:
        """Whether a request without a key is refused."""
        if self.anonymous == "on-loopback":
            return not self.on_loopback
        return self.anonymous == "never"

    @property
    def names(self) -> tuple[str, ...]:
        """`hosts`, taken apart, and the name of `public_url`; in lower case."""
        own = urlsplit(self.public_url or "").hostname
        listed = (name.strip().lower() for name in self.hosts.split(","))
        return tuple(name for name in (own, *listed) if name)

    @property
    def origins(self) -> tuple[str, ...]:
        """`cors_origins`, taken apart."""
        return tuple(o.strip() for o in self.cors_origins.split(",") if o.strip())


@functools.cache  # asked at every request without a key
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
