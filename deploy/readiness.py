"""Readiness of the service as a whole, from its own /readyz, with the reasons if not ready.

Owns the waiting. Running processes are not enough: behind a proxy that cannot reach this machine
all processes ran, `up` reported success, and no image was ever stored. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from deploy.service import ServiceError

ANSWER_S = 5.0  # /readyz asks Redis and S3, and answers within about two
POLL_S = 0.2
READY_S = 60.0  # every process is up by then: a part still missing does not come by itself


class Patience:
    """A time limit for being not ready without a break: `within_s` seconds.

    `ignored`: parts that may be missing. /readyz is asked every `every_s` seconds at most.
    """

    def __init__(
        self,
        api_url: str,
        within_s: float = READY_S,
        *,
        ignored: Collection[str] = (),
        every_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api_url = api_url
        self._within_s = within_s
        self._ignored = ignored
        self._every_s = every_s
        self._clock = clock
        self._since_s: float | None = None
        self._next_s = clock()
        self._missing = ""

    def look(self) -> str:
        """Return the reasons in words; empty: ready. Raises ServiceError after the time limit."""
        now_s = self._clock()
        if now_s >= self._next_s:
            self._next_s = now_s + self._every_s
            found = {p: why for p, why in reasons(self._api_url).items() if p not in self._ignored}
            self._missing = "; ".join(f"{part}: {why}" for part, why in found.items())
            since_s = now_s if self._since_s is None else self._since_s
            self._since_s = since_s if found else None
        if self._since_s is not None and now_s - self._since_s > self._within_s:
            raise ServiceError(
                f"Printworks is not ready after {self._within_s:g} s: {self._missing}"
            )
        return self._missing


def wait_ready(
    api_url: str, *, meanwhile: Callable[[str], bool], within_s: float = READY_S
) -> bool:
    """Wait until /readyz is 200; return False as soon as `meanwhile(reasons)` returns False.

    Raises ServiceError, with the reasons that /readyz gives, after `within_s` seconds.
    """
    patience = Patience(api_url, within_s)
    while missing := patience.look():
        if not meanwhile(missing):
            return False
        time.sleep(POLL_S)  # noqa: TID251 - no signal tells when the service is ready
    return True


def reasons(api_url: str) -> dict[str, str]:
    """Return the reasons of /readyz for being not ready, by part; empty: ready."""
    parts = urlsplit(api_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        if answer.status == HTTPStatus.OK:
            return {}
        said: Any = json.loads(answer.read())
        return dict(said["reasons"]) or {"api": f"it answers {answer.status}"}
    except (OSError, http.client.HTTPException) as error:
        return {"api": f"it does not answer: {type(error).__name__}"}
    except (ValueError, KeyError, TypeError):
        return {"api": "it answers something else than its own /readyz"}
    finally:
        connection.close()
